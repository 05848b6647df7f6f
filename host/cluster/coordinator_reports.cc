// What the nodes report: steps, their digests, epochs, and the copies of states that become
// checkpoints.
#include <fmt/format.h>

#include <algorithm>

#include "host/cluster/coordinator.h"
#include "host/core/planted.h"

namespace lockstep {

Status Coordinator::step_applied(const StepReport& report, int64_t now_ms,
                                 CoordinatorActions* actions) {
  LOCKSTEP_ASSIGN(Node * node, member(report.session));
  if (planted(Bug::lease_by_anything)) node->lease_ends_ms = now_ms + 20 * facts_.lease_ms;
  LOCKSTEP_RETURN_IF_ERROR(check_sums(report.session, report.sums));
  if (ended() || (report.era != view_.era && !planted(Bug::stale_era))) return {};
  for (const PartitionSamples& part : report.partitions) {
    if (part.partition >= 0 && part.partition < facts_.partitions) continue;
    return Error{fmt::format("{} reports samples of partition {}, which does not exist",
                             node_text(report.session), part.partition)};
  }
  node->steps = std::max(node->steps, report.step + 1);
  count_samples(report, actions);
  if (report.digest != 0) digests_[report.step][report.session] = report.digest;
  if (report.step >= steps_done_) {
    steps_done_ = report.step + 1;
    actions->push_back(
        StepDone{report.step, facts_.rows_of_step(report.step), report.sums, report.digest});
  }
  const bool under_way = phase_ == Phase::training || phase_ == Phase::finishing;
  if (under_way && report.step >= view_.first_step) {
    for (const Death& death : deaths_) {
      actions->push_back(Recovered{death.session, death.name, death.why, report.step,
                                   static_cast<double>(now_ms - death.at_ms) / 1000,
                                   death.partitions});
    }
    deaths_.clear();
  }
  compare_digests(report.step, now_ms, actions);
  if (ended()) return {};
  commit_snapshot_if_agreed(actions);
  decide_epoch_if_whole(actions);
  finish_leaving(report.step, actions);
  return {};
}

void Coordinator::count_samples(const StepReport& report, CoordinatorActions* actions) {
  SamplesConsumed consumed{report.session, report.step, {}};
  for (const PartitionSamples& part : report.partitions) {
    if (consumption_.add(report.step, part.partition)) consumed.partitions.push_back(part);
  }
  if (!consumed.partitions.empty()) actions->push_back(std::move(consumed));
}

void Coordinator::count_applied(CoordinatorActions* actions) {
  for (const auto& [step, partition] : consumption_.applied_before(view_.first_step)) {
    const int64_t rows = facts_.rows_of_step(step);
    const int64_t count = partition_begin(rows, facts_.partitions, partition + 1) -
                          partition_begin(rows, facts_.partitions, partition);
    actions->push_back(SamplesConsumed{0, step, {{partition, static_cast<int>(count), {}}}});
  }
  steps_done_ = std::max(steps_done_, view_.first_step);
}

// By all members that have applied the step themselves; who was given a later state says nothing.
bool Coordinator::all_reported_digest(int64_t step) const {
  const auto found = digests_.find(step);
  return std::all_of(view_.members.begin(), view_.members.end(), [&](const Member& member) {
    const Node& node = nodes_.at(member.session);
    const bool reported = found != digests_.end() && found->second.contains(member.session);
    return node.left || node.since > step || reported;
  });
}

void Coordinator::compare_digests(int64_t step, int64_t now_ms, CoordinatorActions* actions) {
  const bool is_due = facts_.verify_every > 0 && ((step + 1) % facts_.verify_every == 0 ||
                                                  (step + 1) % facts_.steps_per_epoch() == 0);
  if (!is_due || restore_wanted_ || !digests_.contains(step) || !all_reported_digest(step)) return;
  const auto& digests = digests_.at(step);
  const uint64_t first = digests.begin()->second;
  const bool same = std::all_of(digests.begin(), digests.end(),
                                [&](const auto& entry) { return entry.second == first; });
  if (!same) corrupted(step, now_ms, actions);
}

// The states differ. The job goes back to the last state on which all agreed; the minority is
// expelled, since its memory or its arithmetic lies.
void Coordinator::corrupted(int64_t step, int64_t now_ms, CoordinatorActions* actions) {
  std::map<uint64_t, std::vector<SessionId>> camps;
  for (const auto& [session, digest] : digests_.at(step)) camps[digest].push_back(session);
  size_t all = 0;
  const auto* largest = &camps.begin()->second;
  for (const auto& [digest, sessions] : camps) {
    all += sessions.size();
    if (sessions.size() > largest->size()) largest = &sessions;
  }
  const std::vector<SessionId> majority = *largest;
  restore_wanted_ = true;
  restore_why_ = fmt::format("the states differ after step {}: silent corruption", step);
  if (majority.size() * 2 > all) {
    std::vector<SessionId> liars;
    for (const auto& [session, digest] : digests_.at(step)) {
      const bool honest = std::find(majority.begin(), majority.end(), session) != majority.end();
      if (!honest && !nodes_.at(session).left) liars.push_back(session);
    }
    for (const SessionId session : liars) {
      expel(session, ErrorKind::halted,
            fmt::format("its state after step {} differs from the other members': silent "
                        "corruption; check this machine's memory",
                        step),
            now_ms, actions);
    }
  } else if (++corruptions_ > 1) {
    std::string names;
    for (const auto& [session, digest] : digests_.at(step)) {
      names += (names.empty() ? "" : " and ") + node_text(session);
    }
    fail(ErrorKind::halted,
         fmt::format("the states of {} differ after step {}, again, and no majority says whose is "
                     "right: check the memory of these machines, and go on with --resume",
                     names, step),
         actions);
    return;
  }
  change_view(actions);
}

void Coordinator::restored(CoordinatorActions* actions) {
  int64_t rows = 0;
  for (const CheckpointRecord& checkpoint : checkpoints_) {
    if (checkpoint.state == view_.restore) rows = checkpoint.samples_consumed;
  }
  consumption_.restore(view_.first_step, rows);
  steps_done_ = view_.first_step;
  digests_.clear();
  snapshot_.reset();
  validation_.clear();
  epoch_report_.reset();
  restore_wanted_ = false;
  actions->push_back(Restored{view_.first_step, rows, restore_why_});
}

Status Coordinator::check_sums(SessionId session, const MetricSums& sums) const {
  const auto count = static_cast<int64_t>(sums.size());
  if (count == facts_.metric_sums) return {};
  return refused_error(fmt::format("bad message: {} reports {} sums of metrics, the job has {}",
                                   node_text(session), count, facts_.metric_sums));
}

// Whether this partition of this validation batch exists and holds rows.
bool Coordinator::is_measured(int64_t batch, int partition) const {
  const int64_t batches = (facts_.validation_rows + facts_.batch_size - 1) / facts_.batch_size;
  const bool is_validated = facts_.validation_rows_of(std::ssize(epochs_)) > 0;
  if (!is_validated || batch < 0 || batch >= batches) return false;
  if (partition < 0 || partition >= facts_.partitions) return false;
  const int64_t rows =
      std::min(facts_.batch_size, facts_.validation_rows - batch * facts_.batch_size);
  return partition_begin(rows, facts_.partitions, partition) <
         partition_begin(rows, facts_.partitions, partition + 1);
}

Status Coordinator::add_validation(const EpochReport& report) {
  for (const ValidationPart& part : report.validation) {
    LOCKSTEP_RETURN_IF_ERROR(check_sums(report.session, part.sums));
    if (is_measured(part.batch, part.partition)) continue;
    return Error{fmt::format("{} reports validation of partition {} of batch {}, which has no rows",
                             node_text(report.session), part.partition, part.batch)};
  }
  for (const ValidationPart& part : report.validation) {
    validation_.emplace(std::pair{part.batch, part.partition}, part);
  }
  return {};
}

bool Coordinator::validation_is_whole() const {
  int64_t expected = 0;
  const int64_t all_rows = facts_.validation_rows_of(std::ssize(epochs_));
  for (int64_t begin = 0; begin < all_rows; begin += facts_.batch_size) {
    const int64_t rows = std::min(facts_.batch_size, all_rows - begin);
    expected += std::min<int64_t>(rows, facts_.partitions);
  }
  return static_cast<int64_t>(validation_.size()) == expected;
}

// Batch by batch, in their order.
EpochDone Coordinator::summarize_epoch(const EpochReport& report) const {
  EpochDone done{report.epoch, report.sums, {}, 0};
  if (report.step < done.last_state(facts_.steps_per_epoch())) done.cut_at = report.step;
  for (auto part = validation_.begin(); part != validation_.end();) {
    const int64_t batch = part->first.first;
    std::vector<ValidationPart> parts;
    for (; part != validation_.end() && part->first.first == batch; ++part) {
      parts.push_back(part->second);
    }
    done.validation.resize(report.sums.size());
    add_batch(parts, facts_.partitions, &done.validation);
  }
  return done;
}

Status Coordinator::epoch_measured(const EpochReport& report, CoordinatorActions* actions) {
  LOCKSTEP_RETURN_IF_ERROR(member(report.session));
  const auto epoch = static_cast<int64_t>(epochs_.size());
  const bool stale = report.era != view_.era && !planted(Bug::stale_era);
  LOCKSTEP_RETURN_IF_ERROR(check_sums(report.session, report.sums));
  if (ended() || stale || report.epoch < epoch) return {};
  if (report.epoch > epoch) {
    return Error{
        fmt::format("{} reports epoch {} out of order", node_text(report.session), report.epoch)};
  }
  const int64_t first = epoch * facts_.steps_per_epoch();
  if (report.step <= first || report.step > first + facts_.steps_per_epoch()) {
    return Error{fmt::format("{} reports that epoch {} ends at step {}, which is not of it",
                             node_text(report.session), report.epoch, report.step)};
  }
  LOCKSTEP_RETURN_IF_ERROR(add_validation(report));
  epoch_report_ = report;
  epoch_report_->validation.clear();
  decide_epoch_if_whole(actions);
  return {};
}

void Coordinator::decide_epoch_if_whole(CoordinatorActions* actions) {
  if (!epoch_report_ || phase_ != Phase::training || restore_wanted_) return;
  const int64_t end = epoch_report_->step;
  // What is durable was agreed on; it is not reported again.
  const bool agreed =
      facts_.verify_every == 0 || end <= newest_state().step || all_reported_digest(end - 1);
  if (!agreed || !validation_is_whole()) return;
  EpochRecord record{summarize_epoch(*epoch_report_), {}};
  if (facts_.decide) {
    auto decision = facts_.decide(epochs_, record.done);
    if (!decision) {
      plan_snapshot(actions);  // of the state that it may be decided from
      return;
    }
    record.decision = std::move(*decision);
  }
  epochs_.push_back(record);
  // A state that is kept must be durable before the members may leave it behind.
  if (is_kept(end, epochs_, facts_.steps_per_epoch()) && newest_state().step < end &&
      !planted(Bug::decided_before_kept)) {
    epochs_.pop_back();
    plan_snapshot(actions);
    return;
  }
  epoch_report_.reset();
  validation_.clear();
  if (!planted(Bug::epoch_forgotten)) actions->push_back(AppendRecord{record});
  actions->push_back(record);
  send_to_all(event_of(record), actions);
  if (is_over()) phase_ = Phase::finishing;
  plan_snapshot(actions);
  complete_if_durable(actions);
}

// A run may go on to more epochs than its log knew of, but not beyond a decision to stop.
bool Coordinator::goes_on_after(const EpochRecord& epoch) const {
  return !epoch.decision.stop && epoch.done.epoch + 1 < facts_.epochs;
}

std::optional<double> Coordinator::learning_rate_after(int64_t decided) const {
  return decided == 0 ? facts_.learning_rate
                      : epochs_[static_cast<size_t>(decided) - 1].decision.learning_rate;
}

std::optional<double> Coordinator::learning_rate_at(int64_t step) const {
  return learning_rate_after(std::min(std::ssize(epochs_), step / facts_.steps_per_epoch()));
}

EpochEvent Coordinator::event_of(const EpochRecord& epoch) const {
  return {epoch.done.epoch, goes_on_after(epoch), epoch.decision.learning_rate};
}

int64_t Coordinator::end_of_epochs() const {
  return epochs_.empty() ? 0 : epochs_.back().done.last_state(facts_.steps_per_epoch());
}

StateRef Coordinator::newest_state() const {
  return checkpoints_.empty() ? StateRef{} : checkpoints_.back().state;
}

// The next state that is to be kept: an epoch's end, or within an interval in steps. It is taken
// earlier by what is trained until it is durable, and by half as much again since disks differ from
// one time to the next: so that no more than an interval can be lost.
void Coordinator::plan_snapshot(CoordinatorActions* actions) {
  const int64_t decided_end = end_of_epochs();
  int64_t step =
      epoch_report_ ? epoch_report_->step : (std::ssize(epochs_) + 1) * facts_.steps_per_epoch();
  if (phase_ == Phase::finishing) step = decided_end;
  const int64_t newest = newest_state().step;
  const int64_t interval = facts_.checkpoint_every_steps;
  if (interval > 0) {
    const int64_t lead = std::min(most_until_durable_.value_or(interval / 6) * 3 / 2, interval - 1);
    step = std::min(step, std::max(newest + interval - lead, view_.first_step));
  }
  // The epoch that is being measured has an end that may not be kept yet.
  if (newest < decided_end && view_.first_step <= decided_end && steps_done_ <= decided_end) {
    step = decided_end;
  }
  if (step == planned_snapshot_ || step <= newest) return;
  planned_snapshot_ = step;
  ask_snapshot(step, actions);
}

void Coordinator::ask_snapshot(int64_t step, CoordinatorActions* actions) {
  for (const Member& member : view_.members) {
    const Node& node = nodes_.at(member.session);
    const bool last_one = node.leaving && working_count() == 0;
    if (node.left || (node.leaving && !last_one) || doubted_.contains(member.session)) continue;
    actions->push_back(SendEvent{member.session, SnapshotEvent{step}});
    return;
  }
}

void Coordinator::interrupt(const std::string& reason, CoordinatorActions* actions) {
  if (ended() || interrupted_) return;
  if (phase_ != Phase::training || steps_done_ <= newest_state().step) {
    fail(ErrorKind::failed, reason, actions);
    return;
  }
  interrupted_ = reason;
  interrupted_at_ = steps_done_;
  ask_snapshot(0, actions);
}

Status Coordinator::snapshot_stored(SessionId session, const StateRef& state,
                                    CoordinatorActions* actions) {
  LOCKSTEP_RETURN_IF_ERROR(member(session));
  if (ended()) return {};
  if (state.step <= newest_state().step) {
    if (interrupted_) fail(ErrorKind::failed, *interrupted_, actions);
    hand_over_if_kept(actions);
    return {};
  }
  snapshot_ = state;
  snapshot_from_ = session;
  commit_snapshot_if_agreed(actions);
  return {};
}

// A copy of another state than was agreed on: its giver's memory has changed since, or it is of
// before a restore. Another member is asked; if nobody has the state any more, it is derived again.
void Coordinator::ask_another(CoordinatorActions* actions) {
  doubted_.insert(snapshot_from_);
  snapshot_.reset();
  planned_snapshot_ = 0;
  const bool all = std::all_of(view_.members.begin(), view_.members.end(), [&](const Member& one) {
    return nodes_.at(one.session).left || doubted_.contains(one.session);
  });
  if (!all) {
    ask_snapshot(0, actions);
    return;
  }
  restore_wanted_ = true;
  restore_why_ = "no member's state is the one that it reported: silent corruption";
  change_view(actions);
}

// A copy becomes a checkpoint once all members that came to this state by themselves have reported
// its digest: two that agree may both have applied a wrong gradient of a third.
void Coordinator::commit_snapshot_if_agreed(CoordinatorActions* actions) {
  if (!snapshot_ || committing_ || restore_wanted_) return;
  const StateRef state = *snapshot_;
  if (facts_.verify_every > 0) {
    if (!all_reported_digest(state.step - 1)) return;
    const auto& digests = digests_[state.step - 1];
    const bool agreed = std::all_of(digests.begin(), digests.end(), [&](const auto& entry) {
      return entry.second == state.digest;
    });
    if (!agreed) {
      ask_another(actions);
      return;
    }
  }
  const int64_t rows = consumption_.rows_before(state.step);
  if (rows < 0) return;  // reports are under way
  committing_ = true;
  actions->push_back(CommitCheckpoint{state, rows, epochs_, is_over()});
}

void Coordinator::checkpoint_durable(const CheckpointRecord& record, CoordinatorActions* actions) {
  committing_ = false;
  if (ended()) return;
  const int64_t step = record.state.step;
  most_until_durable_ = std::max(most_until_durable_.value_or(0), steps_done_ - step);
  checkpoints_.push_back(record);
  if (snapshot_ && snapshot_->step <= step) snapshot_.reset();
  consumption_.durable_before(step);
  digests_.erase(digests_.begin(), digests_.lower_bound(step - 1));
  checkpoint_ms_ = -1;  // the clock starts again at the next tick
  actions->push_back(CheckpointDone{step, record.state.object});
  // Who was asked may have been a step behind the first.
  if (interrupted_ && step + 1 >= interrupted_at_) {
    fail(ErrorKind::failed, *interrupted_, actions);
    return;
  }
  send_to_all(CheckpointEvent{step}, actions);
  hand_over_if_kept(actions);
  if (started_) plan_snapshot(actions);
  commit_snapshot_if_agreed(actions);  // of the copy that came meanwhile
  make_view_if_held(actions);          // which waited for it
  decide_epoch_if_whole(actions);      // which may have waited, too
  complete_if_durable(actions);
}

void Coordinator::complete_if_durable(CoordinatorActions* actions) {
  if (phase_ != Phase::finishing || newest_state().step != end_of_epochs()) return;
  const auto state = final_state(epochs_, checkpoints_, facts_.steps_per_epoch());
  if (!state) {
    fail(ErrorKind::failed, "the checkpoint of the best epoch is not there any more", actions);
    return;
  }
  phase_ = Phase::completed;
  actions->push_back(AppendRecord{EndRecord{}});
  actions->push_back(JobCompleted{*state});
  send_to_all(StopEvent{ErrorKind::failed, true, "the job is done"}, actions);
}

}  // namespace lockstep
