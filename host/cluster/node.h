// A node as a state machine: what it does next follows from what it was told and what it has done.
// No sockets, no threads, no clock. One owner, one thread at a time.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "host/cluster/messages.h"

namespace lockstep {

// What the runtime shall do next, one at a time; it answers with the matching call.
struct AwaitEvent {};  // nothing to do before something changes
struct ReportHeld {
  int number = 0;
  Standing standing;
};  // -> held_reported
struct AdoptView {
  View view;
};  // -> view_adopted
struct RestoreState {
  StateRef state;
};  // -> state_here
struct AwaitState {
  int64_t step = 0;
};  // from the donor -> state_here
struct TakeSnapshot {
  int64_t step = 0;
};  // copy state[step] and send it -> snapshot_taken
struct ComputeStep {
  int64_t step = 0;
  std::vector<PartitionRange> partitions;
};  // begin if not begun, compute these -> computed
struct TrainAlone {
  int64_t step = 0;
  std::vector<PartitionRange> partitions;
};  // compute and apply -> applied
struct AwaitStep {
  int64_t step = 0;
};  // until its reduced gradient is there -> step_complete
struct ApplyStep {
  int64_t step = 0;
};  // -> applied
struct MeasureEpoch {
  int64_t epoch = 0;
  std::vector<PartitionRange> partitions;
};  // validate and report -> epoch_measured
struct LeaveJob {
  ErrorKind kind = ErrorKind::failed;
  bool completed = false;
  std::string reason;
};
using NodeAction =
    std::variant<AwaitEvent, ReportHeld, AdoptView, RestoreState, AwaitState, TakeSnapshot,
                 ComputeStep, TrainAlone, AwaitStep, ApplyStep, MeasureEpoch, LeaveJob>;

// How far a node trains beyond the newest durable state.
struct CheckpointRule {
  int64_t every_ms = 60'000;  // while its coordinator is away; 0: not by time
  int64_t every_steps = 0;    // at any time; 0: not by steps
};

class NodeMachine {
 public:
  NodeMachine(SessionId session, int64_t steps_per_epoch, CheckpointRule rule)
      : session_(session), steps_per_epoch_(steps_per_epoch), rule_(rule) {}

  // What to do now. Stays the same until one of the calls below changes it, or time does.
  NodeAction next(int64_t now_ms) const;

  // What the coordinator said.
  void event(const NodeEvent& event, int64_t now_ms);
  // The coordinator does not answer, or does again.
  void coordinator_away(bool away) { away_ = away; }
  // The runtime has done what `next` asked for.
  void held_reported(int number) { held_ = number; }
  void view_adopted();
  // `ends_epoch`: by what it holds, the state is its epoch's last, whatever steps were to come. The
  // same for `applied`.
  void state_here(int64_t step, bool ends_epoch);
  void snapshot_taken();
  // The state that was copied is with the coordinator, or never will be; until then no other is
  // taken.
  void snapshot_under_way(bool under_way) { sending_ = under_way; }
  void computed(const std::vector<PartitionRange>& partitions);
  void step_complete() { complete_ = true; }
  void applied(bool ends_epoch);
  void epoch_measured(int64_t epoch, const std::vector<PartitionRange>& partitions);
  // A coordinator of a new term does not know what was measured of the epoch that is not decided.
  void measure_again();
  // The node itself cannot go on.
  void fail(ErrorKind kind, const std::string& reason);

  int64_t step() const { return step_; }
  // For the step that is to be applied: as EpochDecision::learning_rate.
  std::optional<double> learning_rate() const;
  Standing standing() const;
  const std::optional<View>& view() const { return view_; }
  // This node's partitions from the view's first step on.
  PartitionRange partitions() const;
  // Whether the step is computed without any other member.
  bool is_alone(int64_t step) const;
  bool stopping() const { return stop_.has_value(); }
  // The newest step that is durable, as far as this node was told.
  int64_t durable_step() const { return durable_step_; }

 private:
  std::optional<NodeAction> next_of_epoch_end() const;
  NodeAction next_of_training() const;
  bool checkpoint_is_due(int64_t now_ms) const;

  const SessionId session_;
  const int64_t steps_per_epoch_;
  const CheckpointRule rule_;
  std::optional<View> view_;         // adopted
  std::optional<View> coming_view_;  // told, not adopted yet
  std::vector<NodeEvent> deferred_;  // told after it, and about it
  int hold_ = 0;                     // asked to hold for the view of this number
  int held_ = 0;                     // said so
  bool has_state_ = false;
  int64_t step_ = -1;
  int64_t since_ = -1;  // state[since_] was given to it
  bool begun_ = false;
  bool complete_ = false;
  std::vector<PartitionRange> computed_;  // of step_
  bool epoch_cut_ = false;                // state[step_] ends its epoch before its last step
  int64_t decided_epochs_ = 0;
  // Of the epoch that is not decided, and of the one before it: what is decided may be told before
  // this node has applied its last step.
  std::optional<double> rate_, rate_before_;
  std::vector<PartitionRange> measured_;  // of the epoch that is not decided
  bool reported_epoch_ = false;
  bool training_over_ = false;
  bool snapshot_now_ = false;             // asked for a copy as soon as may be
  std::optional<int64_t> snapshot_step_;  // and for one of this step
  bool sending_ = false;
  bool away_ = false;
  int64_t durable_step_ = 0;
  int64_t durable_ms_ = -1;  // when a checkpoint was last known to be done
  std::optional<LeaveJob> stop_;
};

}  // namespace lockstep
