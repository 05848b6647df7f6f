// The coordinator at work: the state machine behind a lock, events waiting for each session, a
// clock. Serves ControlService on any number of threads.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "host/cluster/coordinator.h"
#include "host/runtime/stream.h"

namespace lockstep {

struct CoordinatorResult {
  Status status;        // the job's
  std::string weights;  // the final ones: flat float32, little-endian, in get_weights() order
};

class CoordinatorRuntime final : public ControlService {
 public:
  // `observer` gets every action but SendEvent, in order, under the runtime's lock: it must be
  // quick and must not call back.
  explicit CoordinatorRuntime(std::function<void(const CoordinatorAction&)> observer);
  ~CoordinatorRuntime() override;

  // Serves. Nodes that come before start() are asked to try again.
  Status listen(Network& network, const Address& address);
  int port() const { return server_->port(); }
  // Takes up the job; `weight_bytes` is the size of its final weights.
  void start(ClusterFacts facts, int64_t weight_bytes);
  // Waits at most `timeout_ms` for the job's end: whether it has ended.
  bool wait_for_end(int timeout_ms);
  // After the end: waits until the nodes have gone, at most `linger_ms`; then the observer is not
  // called any more.
  CoordinatorResult finish(int linger_ms);
  void stop(ErrorKind kind, const std::string& reason);

  Result<Welcome> hello(const Hello& hello) override;
  Status join(const JoinRequest& request, const std::string& peer_host) override;
  Result<std::vector<NodeEvent>> poll(SessionId session) override;
  Status report_step(const StepReport& report) override;
  Status report_epoch(const EpochReport& report) override;
  Status report_final(const FinalReport& report) override;
  Status report_fault(const FaultReport& report) override;
  Status upload(SessionId session, int64_t offset, const std::string& bytes) override;
  Status leave(SessionId session) override;
  std::string status() override;
  void connection_lost(SessionId session) override;

 private:
  void carry_out(const CoordinatorActions& actions);
  void keep_time();

  std::mutex mutex_;
  std::condition_variable changed_;
  std::optional<Coordinator> machine_;  // from start() on
  int64_t weight_bytes_ = 0;
  const std::function<void(const CoordinatorAction&)> observer_;
  std::map<SessionId, std::deque<NodeEvent>> events_;
  std::map<SessionId, bool> present_;  // joined and not gone
  std::string weights_;
  Status outcome_;
  bool closing_ = false;
  bool observed_to_the_end_ = false;
  std::unique_ptr<ControlServer> server_;
  std::thread timer_;
};

}  // namespace lockstep
