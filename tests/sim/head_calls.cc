// The coordinator's side of the calls, and what it keeps for each node until it is acknowledged.
#include "host/core/planted.h"
#include "tests/sim/head.h"
#include "tests/sim/sim_node.h"

namespace lockstep::sim {

Status Head::after(Status status, CoordinatorActions actions) {
  act(std::move(actions));
  return status;
}

Result<Welcome> Head::hello(const std::string& name) {
  return coordinator_->hello({kWireVersion, world_.setting.facts.version, name}, world_.now_ms());
}

Status Head::join(SessionId session) {
  JoinRequest request;
  request.session = session;
  request.address = fmt::format("host{}:1", session);
  request.devices = 1;
  request.numerics = world_.setting.facts.numerics;
  request.data_digest = world_.setting.facts.data_digest;
  request.validation_digest = world_.setting.facts.validation_digest;
  request.canary = {{"dense", 7}};
  CoordinatorActions actions;
  const Status status = coordinator_->join(request, world_.now_ms(), &actions);
  return after(status, std::move(actions));
}

// Answers as soon as there is something to say, else after a while.
void Head::poll(const PollRequest& request, PollDone done) {
  const Result<bool> attach = coordinator_->renew(request.session, world_.now_ms());
  if (!attach.ok()) {
    // What it was told last is why.
    const auto found = outboxes_.find(request.session);
    if (found == outboxes_.end() || found->second.events.empty()) {
      done(attach.error());
      return;
    }
  }
  Outbox& outbox = outboxes_[request.session];
  const int64_t received = request.term == term_ ? request.received : 0;
  for (; outbox.acknowledged < received && !outbox.events.empty(); ++outbox.acknowledged) {
    outbox.events.pop_front();
  }
  if (outbox.waiting) outbox.waiting = nullptr;  // the node gave that call up
  if (attach.ok() && *attach) {
    done(PollReply{term_, true, {}});
    return;
  }
  if (!attach.ok() && outbox.events.empty()) {
    done(attach.error());
    return;
  }
  outbox.waiting = std::move(done);
  deliver(request.session);
  auto number = std::make_shared<int64_t>(0);
  world_.after(200 * kMs, [this, session = request.session, life = life_] {
    if (life_ != life) return;
    Outbox& late = outboxes_[session];
    if (!late.waiting) return;
    const PollDone answer = std::move(late.waiting);
    late.waiting = nullptr;
    answer(PollReply{term_, false, {late.events.begin(), late.events.end()}});
  });
}

void Head::deliver(SessionId session) {
  Outbox& outbox = outboxes_[session];
  if (!outbox.waiting || outbox.events.empty()) return;
  const PollDone answer = std::move(outbox.waiting);
  outbox.waiting = nullptr;
  for (const NodeEvent& event : outbox.events) check_event(event);
  answer(PollReply{term_, false, {outbox.events.begin(), outbox.events.end()}});
}

// What a node is told must have been written.
void Head::check_event(const NodeEvent& event) {
  const auto* made = std::get_if<ViewEvent>(&event);
  if (made == nullptr) return;
  world_.store->promised_view = std::max(world_.store->promised_view, made->view.number);
}

Status Head::attach(SessionId session, const Standing& standing) {
  CoordinatorActions actions;
  const Status status = coordinator_->attach(session, standing, world_.now_ms(), &actions);
  return after(status, std::move(actions));
}

Status Head::held(const HeldReport& report) {
  CoordinatorActions actions;
  const Status status = coordinator_->held(report, world_.now_ms(), &actions);
  return after(status, std::move(actions));
}

Status Head::step_applied(const StepReport& report) {
  CoordinatorActions actions;
  const Status status = coordinator_->step_applied(report, world_.now_ms(), &actions);
  return after(status, std::move(actions));
}

Status Head::epoch_measured(const EpochReport& report) {
  CoordinatorActions actions;
  const Status status = coordinator_->epoch_measured(report, &actions);
  return after(status, std::move(actions));
}

Status Head::fault(const FaultReport& report) {
  CoordinatorActions actions;
  const Status status = coordinator_->fault(report, world_.now_ms(), &actions);
  return after(status, std::move(actions));
}

Status Head::ask_to_leave(SessionId session) {
  CoordinatorActions actions;
  const Status status = coordinator_->ask_to_leave(session, &actions);
  return after(status, std::move(actions));
}

void Head::connection_lost(SessionId session) {
  if (serving()) coordinator_->connection_lost(session, world_.now_ms());
}

std::string Head::describe() const {
  if (!coordinator_) return "coordinator: not there";
  const Coordinator& machine = *coordinator_;
  std::string text = fmt::format(
      "coordinator: term {} phase {} view {} from step {} steps done {} checkpoints {} ", term_,
      static_cast<int>(machine.phase()), machine.view().number, machine.view().first_step,
      machine.steps_done(), machine.checkpoints().size());
  for (const auto& [session, outbox] : outboxes_) {
    if (!outbox.events.empty())
      text += fmt::format("[{}: {} events]", session, outbox.events.size());
  }
  if (busy_) text += " busy";
  return text;
}

}  // namespace lockstep::sim
