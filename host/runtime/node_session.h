// The parts of a node's life, behind NodeRuntime.
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>

#include "host/cluster/node.h"
#include "host/runtime/node_runtime.h"
#include "host/runtime/peer_links.h"
#include "host/runtime/replica.h"

namespace lockstep {

// The main thread works through what the machine asks for; one thread polls the coordinator, one
// sends reports.
class NodeSession {
 public:
  NodeSession(NodeOptions options, Network& network);
  ~NodeSession();
  Status run();
  void stop(const std::string& reason);

 private:
  Status connect();
  Status load();
  Status join();
  Status work();
  void shut_down();

  void poll_coordinator();
  void send_reports();
  void take_events();
  void await_event();
  void log(const std::string& line) const;

  Status connect_peers(const View& view);
  Status train_step(int64_t step);
  void finish_step(int64_t step, const StepMetrics& metrics, const std::vector<HostBatch>& batches);
  Status measure_epoch(int64_t epoch);
  Status report_final();
  Status upload_weights();
  Status explain_loss(const Error& error, int64_t step);
  BatchRequest request_for(int64_t step) const;
  void log_memory();

  const NodeOptions options_;
  Network& network_;
  std::unique_ptr<ControlClient> control_;
  Welcome welcome_;
  Job job_;
  bool keep_ledger_ = false;
  JobData data_;
  std::unique_ptr<Replica> replica_;
  std::unique_ptr<BatchLoader> loader_;
  std::unique_ptr<BatchLoader> validation_loader_;
  std::unique_ptr<PeerLinks> links_;
  std::unique_ptr<Exchange> exchange_;
  std::unique_ptr<NodeMachine> machine_;
  std::vector<PartitionRange> ranges_;
  int data_port_ = 0;
  int64_t resident_before_ = 0;  // data loaded, nothing else

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<NodeEvent> events_;
  std::deque<StepReport> reports_;
  bool sending_ = false;
  bool over_ = false;
  std::thread poller_;
  std::thread reporter_;
};

}  // namespace lockstep
