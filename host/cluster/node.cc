#include "host/cluster/node.h"

#include <algorithm>
#include <utility>

#include "host/core/check.h"
#include "host/core/planted.h"

namespace lockstep {
namespace {

void add_ranges(const std::vector<PartitionRange>& more, std::vector<PartitionRange>* ranges) {
  ranges->insert(ranges->end(), more.begin(), more.end());
  *ranges = merged(std::move(*ranges));
}

}  // namespace

NodeAction NodeMachine::next(int64_t now_ms) const {
  if (stop_) return *stop_;
  if (coming_view_) return AdoptView{*coming_view_};
  if (hold_ > held_) return ReportHeld{hold_, standing()};
  const bool holds = view_ ? held_ > view_->number : true;
  if (holds && !(planted(Bug::hold_ignored) && view_)) return AwaitEvent{};
  if (!has_state_) {
    if (view_->restores) return RestoreState{view_->restore};
    return AwaitState{view_->first_step};
  }
  const bool planned = snapshot_step_ && step_ >= *snapshot_step_;
  if (!begun_ && !sending_ && (planned || snapshot_now_)) return TakeSnapshot{step_};
  if (!begun_ && planned) return AwaitEvent{};  // this very step is wanted, the last is on its way
  // The others may have been told so before this node has applied the last step.
  const bool trained =
      training_over_ && (epoch_cut_ || step_ >= decided_epochs_ * steps_per_epoch_);
  if (trained) return AwaitEvent{};
  if (const auto action = next_of_epoch_end()) return *action;
  if (!begun_ && checkpoint_is_due(now_ms)) return AwaitEvent{};
  return next_of_training();
}

std::optional<NodeAction> NodeMachine::next_of_epoch_end() const {
  const bool epoch_trained = !begun_ && (epoch_cut_ || step_ / steps_per_epoch_ > decided_epochs_);
  if (!epoch_trained) return std::nullopt;
  const auto missing = without({partitions()}, measured_);
  if (!reported_epoch_ || !missing.empty()) return MeasureEpoch{decided_epochs_, missing};
  return AwaitEvent{};
}

NodeAction NodeMachine::next_of_training() const {
  const int self = view_->index_of(session_);
  const auto assigned = assigned_partitions(*view_, self, step_);
  if (is_alone(step_)) return TrainAlone{step_, assigned};
  const auto missing = without(assigned, computed_);
  if (step_ >= view_->first_step && (!begun_ || !missing.empty())) {
    return ComputeStep{step_, missing};
  }
  if (!complete_) return AwaitStep{step_};
  return ApplyStep{step_};
}

// What is not durable may have to be trained again: that is never more than an interval in steps.
// The coordinator asks for copies early enough that nobody waits here, unless a disk is slower than
// it was. By time only where nothing becomes durable: while the coordinator is away.
bool NodeMachine::checkpoint_is_due(int64_t now_ms) const {
  const bool exceeds = rule_.every_steps > 0 && step_ - durable_step_ >= rule_.every_steps;
  if (exceeds && !planted(Bug::interval_exceeded)) return true;
  return away_ && rule_.every_ms > 0 && now_ms - durable_ms_ >= rule_.every_ms;
}

bool NodeMachine::is_alone(int64_t step) const {
  if (!view_ || view_->members.size() > 1 || begun_) return false;
  return step > view_->first_step || (step == view_->first_step && !view_->carries);
}

void NodeMachine::event(const NodeEvent& event, int64_t now_ms) {
  if (durable_ms_ < 0) durable_ms_ = now_ms;
  const bool of_view =
      std::holds_alternative<EpochEvent>(event) || std::holds_alternative<SnapshotEvent>(event);
  if (coming_view_ && of_view) {  // adopting the view must not undo it
    deferred_.push_back(event);
    return;
  }
  if (const auto* hold = std::get_if<HoldEvent>(&event)) {
    // Said again by a coordinator that was away: it wants to hear again, too.
    if (hold->number < hold_ || (view_ && hold->number <= view_->number)) return;
    hold_ = hold->number;
    held_ = std::min(held_, hold->number - 1);
  } else if (const auto* made = std::get_if<ViewEvent>(&event)) {
    const int newest = coming_view_ ? coming_view_->number : view_ ? view_->number : 0;
    if ((made->view.number > newest || planted(Bug::stale_view)) &&
        made->view.index_of(session_) >= 0) {
      coming_view_ = made->view;
      hold_ = std::max(hold_, made->view.number);
    }
  } else if (const auto* decision = std::get_if<EpochEvent>(&event)) {
    // Told again by a coordinator that has come back, maybe with more epochs.
    if (decision->epoch + 1 == decided_epochs_) training_over_ = !decision->go_on;
    if (decision->epoch != decided_epochs_) return;
    ++decided_epochs_;
    rate_before_ = std::exchange(rate_, decision->learning_rate);
    measure_again();
    training_over_ = !decision->go_on;
  } else if (const auto* snapshot = std::get_if<SnapshotEvent>(&event)) {
    if (snapshot->step == 0) snapshot_now_ = true;
    if (snapshot->step > 0) snapshot_step_ = snapshot->step;
  } else if (const auto* durable = std::get_if<CheckpointEvent>(&event)) {
    durable_step_ = std::max(durable_step_, durable->step);
    durable_ms_ = now_ms;
  } else if (const auto* stop = std::get_if<StopEvent>(&event)) {
    if (!stop_) stop_ = LeaveJob{stop->kind, stop->completed, stop->reason};
  }
}

void NodeMachine::view_adopted() {
  view_ = std::move(*coming_view_);
  coming_view_.reset();
  held_ = std::max(held_, view_->number);
  snapshot_step_.reset();
  snapshot_now_ = false;
  complete_ = false;  // a new member must have begun the step, too, and may need state[step]
  const Member& self = view_->members[view_->index_of(session_)];
  if (view_->restores || self.step < 0) {
    has_state_ = false;
    step_ = -1;
    begun_ = false;
    computed_.clear();
    measure_again();
    training_over_ = false;
    decided_epochs_ = view_->decided_epochs;
    if (!planted(Bug::rate_not_given)) rate_ = view_->learning_rate;
    epoch_cut_ = false;
  }
  LOCKSTEP_CHECK(!has_state_ || step_ == self.step);
  const std::vector<NodeEvent> deferred = std::exchange(deferred_, {});
  for (const NodeEvent& told : deferred) event(told, durable_ms_);
}

void NodeMachine::state_here(int64_t step, bool ends_epoch) {
  LOCKSTEP_CHECK(view_ && step == view_->first_step);
  has_state_ = true;
  step_ = step;
  since_ = step;
  epoch_cut_ = ends_epoch && step_ % steps_per_epoch_ != 0;
}

void NodeMachine::snapshot_taken() {
  snapshot_now_ = false;
  if (snapshot_step_ && step_ >= *snapshot_step_) snapshot_step_.reset();
}

void NodeMachine::computed(const std::vector<PartitionRange>& partitions) {
  begun_ = true;
  add_ranges(partitions, &computed_);
}

void NodeMachine::applied(bool ends_epoch) {
  ++step_;
  epoch_cut_ = ends_epoch && step_ % steps_per_epoch_ != 0;
  begun_ = false;
  complete_ = false;
  computed_.clear();
}

void NodeMachine::epoch_measured(int64_t epoch, const std::vector<PartitionRange>& partitions) {
  if (epoch != decided_epochs_) return;
  reported_epoch_ = true;
  add_ranges(partitions, &measured_);
}

void NodeMachine::measure_again() {
  measured_.clear();
  reported_epoch_ = false;
}

void NodeMachine::fail(ErrorKind kind, const std::string& reason) {
  if (!stop_) stop_ = LeaveJob{kind, false, reason};
}

Standing NodeMachine::standing() const {
  Standing standing;
  standing.view = view_ ? view_->number : 0;
  standing.step = has_state_ ? step_ : -1;
  standing.begun = begun_;
  standing.since = has_state_ ? since_ : -1;
  standing.decided_epochs = decided_epochs_;
  return standing;
}

std::optional<double> NodeMachine::learning_rate() const {
  const bool of_before = step_ < decided_epochs_ * steps_per_epoch_;
  return of_before && !planted(Bug::rate_too_early) ? rate_before_ : rate_;
}

PartitionRange NodeMachine::partitions() const {
  const int self = view_ ? view_->index_of(session_) : -1;
  return self < 0 ? PartitionRange{} : view_->members[self].partitions;
}

}  // namespace lockstep
