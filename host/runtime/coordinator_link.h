// A node's line to its coordinator once it has joined: events in, reports out, on threads of their
// own. A coordinator that is away is waited for; when it is back, in a new term, it is told where
// this node stands and gets all reports that may not have become durable.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "host/cluster/node.h"
#include "host/runtime/stream.h"

namespace lockstep {

struct CoordinatorLinkOptions {
  Address coordinator;
  SessionId session = 0;
  int64_t term = 0;
  int away_ms = 1'800'000;        // how long a coordinator may be away
  std::function<void()> arrived;  // something for take(); from the link's thread
};

class CoordinatorLink {
 public:
  // Starts at once. `network` outlives it.
  CoordinatorLink(Network& network, CoordinatorLinkOptions options);
  ~CoordinatorLink();

  // The events since the last call. The main thread's.
  std::deque<NodeEvent> take();
  // Waits for an event, at most so long.
  void wait(int timeout_ms);
  bool away() const;
  int64_t term() const;  // of the coordinator that answered last
  // What a coordinator of a new term is told.
  void set_standing(const Standing& standing);

  void report(StepReport report);
  // All reports so far are with the coordinator.
  bool all_reported() const;
  // Waits for it at most so long, and only as long as no event comes.
  void wait_until_reported(int timeout_ms);
  // Steps before `step` are durable: their reports are not needed again.
  void durable_before(int64_t step);
  void report_fault(FaultReport fault);

  // Asks the coordinator to let this node go; an event says when. After `patience_ms`, or called
  // again, an event says so anyway.
  void ask_to_leave(const std::string& reason, int patience_ms);

 private:
  void poll_loop();
  bool handle(const Result<PollReply>& reply, ControlClient* client);
  void new_term(const PollReply& reply, ControlClient* client);
  void send_loop();
  void leave_if_asked(ControlClient* client);
  void push(NodeEvent event);

  Network& network_;
  const CoordinatorLinkOptions options_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<NodeEvent> events_;
  int64_t term_ = 0;
  int64_t received_ = 0;  // of this term's events
  int64_t answered_ms_ = 0;
  bool away_ = false;
  Standing standing_;
  std::deque<StepReport> reports_;  // not known to be durable
  size_t sent_ = 0;                 // of reports_
  bool sending_ = false;
  std::deque<FaultReport> faults_;
  std::string leave_reason_;
  int64_t leave_by_ms_ = 0;
  bool leave_asked_ = false;  // wanted
  bool leave_told_ = false;   // the coordinator knows
  bool over_ = false;
  std::thread poller_;
  std::thread sender_;
};

}  // namespace lockstep
