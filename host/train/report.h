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
#include "host/job/metric_table.h"
#include "host/train/ledger.h"

namespace lockstep {

class JobReport {
 public:
  JobReport(const Job& job, bool keep_ledger) : job_(job), metrics_(job) {
    if (keep_ledger) ledger_.emplace(job);
  }

  // The job goes on from what a coordinator of before left behind. Call first.
  void resume(const RecoveredJob& recovered);
  void observe(const CoordinatorAction& action);
  // The end: "completed", "halted" or "failed".
  void finish(const std::string& status, const std::string& stop_reason,
              const std::string& weights_sha256, double seconds);

  nlohmann::json json() const;
  // "epoch,accuracy,loss,val_accuracy,val_loss", as Keras' CSVLogger writes it.
  std::string history_csv() const;
  Ledger* ledger() { return ledger_ ? &*ledger_ : nullptr; }  // null: none is kept
  const std::map<std::string, std::vector<double>>& history() const { return history_; }
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
  void epoch_done(const EpochDone& epoch);
  void keep_epochs(int64_t epochs);
  void restored(const Restored& restored);
  void recovered(const Recovered& recovered);
  nlohmann::json nodes_json() const;

  const Job job_;
  const MetricTable metrics_;
  std::map<SessionId, NodeEntry> nodes_;
  std::map<std::string, std::vector<double>> history_;
  std::optional<Ledger> ledger_;
  nlohmann::json recoveries_ = nlohmann::json::array();
  nlohmann::json restores_ = nlohmann::json::array();
  int64_t samples_consumed_ = 0;
  int64_t samples_here_ = 0;  // by this process' job, those of before a restore too
  int64_t steps_ = 0;
  int64_t epochs_ = 0;
  int64_t checkpoints_ = 0;
  std::optional<int64_t> last_checkpoint_;
  std::string status_, stop_reason_, weights_sha256_;
  double seconds_ = 0;
};

}  // namespace lockstep
