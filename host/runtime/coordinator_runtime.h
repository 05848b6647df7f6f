// The coordinator at work: the state machine behind a lock, events waiting for each session, a
// clock, and the journal. Serves ControlService on any number of threads.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <thread>

#include "host/cluster/coordinator.h"
#include "host/runtime/journal.h"
#include "host/runtime/stream.h"

namespace lockstep {

struct CoordinatorResult {
  Status status;      // the job's
  std::string state;  // the final one, as the nodes send it (host/runtime/state_file.h)
};

class CoordinatorRuntime final : public ControlService {
 public:
  // `observer` gets every action but SendEvent and AppendRecord, in order, under the runtime's
  // lock: it must be quick and must not call back. What stands behind a record comes once the
  // record is durable.
  // `describe` gives an object whose keys status() tells beside its own; it is called like the
  // observer.
  explicit CoordinatorRuntime(std::function<void(const CoordinatorAction&)> observer,
                              std::function<nlohmann::json()> describe = {});
  ~CoordinatorRuntime() override;

  // Serves. Nodes that come before start() are asked to try again.
  Status listen(Network& network, const Address& address);
  int port() const { return server_->port(); }
  // Takes up the job, or goes on with what the journal holds; `journal` outlives the runtime.
  // `state_bytes` is the size of a state as nodes send it. `may_return`: nodes of an earlier term
  // may still be alive.
  void start(ClusterFacts facts, Journal& journal, int64_t state_bytes, bool may_return);
  // Waits at most `timeout_ms` for the job's end: whether it has ended.
  bool wait_for_end(int timeout_ms);
  // After the end: waits until the nodes have gone, at most `linger_ms`; then the observer is not
  // called any more.
  CoordinatorResult finish(int linger_ms);
  void stop(ErrorKind kind, const std::string& reason);
  // As Coordinator::interrupt.
  void interrupt(const std::string& reason);
  // What an epoch's decision waited for is there: it need not wait for the next tick.
  void wake();

  Result<Welcome> hello(const Hello& hello) override;
  Status join(const JoinRequest& request, const std::string& peer_host) override;
  Result<PollReply> poll(const PollRequest& request) override;
  Status attach(SessionId session, const Standing& standing) override;
  Status report_held(const HeldReport& report) override;
  Status report_step(const StepReport& report) override;
  Status report_epoch(const EpochReport& report) override;
  Status report_fault(const FaultReport& report) override;
  Status upload(const StatePart& part) override;
  Result<std::string> fetch(SessionId session, const std::string& object, int64_t offset) override;
  Status ask_to_leave(SessionId session) override;
  Status leave(SessionId session) override;
  std::string status() override;
  Result<NewestState> newest_state() override;
  Result<std::string> read_state(const std::string& object, int64_t offset) override;
  void connection_lost(SessionId session) override;

 private:
  // Events of a session that it has not said it has: the first has number `first`.
  struct Mailbox {
    int64_t first = 0;
    std::deque<NodeEvent> events;
  };
  struct Upload {
    int64_t step = 0;
    std::string bytes;
  };

  // Calls the machine under the lock and takes its actions up.
  Status with_machine(const std::function<Status(Coordinator&, CoordinatorActions*)>& call);
  void take_up(CoordinatorActions actions);
  void carry_out(const CoordinatorAction& action);
  void write_journal();
  void write_record(std::unique_lock<std::mutex>& lock);
  void write_checkpoint(std::unique_lock<std::mutex>& lock);
  void disk_failed(const Error& error);
  void keep_time();
  Result<std::string> part_of_state(const std::string& object, int64_t offset);

  std::mutex mutex_;
  std::condition_variable changed_;
  std::condition_variable to_write_;
  std::optional<Coordinator> machine_;  // from start() on
  Journal* journal_ = nullptr;
  int64_t state_bytes_ = 0;
  std::string job_;  // JSON, as nodes get it
  const std::function<void(const CoordinatorAction&)> observer_;
  const std::function<nlohmann::json()> describe_;
  std::map<SessionId, Mailbox> mailboxes_;
  std::map<SessionId, bool> present_;  // joined and not gone
  std::map<SessionId, Upload> uploads_;
  std::deque<CoordinatorAction> waiting_;  // the first is a record that is not durable yet
  std::deque<CommitCheckpoint> commits_;   // nothing waits for these
  std::optional<StateRef> final_state_;
  std::pair<std::string, std::shared_ptr<const std::string>> fetched_;  // the object last read
  int64_t received_bytes_ = 0;                                          // of states, from nodes
  int64_t sent_bytes_ = 0;         // of states, to whoever asked
  double checkpoint_seconds_ = 0;  // what the newest took to write
  Status outcome_;
  bool disk_failed_ = false;
  bool ended_ = false;
  bool closing_ = false;
  bool observed_to_the_end_ = false;
  std::unique_ptr<ControlServer> server_;
  std::thread timer_;
  std::thread writer_;
};

}  // namespace lockstep
