// What people see of an epoch: Keras' logs.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "host/cluster/records.h"
#include "host/job/callbacks.h"
#include "host/job/job.h"
#include "host/job/metric_table.h"

namespace lockstep {

class EpochLogTable {
 public:
  explicit EpochLogTable(const Job& job);

  // "loss", "val_loss", …: what was measured.
  EpochLogs logs(const EpochDone& done) const;
  // The same of epochs[i], with "learning_rate" where a callback sets it, as in Keras' history.
  EpochLogs logs(const std::vector<EpochRecord>& epochs, size_t i) const;

 private:
  const Job job_;
  const MetricTable metrics_;
  bool shows_rate_ = false;
  double first_rate_ = 0;
};

// "epoch,accuracy,loss,val_accuracy,val_loss" and a line an epoch, as Keras' CSVLogger writes it:
// NA for what was not measured.
std::string history_csv(const std::vector<EpochLogs>& epochs, const std::string& separator);

}  // namespace lockstep
