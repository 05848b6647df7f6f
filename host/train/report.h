// What a job leaves behind: the report, the history and the ledger, gathered from what happens.
#pragma once

#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "host/cluster/coordinator.h"
#include "host/job/job.h"

namespace lockstep {

class JobReport {
 public:
  JobReport(Job job, bool keep_ledger) : job_(std::move(job)), keep_ledger_(keep_ledger) {}

  void observe(const CoordinatorAction& action);
  // The end: "completed", "halted" or "failed".
  void finish(const std::string& status, const std::string& stop_reason,
              const std::string& weights_sha256, double seconds);

  nlohmann::json json() const;
  // "epoch,accuracy,loss,val_accuracy,val_loss", as Keras' CSVLogger writes it.
  std::string history_csv() const;
  // One JSON line a (step, partition), in order.
  std::string ledger() const;
  const std::map<std::string, std::vector<double>>& history() const { return history_; }
  int64_t samples_consumed() const { return samples_consumed_; }

 private:
  void consumed(const SamplesConsumed& samples);
  void epoch_done(const EpochDone& epoch);

  struct NodeEntry {
    std::string name, device, left_why;
    int devices = 0;
    int64_t steps = 0;
    int64_t partition_steps = 0;
    PartitionRange partitions;
  };

  const Job job_;
  const bool keep_ledger_;
  std::map<SessionId, NodeEntry> nodes_;
  std::map<std::string, std::vector<double>> history_;
  // Rows of each partition of the steps that are not complete yet, by step.
  std::map<int64_t, std::set<int>> open_steps_;
  std::map<std::pair<int64_t, int>, std::vector<int64_t>> ledger_;
  int64_t samples_consumed_ = 0;
  int64_t steps_ = 0;
  int64_t epochs_ = 0;
  std::string status_, stop_reason_, weights_sha256_;
  double seconds_ = 0;
};

}  // namespace lockstep
