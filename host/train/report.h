// What a job leaves behind: the report, the history and the ledger, gathered from what happens.
#pragma once

#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "host/cluster/coordinator.h"
#include "host/cluster/records.h"
#include "host/job/job.h"
#include "host/train/epoch_logs.h"
#include "host/train/ledger.h"

namespace lockstep {

class JobReport {
 public:
  // `decided_outside`: as EpochLogTable's.
  JobReport(const Job& job, bool keep_ledger, bool decided_outside = false)
      : job_(job), log_table_(job, decided_outside) {
    if (keep_ledger) ledger_.emplace(job);
  }

  // The job goes on from what a coordinator of before left behind. Call first.
  void resume(const RecoveredJob& recovered);
  void observe(const CoordinatorAction& action);
  // The end: "completed", "halted" or "failed". No reason: what decided that training is over.
  void finish(const std::string& status, const std::string& stop_reason,
              const std::string& weights_sha256, double seconds);

  nlohmann::json json() const;
  // One for each epoch that is decided.
  const std::vector<EpochLogs>& epoch_logs() const { return logs_; }
  Ledger* ledger() { return ledger_ ? &*ledger_ : nullptr; }  // null: none is kept
  // As Keras' History has it: what some epochs do not measure has fewer values.
  std::map<std::string, std::vector<double>> history() const;
  // Whether the job's weights, if it ends now, are those of an epoch that a callback names.
  bool restores_best() const {
    return !epochs_.empty() && epochs_.back().decision.best.has_value();
  }
  // That was set for the steps after so many epochs; none: it was not, or the epochs are not
  // decided yet.
  std::optional<double> learning_rate_after(int64_t epochs) const;
  int64_t decided_epochs() const { return std::ssize(epochs_); }
  int64_t samples_consumed() const { return samples_consumed_; }
  int64_t steps() const { return steps_; }

 private:
  struct NodeEntry {
    std::string name, device, left_why;
    int devices = 0;
    int64_t partition_steps = 0;
    std::optional<int64_t> joined_step;  // the first step of its first view
    std::optional<int64_t> left_step;
  };

  void view_made(const View& view);
  void consumed(const SamplesConsumed& samples);
  void epoch_decided(const EpochRecord& epoch);
  void keep_epochs(int64_t epochs);
  int64_t samples_assigned() const;
  nlohmann::json kept_json() const;
  void restored(const Restored& restored);
  void recovered(const Recovered& recovered);
  nlohmann::json nodes_json() const;

  const Job job_;
  const EpochLogTable log_table_;
  std::map<SessionId, NodeEntry> nodes_;
  std::vector<EpochRecord> epochs_;
  std::vector<EpochLogs> logs_;  // of epochs_
  std::optional<Ledger> ledger_;
  nlohmann::json recoveries_ = nlohmann::json::array();
  nlohmann::json restores_ = nlohmann::json::array();
  int64_t samples_consumed_ = 0;
  int64_t samples_here_ = 0;  // by this process' job, those of before a restore too
  int64_t steps_ = 0;
  int64_t checkpoints_ = 0;
  std::optional<int64_t> last_checkpoint_;
  std::string status_, stop_reason_, weights_sha256_;
  double seconds_ = 0;
};

}  // namespace lockstep
