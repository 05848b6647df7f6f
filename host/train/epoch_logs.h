// What people see of an epoch: Keras' logs.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "host/cluster/records.h"
#include "host/job/callbacks.h"
#include "host/job/job.h"
#include "host/job/metric_table.h"

namespace lockstep {

class EpochLogTable {
 public:
  // `decided_outside`: others than the job's callbacks may set the learning rate.
  explicit EpochLogTable(const Job& job, bool decided_outside = false);

  // "loss", "val_loss", …: what was measured.
  EpochLogs logs(const EpochDone& done) const;
  // The same of epochs[i], with "learning_rate" where somebody sets it, as in Keras' history.
  EpochLogs logs(const std::vector<EpochRecord>& epochs, size_t i) const;
  // What the job's callbacks set before the first epoch, if they do.
  std::optional<double> first_set_rate() const { return first_set_rate_; }

 private:
  const Job job_;
  const MetricTable metrics_;
  bool shows_rate_ = false;
  double own_rate_ = 0;  // the optimizer's
  std::optional<double> first_set_rate_;
};

// "epoch,accuracy,loss,val_accuracy,val_loss" and a line an epoch, as Keras' CSVLogger writes it:
// NA for what was not measured.
std::string history_csv(const std::vector<EpochLogs>& epochs, const std::string& separator);

}  // namespace lockstep
