// The parts of a node's life, behind NodeRuntime.
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>

#include "host/cluster/node.h"
#include "host/runtime/batch_node.h"
#include "host/runtime/coordinator_link.h"
#include "host/runtime/node_runtime.h"
#include "host/runtime/peer_links.h"
#include "host/runtime/replica.h"
#include "host/runtime/state_transfer.h"

namespace lockstep {

// The main thread works through what the machine asks for. CoordinatorLink hears and reports,
// PeerLinks carries tensors, a thread sends copies of the state.
class NodeSession {
 public:
  NodeSession(NodeOptions options, Network& network);
  ~NodeSession();
  Status run();
  void stop(const std::string& reason);

 private:
  Status connect();
  Status run_batches();
  Status load();
  Status join();
  void make_loaders();
  Status enter(JoinRequest request);
  Status work();
  void shut_down();
  void take_events();
  Status perform(const NodeAction& action);
  void log(const std::string& line) const;

  Status report_held(const ReportHeld& hold);
  Status adopt_view(const View& view);
  Status make_exchange(const View& view);
  Status restore(const StateRef& state);
  Status fetch_state(const StateRef& state);
  Status await_state(int64_t step);
  Status take_snapshot();
  void send_snapshot(const std::string& bytes, int64_t step);
  Status upload_state(const std::string& bytes, int64_t step);
  void end_snapshot();
  Status compute(const ComputeStep& action);
  Status compute_range(int64_t step, PartitionRange range);
  Status train_alone(const TrainAlone& action);
  Status await_step(int64_t step);
  void finish_step(int64_t step, const MetricSums& metrics);
  Status measure_epoch(const MeasureEpoch& action);
  Status measure_range(PartitionRange range, EpochReport* report);
  // As cluster/view.h's, for what is waited for now.
  int64_t patience_ms() const;
  // Sends it; where the coordinator is away, waits a little, and the machine will ask again.
  bool sent(const Status& status, Status* error);

  std::vector<HostBatch> load_batches(int64_t step, const std::vector<PartitionRange>& ranges);
  void count_samples(int64_t step, const std::vector<PartitionRange>& ranges,
                     const std::vector<HostBatch>& batches);
  void prefetch(int64_t step);
  ExchangeOptions exchange_options();
  void log_memory();  // where the view asks for more than any before
  void log_memory_used();

  const NodeOptions options_;
  Network& network_;
  std::unique_ptr<ControlClient> control_;  // the main thread's
  Welcome welcome_;
  Job job_;
  bool keep_ledger_ = false;
  bool digests_ = true;
  CheckpointRule checkpoint_rule_;
  JobData data_;
  std::unique_ptr<Replica> replica_;
  std::unique_ptr<BatchLoader> loader_;
  std::unique_ptr<BatchLoader> validation_loader_;
  std::unique_ptr<PeerLinks> links_;
  std::unique_ptr<StateTransfer> transfer_;
  std::unique_ptr<Exchange> exchange_;
  std::unique_ptr<NodeMachine> machine_;
  std::unique_ptr<CoordinatorLink> coordinator_;
  std::unique_ptr<BatchNode> batches_;       // in place of all that, where nothing is trained
  std::vector<PartitionSamples> samples_;    // contributed to the step under way
  std::optional<EpochReport> epoch_report_;  // measured, not sent yet
  std::vector<PartitionRange> measured_ranges_;
  int64_t progress_ms_ = 0;   // when what is waited for began, or last came nearer
  size_t state_missing_ = 0;  // parts of the state that is waited for
  int64_t compute_ms_ = 0;    // what this node's last step took to compute
  int64_t own_before_ = 0;    // memory, data loaded, nothing else
  int64_t memory_told_ = 0;   // the largest plan that was logged

  std::mutex mutex_;
  bool over_ = false;
  std::condition_variable changed_;
  std::atomic<Exchange*> exchange_to_wake_{nullptr};
  std::atomic<bool> sending_snapshot_{false};
  std::atomic<bool> snapshot_unwanted_{false};
  std::thread snapshot_sender_;
};

}  // namespace lockstep
