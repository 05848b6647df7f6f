// BatchQueue with threads, a clock, and the place where results go. Serves ControlService on any
// number of threads: the same sessions, leases and limits as for training.
#pragma once

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "host/cluster/batch_queue.h"
#include "host/runtime/result_sink.h"
#include "host/runtime/stream.h"

namespace lockstep {

class BatchCoordinator final : public ControlService {
 public:
  // `weights` are flat and, as `sink`, outlive it; nodes ask for them by their hash. `observer` is
  // called from any thread, one call at a time.
  BatchCoordinator(BatchFacts facts, const std::vector<float>& weights, std::string weights_sha256,
                   ResultSink& sink, std::function<void(const BatchEvent&)> observer);
  ~BatchCoordinator() override;

  Status listen(Network& network, const Address& address);
  int port() const { return server_->port(); }
  // Whether the work has ended, done or not.
  bool wait_for_end(int timeout_ms);
  // Ends the work from outside.
  void stop(ErrorKind kind, const std::string& reason);
  // After the end: waits until the nodes have heard of it. How it ended.
  Status finish(int linger_ms);

  Result<Welcome> hello(const Hello& hello) override;
  Status join(const JoinRequest& request, const std::string& peer_host) override;
  Result<PollReply> poll(const PollRequest& request) override;
  Status report_fault(const FaultReport& report) override;
  // The weights, by their hash.
  Result<std::string> fetch(SessionId session, const std::string& object, int64_t offset) override;
  Status ask_to_leave(SessionId session) override;
  Status leave(SessionId session) override;
  std::string status() override;
  void connection_lost(SessionId session) override;
  Result<WorkReply> next_batches(const WorkRequest& request) override;
  Status deliver(const ResultPart& part) override;

 private:
  void keep_time();
  // All with mutex_ held.
  void tell_events();
  void end(Status outcome);
  std::optional<NodeEvent> stop_event() const;

  const std::function<void(const BatchEvent&)> observer_;
  const std::string_view weights_;
  const std::string weights_sha256_;
  ResultSink& sink_;
  std::mutex mutex_;
  std::condition_variable changed_;
  BatchQueue queue_;
  std::set<SessionId> released_;   // asked to leave, and may: no call of theirs is refused
  std::optional<Status> outcome_;  // of work that has ended
  bool closing_ = false;
  std::thread timer_;
  std::unique_ptr<ControlServer> server_;  // last: its threads call the rest
};

}  // namespace lockstep
