// The coordinator's process: carries out the actions of a Coordinator on a simulated disk, and
// keeps what each node has not had yet.
#pragma once

#include <deque>
#include <optional>

#include "host/cluster/coordinator.h"
#include "tests/sim/world.h"

namespace lockstep::sim {

// What survives every death.
class Store {
 public:
  struct Entry {
    int64_t term = 0;
    std::string body;
  };
  std::vector<Entry> log;
  std::optional<Entry> pending;  // written, not synced
  std::map<std::string, std::string> objects;
  // Whatever was promised to someone must be in the log: the highest of each.
  int promised_view = 0;
  int64_t durable_step = 0;  // of the newest checkpoint that the coordinator knew of
};

class Head {
 public:
  explicit Head(World* world) : world_(*world) {}

  void start(bool may_return);
  void kill();
  // As Ctrl-C at `train`: the state of the last step is kept, at most so long, and all ends.
  void interrupt(int64_t patience_us);
  bool serving() const { return coordinator_ && serving_; }
  bool alive() const { return life_ > 0; }
  // One for each life: what was begun in another does not go on.
  int64_t life() const { return life_; }
  Coordinator* machine() { return coordinator_ ? &*coordinator_ : nullptr; }

  // The calls of a node, with their answers.
  Result<Welcome> hello(const std::string& name);
  Status join(SessionId session);
  using PollDone = std::function<void(Result<PollReply>)>;
  void poll(const PollRequest& request, PollDone done);
  Status attach(SessionId session, const Standing& standing);
  Status held(const HeldReport& report);
  Status step_applied(const StepReport& report);
  Status epoch_measured(const EpochReport& report);
  Status fault(const FaultReport& report);
  Status ask_to_leave(SessionId session);
  Status leave(SessionId session);
  void connection_lost(SessionId session);
  // The bytes of a state have come; `done` is told when they are stored, or that they are not.
  void upload(SessionId session, int64_t step, std::string bytes, std::function<void(Status)> done);

  std::string describe() const;

 private:
  struct Outbox {
    int64_t acknowledged = 0;
    std::deque<NodeEvent> events;
    PollDone waiting;
  };

  void recover(bool may_return);
  void end_interrupted();
  void tick();
  void act(CoordinatorActions actions);
  void drain();
  void perform(const CoordinatorAction& action);
  void append(const JobRecord& record, std::function<void()> done);
  void commit(const CommitCheckpoint& checkpoint);
  void deliver(SessionId session);
  void check_event(const NodeEvent& event);
  void check_view(const View& view);
  void drop_checkpoints(int64_t newest);
  void compact();
  Status after(Status status, CoordinatorActions actions);

  World& world_;
  int64_t lives_ = 0;
  int64_t life_ = 0;  // 0: dead
  int64_t term_ = 0;
  int64_t served_term_ = 0;
  bool serving_ = false;
  int64_t serving_since_us_ = 0;
  std::optional<int64_t> interrupted_at_;  // steps that were done then
  int forgotten_view_ = -1;                // its members may not return: they are none
  std::optional<Coordinator> coordinator_;
  std::deque<CoordinatorAction> actions_;
  bool busy_ = false;
  std::map<SessionId, Outbox> outboxes_;
};

}  // namespace lockstep::sim
