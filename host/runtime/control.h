// The control plane as the runtime sees it; rpc/ implements it over Thrift.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "host/cluster/messages.h"
#include "host/core/result.h"

namespace lockstep {

// A part of a copy of state[step], in order.
struct StatePart {
  SessionId session = 0;
  int64_t step = 0;
  int64_t offset = 0;
  int64_t total = 0;  // bytes of the whole
  std::string bytes;
};

// The newest durable state of a job.
struct NewestState {
  int64_t step = 0;
  std::string object;
  std::string job;                           // JSON, as Welcome's
  std::optional<double> learning_rate = {};  // of the steps from there on, where one was decided
};

// What the coordinator offers to nodes, and to those who ask. Called from many threads at once;
// every call returns within kLongPollMs and a little, or as long as the disk takes.
class ControlService {
 public:
  virtual ~ControlService() = default;
  // `peer_host` is the address that the caller was seen from.
  virtual Result<Welcome> hello(const Hello& hello) = 0;
  virtual Status join(const JoinRequest& request, const std::string& peer_host) = 0;
  // The events that the session has not had yet; waits up to kLongPollMs for one. Each call renews
  // the session's lease.
  virtual Result<PollReply> poll(const PollRequest& request) = 0;
  // To a coordinator that was away: where this node stands.
  virtual Status report_fault(const FaultReport& report) = 0;
  // Bytes of a state from `offset` on, at most kFetchBytes; none at its end.
  virtual Result<std::string> fetch(SessionId session, const std::string& object,
                                    int64_t offset) = 0;
  // The node wants to go, and goes on until it is told that it may.
  virtual Status ask_to_leave(SessionId session) = 0;
  virtual Status leave(SessionId session) = 0;
  // The running job, JSON, for people.
  virtual std::string status() = 0;
  // The connection on which the session polls broke: seen at once when a process dies.
  virtual void connection_lost(SessionId session) = 0;

  // Of a coordinator that trains.
  // To one that was away: where this node stands.
  virtual Status attach(SessionId, const Standing&) { return other_work(); }
  virtual Status report_held(const HeldReport&) { return other_work(); }
  virtual Status report_step(const StepReport&) { return other_work(); }
  virtual Status report_epoch(const EpochReport&) { return other_work(); }
  // The last part returns once the state is durable.
  virtual Status upload(const StatePart&) { return other_work(); }
  // Fails where no state is durable yet.
  virtual Result<NewestState> newest_state() { return other_work(); }
  // As fetch, for who is no node; of durable states.
  virtual Result<std::string> read_state(const std::string&, int64_t) { return other_work(); }

  // Of one that measures or predicts.
  // Waits up to kLongPollMs for batches.
  virtual Result<WorkReply> next_batches(const WorkRequest&) { return other_work(); }
  virtual Status deliver(const ResultPart&) { return other_work(); }

 private:
  static Error other_work() { return refused_error("this coordinator does other work"); }
};
inline constexpr int64_t kFetchBytes = 4 << 20;
inline constexpr int kLongPollMs = 200;

// Serves a ControlService until destroyed.
class ControlServer {
 public:
  virtual ~ControlServer() = default;
  virtual int port() const = 0;
};

// A node's connection to its coordinator. Not thread-safe: one a thread. Reconnects by itself when
// an idle connection was closed.
class ControlClient {
 public:
  virtual ~ControlClient() = default;
  // Whether the coordinator answered the last call, were it with an error.
  virtual bool answered() const = 0;
  virtual Result<Welcome> hello(const Hello& hello) = 0;
  virtual Status join(const JoinRequest& request) = 0;
  virtual Result<PollReply> poll(const PollRequest& request) = 0;
  virtual Status attach(SessionId session, const Standing& standing) = 0;
  virtual Status report_held(const HeldReport& report) = 0;
  virtual Status report_step(const StepReport& report) = 0;
  virtual Status report_epoch(const EpochReport& report) = 0;
  virtual Status report_fault(const FaultReport& report) = 0;
  virtual Status upload(const StatePart& part) = 0;
  virtual Result<std::string> fetch(SessionId session, const std::string& object,
                                    int64_t offset) = 0;
  virtual Status ask_to_leave(SessionId session) = 0;
  virtual Status leave(SessionId session) = 0;
  virtual Result<std::string> status() = 0;
  virtual Result<NewestState> newest_state() = 0;
  virtual Result<std::string> read_state(const std::string& object, int64_t offset) = 0;
  virtual Result<WorkReply> next_batches(const WorkRequest& request) = 0;
  virtual Status deliver(const ResultPart& part) = 0;
};

// A host and a port; "127.0.0.1:0" asks for any free port.
struct Address {
  std::string host;
  int port = 0;
  std::string text() const { return host + ":" + std::to_string(port); }
};
Result<Address> parse_address(const std::string& text, const std::string& flag);

}  // namespace lockstep
