#include "host/cluster/coordinator.h"

#include <fmt/format.h>

#include <algorithm>

#include "host/core/planted.h"

namespace lockstep {
namespace {

constexpr int64_t kComplaintsMs = 300;  // complaints are collected before one is expelled

}  // namespace

int64_t ClusterFacts::rows_of_step(int64_t step) const {
  return std::min(batch_size, train_rows - (step + first_batch) % batches_per_pass() * batch_size);
}

Coordinator::Coordinator(ClusterFacts facts, int64_t term, const RecoveredJob& recovered,
                         bool may_return, int64_t now_ms)
    : facts_(std::move(facts)),
      term_(term),
      consumption_(facts_.partitions, [this](int64_t step) { return facts_.rows_of_step(step); }) {
  epochs_ = recovered.epochs;
  checkpoints_ = recovered.checkpoints;
  // Another version may compute the same bits by other ops.
  if (recovered.canary && recovered.canary->version == facts_.version) canary_ = recovered.canary;
  if (!checkpoints_.empty()) {
    consumption_.restore(checkpoints_.back().state.step, checkpoints_.back().samples_consumed);
  }
  if (!recovered.view) return;
  view_ = *recovered.view;
  started_ = may_return;  // else it starts again, from what is durable
  resumed_ = true;
  hold_ = view_.number;
  steps_done_ = view_.first_step;
  if (!may_return) return;
  phase_ = Phase::changing;
  for (const Member& former : view_.members) {
    Node node;
    node.hello.name = former.name;
    node.join.session = former.session;
    node.join.address = former.address;
    node.joined = true;
    node.attached = false;
    node.lease_ends_ms = now_ms + facts_.lease_ms;
    nodes_[former.session] = node;
  }
}

Result<Welcome> Coordinator::hello(const Hello& hello, int64_t now_ms) {
  LOCKSTEP_RETURN_IF_ERROR(check_version(join_terms(), hello));
  if (ended()) return refused_error("refused to join: the job is over");
  if (live_count() >= facts_.max_nodes) {
    if (room_may_come(now_ms)) {
      return Error{"the job has all its nodes, and one of them may be about to go; try again"};
    }
    return refused_error("refused to join: the job is already running with all its nodes");
  }
  const int64_t first = planted(Bug::no_term_check) ? 0 : term_ * kSessionsPerTerm;
  const SessionId session = first + ++sessions_;
  Node node;
  node.hello = hello;
  nodes_[session] = node;
  return Welcome{session, term_, facts_.job};
}

// The bits of the nodes that are there, or of those that began the job.
std::vector<OpDigest> Coordinator::expected_canary() const {
  if (canary_) return canary_->ops;
  for (const auto& [session, node] : nodes_) {
    if (node.live() && !node.join.canary.empty()) return node.join.canary;
  }
  return {};
}

JoinTerms Coordinator::join_terms() const {
  return {facts_.version, facts_.numerics, facts_.data_digest, facts_.validation_digest};
}

Status Coordinator::join(const JoinRequest& request, int64_t now_ms, CoordinatorActions* actions) {
  const auto found = nodes_.find(request.session);
  if (found == nodes_.end() || found->second.left) {
    const int64_t term = request.session / kSessionsPerTerm;
    if (term > 0 && term < term_) return Error{"the coordinator has come back; say hello again"};
    return refused_error("refused to join: unknown session");
  }
  Node& node = found->second;
  if (node.joined) return {};
  if (ended()) return refused_error("refused to join: the job is over");
  if (live_count() >= facts_.max_nodes) {
    return refused_error("refused to join: the job has all its nodes");
  }
  LOCKSTEP_RETURN_IF_ERROR(check_join(join_terms(), expected_canary(), request));
  node.join = request;
  node.joined = true;
  node.lease_ends_ms = now_ms + facts_.lease_ms;
  actions->push_back(NodeJoined{{request.session, node.hello.name, request.address, {}, {}, -1},
                                request.device,
                                request.devices});
  change_view(actions);
  return {};
}

// Asks everyone to hold. One change at a time: who comes while one is under way is part of it.
void Coordinator::change_view(CoordinatorActions* actions) {
  if (ended()) return;
  if (!started_ && live_count() < facts_.start_nodes) return;
  if (hold_ <= view_.number) {
    ++hold_;
    for (auto& [session, node] : nodes_) {
      node.held.reset();
      node.asked_to_hold = false;
    }
  }
  phase_ = Phase::changing;
  for (auto& [session, node] : nodes_) {
    if (!node.live() || !node.attached || node.asked_to_hold) continue;
    node.asked_to_hold = true;
    actions->push_back(SendEvent{session, HoldEvent{hold_}});
  }
  make_view_if_held(actions);
}

Status Coordinator::held(const HeldReport& report, int64_t now_ms, CoordinatorActions* actions) {
  LOCKSTEP_ASSIGN(Node * node, member(report.session));
  node->lease_ends_ms = std::max(node->lease_ends_ms, now_ms + facts_.lease_ms);
  if (phase_ != Phase::changing || report.number != hold_) return {};  // of a change that is over
  node->held = report.standing;
  // A restore was logged, and the coordinator died before it said so: what is there does not count.
  if (report.standing.view < view_.era) node->held->step = -1;
  make_view_if_held(actions);
  return {};
}

void Coordinator::make_view_if_held(CoordinatorActions* actions) {
  if (phase_ != Phase::changing || hold_ <= view_.number) return;
  const int needed = std::max(started_ ? 1 : facts_.start_nodes, facts_.min_nodes);
  // Who leaves works on while there are too few without it.
  const bool enough = working_count() >= needed;
  ViewRequest request;
  for (const auto& [session, node] : nodes_) {
    if (!node.live()) continue;
    if (!node.attached || !node.held) return;
    request.candidates.push_back({session, node.hello.name, node.join.address, node.held->step,
                                  node.held->begun, node.held->since, !node.leaving || !enough});
  }
  if (static_cast<int>(request.candidates.size()) < needed) return;  // the job waits for nodes
  request.number = hold_;
  request.partitions = facts_.partitions;
  request.slices = facts_.slices;
  request.durable = newest_state();
  request.restore = restore_wanted_;
  const bool no_state = std::all_of(request.candidates.begin(), request.candidates.end(),
                                    [](const Candidate& candidate) { return candidate.step < 0; });
  if (no_state && !restore_wanted_) restore_why_ = "no node holds the state";
  if ((restore_wanted_ || no_state) && committing_) return;  // it will be the state to go back to
  const View previous = view_;
  if (restore_wanted_ || no_state) {
    const auto decided = static_cast<size_t>(request.durable.step / facts_.steps_per_epoch());
    if (epochs_.size() > decided) epochs_.resize(decided);
  }
  view_ = make_view(previous, request);
  // What was decided of later steps, and that training is over, is said by decisions that follow
  // the view.
  view_.decided_epochs = std::min(static_cast<int64_t>(epochs_.size()) - (is_over() ? 1 : 0),
                                  view_.first_step / facts_.steps_per_epoch());
  view_.learning_rate = learning_rate_after(view_.decided_epochs);
  announce(previous, actions);
}

void Coordinator::announce(const View& previous, CoordinatorActions* actions) {
  phase_ = Phase::training;
  const bool first = !started_ && !resumed_;
  started_ = true;
  complaints_.clear();
  for (Death& death : deaths_) {
    if (previous.index_of(death.session) >= 0) death.partitions = partitions_dealt(previous, view_);
  }
  if (!canary_ && !expected_canary().empty()) {
    canary_ = CanaryRecord{facts_.version, expected_canary()};
    actions->push_back(AppendRecord{*canary_});
  }
  actions->push_back(AppendRecord{ViewRecord{view_}});
  actions->push_back(ViewMade{view_});
  if (view_.restores && !first) restored(actions);
  for (const Member& member : view_.members) {
    actions->push_back(SendEvent{member.session, ViewEvent{view_}});
    actions->push_back(SendEvent{member.session, CheckpointEvent{newest_state().step}});
    // What it was told before the coordinator was away it may have missed.
    const bool keeps_state = member.step >= 0 && !view_.restores;
    Node& node = nodes_.at(member.session);
    node.since = keeps_state ? node.held->since : view_.first_step;
    int64_t decided = keeps_state ? node.held->decided_epochs : view_.decided_epochs;
    // A coordinator that comes back with more epochs goes on after what was the last one.
    if (keeps_state && resumed_ && decided > 0) --decided;
    for (auto epoch = static_cast<size_t>(decided); epoch < epochs_.size(); ++epoch) {
      actions->push_back(SendEvent{member.session, event_of(epochs_[epoch])});
    }
  }
  count_applied(actions);
  commit_snapshot_if_agreed(actions);
  snapshot_asked_ms_ = -1;
  planned_snapshot_ = 0;
  doubted_.clear();
  if (is_over()) phase_ = Phase::finishing;
  decide_epoch_if_whole(actions);  // the last report may have come while the members held
  plan_snapshot(actions);
  const bool hands_over = std::any_of(nodes_.begin(), nodes_.end(), [](const auto& entry) {
    return entry.second.live() && entry.second.leaving;
  });
  if (hands_over && too_few_work()) ask_hand_over(actions);
  complete_if_durable(actions);
}

Result<Coordinator::Node*> Coordinator::member(SessionId session) {
  const auto found = nodes_.find(session);
  const bool left = found != nodes_.end() && found->second.left;
  if (found == nodes_.end() || (left && !planted(Bug::no_session_check))) {
    return refused_error("unknown session: this node is not a member of the job");
  }
  return &found->second;
}

Result<bool> Coordinator::renew(SessionId session, int64_t now_ms) {
  LOCKSTEP_ASSIGN(Node * node, member(session));
  node->lease_ends_ms = now_ms + facts_.lease_ms;
  return !node->attached;
}

Status Coordinator::attach(SessionId session, const Standing& standing, int64_t now_ms,
                           CoordinatorActions* actions) {
  LOCKSTEP_ASSIGN(Node * node, member(session));
  node->lease_ends_ms = now_ms + facts_.lease_ms;
  if (node->attached) return {};
  if (standing.view > view_.number) {
    return refused_error(fmt::format(
        "this node is in view {}, the coordinator's log ends at {}: it is not this job's log",
        standing.view, view_.number));
  }
  node->attached = true;
  // One change for all that come back; tick() sees to those that do not.
  if (all_attached()) change_view(actions);
  return {};
}

Status Coordinator::fault(const FaultReport& report, int64_t now_ms, CoordinatorActions* actions) {
  LOCKSTEP_RETURN_IF_ERROR(member(report.session));
  if (ended()) return {};
  if (report.accused == 0) {
    node_died(report.session, report.what, now_ms, actions);
    return {};
  }
  const auto accused = nodes_.find(report.accused);
  if (accused == nodes_.end() || !accused->second.live()) return {};
  if (complaints_.empty()) verdict_ms_ = now_ms + kComplaintsMs;
  complaints_.push_back({report.session, report.accused});
  return {};
}

// Both ends of a broken link may be alive: the one with most complaints goes, then the later.
void Coordinator::settle_complaints(int64_t now_ms, CoordinatorActions* actions) {
  if (complaints_.empty() || now_ms < verdict_ms_) return;
  std::map<SessionId, std::set<SessionId>> against;
  for (const Complaint& complaint : complaints_) {
    const auto from = nodes_.find(complaint.from);
    const auto accused = nodes_.find(complaint.accused);
    const bool both_live = from != nodes_.end() && from->second.live() && accused != nodes_.end() &&
                           accused->second.live();
    if (both_live) against[complaint.accused].insert(complaint.from);
  }
  complaints_.clear();
  SessionId expelled = 0;
  size_t most = 0;
  for (const auto& [session, from] : against) {
    if (from.size() < most) continue;
    most = from.size();
    expelled = session;
  }
  if (expelled == 0) return;
  expel(expelled, ErrorKind::failed,
        fmt::format("{} other member{} cannot reach it", most, most == 1 ? "" : "s"), now_ms,
        actions);
}

void Coordinator::expel(SessionId session, ErrorKind kind, const std::string& why, int64_t now_ms,
                        CoordinatorActions* actions) {
  actions->push_back(SendEvent{session, StopEvent{kind, false, "expelled from the job: " + why}});
  node_died(session, why, now_ms, actions);
}

Status Coordinator::ask_to_leave(SessionId session, CoordinatorActions* actions) {
  LOCKSTEP_ASSIGN(Node * node, member(session));
  if (node->leaving || ended()) return {};
  node->leaving = true;
  if (!started_ || !node->joined) {  // nothing to hand over
    actions->push_back(SendEvent{session, StopEvent{ErrorKind::failed, true, "left"}});
    node->left = true;
    if (!node->joined) return {};
    actions->push_back(NodeLeft{session, node->steps, "left"});
    change_view(actions);
    return {};
  }
  if (too_few_work()) {
    ask_hand_over(actions);
    return {};
  }
  change_view(actions);
  return {};
}

// Leaving members have no partitions in this view. Once a step of it is applied, every member has
// the state, and they may go.
void Coordinator::finish_leaving(int64_t step, CoordinatorActions* actions) {
  if (phase_ != Phase::training || step < view_.first_step) return;
  let_leave(
      [this](SessionId session) {
        const int index = view_.index_of(session);
        return index >= 0 && view_.members[index].partitions.empty();
      },
      actions);
}

// Those that asked to go and have handed over.
void Coordinator::let_leave(const std::function<bool(SessionId)>& may_go,
                            CoordinatorActions* actions) {
  bool any = false;
  for (auto& [session, node] : nodes_) {
    if (!node.live() || !node.leaving || !may_go(session)) continue;
    actions->push_back(SendEvent{session, StopEvent{ErrorKind::failed, true, "handed over"}});
    actions->push_back(NodeLeft{session, node.steps, "left"});
    node.left = true;
    any = true;
  }
  if (any) change_view(actions);
}

// There is nobody to hand over to: the state, as it is now or later, must be durable first.
void Coordinator::ask_hand_over(CoordinatorActions* actions) {
  hand_over_at_ = steps_done_;
  ask_snapshot(0, actions);
}

void Coordinator::hand_over_if_kept(CoordinatorActions* actions) {
  // Who was asked may have been a step behind the first.
  if (!too_few_work() || newest_state().step + 1 < hand_over_at_) return;
  let_leave([](SessionId) { return true; }, actions);
}

Status Coordinator::leave(SessionId session, int64_t now_ms, CoordinatorActions* actions) {
  LOCKSTEP_ASSIGN(Node * node, member(session));
  if (!ended()) {
    node_died(session, "it left", now_ms, actions);
    return {};
  }
  node->left = true;
  actions->push_back(NodeLeft{session, node->steps, "done"});
  return {};
}

void Coordinator::connection_lost(SessionId session, int64_t now_ms) {
  const auto found = nodes_.find(session);
  if (found == nodes_.end() || found->second.left) return;
  found->second.lease_ends_ms = std::min(found->second.lease_ends_ms, now_ms + kReconnectMs);
}

void Coordinator::node_died(SessionId session, const std::string& how, int64_t now_ms,
                            CoordinatorActions* actions) {
  const auto found = nodes_.find(session);
  if (found == nodes_.end() || found->second.left) return;
  Node& node = found->second;
  node.left = true;
  if (!node.joined) return;
  actions->push_back(NodeLeft{session, node.steps, how});
  if (ended()) return;
  if (view_.index_of(session) >= 0) deaths_.push_back({session, node.hello.name, how, now_ms, 0});
  for (auto& [step, digests] : digests_) digests.erase(session);
  change_view(actions);
}

void Coordinator::fail(ErrorKind kind, const std::string& reason, CoordinatorActions* actions) {
  if (ended()) return;
  phase_ = Phase::failed;
  actions->push_back(JobFailed{kind, reason});
  send_to_all(StopEvent{kind, false, reason}, actions);
}

void Coordinator::stop(ErrorKind kind, const std::string& reason, CoordinatorActions* actions) {
  fail(kind, reason, actions);
}

void Coordinator::tick(int64_t now_ms, CoordinatorActions* actions) {
  std::vector<SessionId> dead;
  for (const auto& [session, node] : nodes_) {
    if (node.live() && now_ms >= node.lease_ends_ms) dead.push_back(session);
  }
  for (const SessionId session : dead) {
    node_died(session, "it gave no sign of life", now_ms, actions);
  }
  settle_complaints(now_ms, actions);
  decide_epoch_if_whole(actions);
  if (phase_ != Phase::training || facts_.checkpoint_every_ms <= 0) return;
  if (checkpoint_ms_ < 0) checkpoint_ms_ = now_ms;
  const int64_t since = std::max(checkpoint_ms_, snapshot_asked_ms_);
  if (now_ms - since < facts_.checkpoint_every_ms) return;
  if (steps_done_ <= newest_state().step) return;  // nothing new
  snapshot_asked_ms_ = now_ms;
  ask_snapshot(0, actions);
}

void Coordinator::send_to_all(const NodeEvent& event, CoordinatorActions* actions) {
  for (const auto& [session, node] : nodes_) {
    if (!node.left) actions->push_back(SendEvent{session, event});
  }
}

int Coordinator::live_count() const {
  return static_cast<int>(std::count_if(nodes_.begin(), nodes_.end(),
                                        [](const auto& entry) { return entry.second.live(); }));
}

// Some node has not come back, leaves, or has been silent for longer than one that is well.
bool Coordinator::room_may_come(int64_t now_ms) const {
  return std::any_of(nodes_.begin(), nodes_.end(), [&](const auto& entry) {
    const Node& node = entry.second;
    const bool silent = is_silent(node.lease_ends_ms, facts_.lease_ms, now_ms);
    return node.live() && (!node.attached || node.leaving || silent);
  });
}

bool Coordinator::all_attached() const {
  return std::all_of(nodes_.begin(), nodes_.end(), [](const auto& entry) {
    return !entry.second.live() || entry.second.attached;
  });
}

bool Coordinator::too_few_work() const { return working_count() < std::max(1, facts_.min_nodes); }

int Coordinator::working_count() const {
  return static_cast<int>(std::count_if(nodes_.begin(), nodes_.end(), [](const auto& entry) {
    return entry.second.live() && !entry.second.leaving;
  }));
}

std::string Coordinator::node_text(SessionId session) const {
  const auto found = nodes_.find(session);
  return fmt::format("node '{}' (session {})",
                     found == nodes_.end() ? "?" : found->second.hello.name, session);
}

}  // namespace lockstep
