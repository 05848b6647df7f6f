// The node's talk with the coordinator: polls, reports in order, copies of the state.
#include "host/core/planted.h"
#include "tests/sim/head.h"
#include "tests/sim/sim_node.h"

namespace lockstep::sim {

namespace {
constexpr int64_t kCallUs = kSecond;  // a call's deadline
constexpr int64_t kLinkUs = 2 * kSecond;
}  // namespace

// `on_head` runs there, if it is there; `lost` runs here if no answer comes.
void SimNode::call(std::function<void(Head&)> on_head, std::function<void()> lost, int64_t* id) {
  const int64_t number = ++calls_;
  *id = number;
  outstanding_[number] = std::move(lost);
  const auto self = shared_from_this();
  const auto give_up = [self, number] {
    const auto found = self->outstanding_.find(number);
    if (found == self->outstanding_.end()) return;
    const auto lost_call = std::move(found->second);
    self->outstanding_.erase(found);
    lost_call();
  };
  const int64_t usual = world_.setting.message_us;
  const bool late = world_.random.chance(world_.setting.late_percent);
  const int64_t delay_us = world_.random.between(usual / 4, late ? kCallUs * 9 / 10 : 2 * usual);
  world_.after(delay_us, [self, on_head, give_up, usual] {
    if (self->world_.now_us() < self->control_cut_until_us_) return;
    if (self->world_.head->serving()) {
      on_head(*self->world_.head);
    } else {
      self->post(usual, give_up);
    }
  });
  post(kCallUs, give_up);
}

template <class Reply>
void SimNode::ask(std::function<Reply(Head&)> on_head, std::function<void(Reply)> reply,
                  std::function<void()> lost) {
  auto id = std::make_shared<int64_t>(0);
  const auto self = shared_from_this();
  call(
      [self, on_head, reply, id](Head& head) {
        const Reply answer = on_head(head);
        const int64_t life = head.life();
        const int64_t usual = self->world_.setting.message_us;
        self->post(self->world_.random.between(usual / 4, 2 * usual),
                   [self, reply, answer, id, life] {
                     const bool gone = self->world_.now_us() < self->control_cut_until_us_ ||
                                       self->world_.head->life() != life;
                     if (!gone && self->answered(*id)) reply(answer);
                   });
      },
      std::move(lost), id.get());
}

void SimNode::control_broken() {
  auto lost = std::move(outstanding_);
  outstanding_.clear();
  for (auto& [id, what] : lost) post(world_.random.between(0, 5) * kMs, what);
}

void SimNode::say_hello() {
  const auto self = shared_from_this();
  const auto again = [self] { self->post(300 * kMs, [self] { self->say_hello(); }); };
  ask<Result<Welcome>>(
      [self](Head& head) { return head.hello(fmt::format("node{}", self->slot_)); },
      [self, again](const Result<Welcome>& welcome) {
        if (!welcome.ok()) {
          again();
          return;
        }
        self->session_ = welcome->session;
        self->term_ = welcome->term;
        self->name_ = fmt::format("node{}/{}", self->slot_, self->session_);
        const ClusterFacts& facts = self->world_.setting.facts;
        self->machine_.emplace(
            self->session_, facts.steps_per_epoch(),
            CheckpointRule{facts.checkpoint_every_ms, facts.checkpoint_every_steps});
        std::vector<TransferMachine::Part> parts;
        for (int slice = 0; slice < facts.slices; ++slice) parts.emplace_back(0, slice);
        self->transfer_.emplace(std::move(parts));
        self->exchange_.emplace(facts.partitions, facts.slices,
                                [facts](int64_t step) { return facts.rows_of_step(step); });
        self->world_.trace("{} is welcome in term {}", self->name_, self->term_);
        self->post(self->world_.random.between(1, 200) * kMs, [self] { self->join(); });
      },
      again);
}

void SimNode::join() {
  const auto self = shared_from_this();
  ask<Status>([self](Head& head) { return head.join(self->session_); },
              [self](const Status& status) {
                if (!status.ok()) {
                  self->world_.trace("{}: {}", self->name_, status.error().message);
                  self->exit_process(false);
                  return;
                }
                self->poll();
                self->watch();
              },
              [self] { self->post(50 * kMs, [self] { self->join(); }); });
}

void SimNode::poll() {
  const auto self = shared_from_this();
  auto id = std::make_shared<int64_t>(0);
  const PollRequest request{session_, term_, received_};
  call(
      [self, request, id](Head& head) {
        const int64_t life = head.life();
        head.poll(request, [self, id, life](Result<PollReply> reply) {
          const int64_t usual = self->world_.setting.message_us;
          self->post(self->world_.random.between(usual / 4, 2 * usual), [self, reply, id, life] {
            const bool gone = self->world_.now_us() < self->control_cut_until_us_ ||
                              self->world_.head->life() != life;
            if (!gone && self->answered(*id)) self->polled(reply);
          });
        });
      },
      [self] {
        self->machine_->coordinator_away(true);
        self->wake();
        self->post(self->world_.random.between(10, 100) * kMs, [self] { self->poll(); });
      },
      id.get());
}

void SimNode::polled(const Result<PollReply>& reply) {
  if (!reply.ok()) {
    world_.trace("{}: {}", name_, reply.error().message);
    exit_process(false);
    return;
  }
  machine_->coordinator_away(false);
  if (reply->term < term_) {
    world_.fail(fmt::format("{} hears of term {} after term {}", name_, reply->term, term_));
  }
  if (reply->term > term_) new_term(reply->term);
  if (reply->attach && !attach_asked_) {
    attach_asked_ = true;
    reports_.clear();
    report_under_way_ = 0;
    report(Attach{});
    for (const StepReport& step : kept_steps_) report(step);
    for (const EpochReport& epoch : kept_epochs_) report(epoch);
    if (leaving_) report(AskLeave{});
  }
  for (const NodeEvent& event : reply->events) {
    ++received_;
    machine_->event(event, world_.now_ms());
    // What changes views must bear to be said twice, and late.
    const bool repeats =
        std::holds_alternative<ViewEvent>(event) || std::holds_alternative<HoldEvent>(event);
    if (repeats && world_.random.chance(3)) {
      post(world_.random.between(1, 500) * kMs, [self = shared_from_this(), event] {
        self->machine_->event(event, self->world_.now_ms());
        self->wake();
      });
    }
    if (std::holds_alternative<CheckpointEvent>(event)) {
      std::erase_if(kept_steps_,
                    [&](const StepReport& step) { return step.step < machine_->durable_step(); });
    }
    if (std::holds_alternative<EpochEvent>(event)) {
      std::erase_if(kept_epochs_, [&](const EpochReport& epoch) {
        return epoch.epoch < machine_->standing().decided_epochs;
      });
    }
  }
  wake();
  post(world_.random.between(0, 20) * kMs, [self = shared_from_this()] { self->poll(); });
}

// What the old one was to hear and did not, the new one hears when this node attaches.
void SimNode::new_term(int64_t term) {
  term_ = term;
  received_ = 0;
  attach_asked_ = false;
}

void SimNode::report(Report what) {
  reports_.push_back(std::move(what));
  if (reports_.size() > 300) world_.fail(fmt::format("{}'s reports grow without end", name_));
  send_reports();
}

Status SimNode::send_one(Head& head, const Report& what) {
  if (std::holds_alternative<Attach>(what)) return head.attach(session_, machine_->standing());
  if (std::holds_alternative<AskLeave>(what)) return head.ask_to_leave(session_);
  if (const auto* held = std::get_if<HeldReport>(&what)) return head.held(*held);
  if (const auto* step = std::get_if<StepReport>(&what)) return head.step_applied(*step);
  if (const auto* epoch = std::get_if<EpochReport>(&what)) return head.epoch_measured(*epoch);
  return head.fault(std::get<FaultReport>(what));
}

// One at a time and in order; again until it is answered.
void SimNode::send_reports() {
  if (reports_.empty() || report_under_way_ != 0) return;
  const int64_t number = ++report_numbers_;
  report_under_way_ = number;
  const auto self = shared_from_this();
  ask<Status>([self, what = reports_.front()](Head& head) { return self->send_one(head, what); },
              [self, number](const Status& status) {
                if (self->report_under_way_ != number) return;
                self->report_under_way_ = 0;
                if (!status.ok()) {
                  self->world_.trace("{}: {}", self->name_, status.error().message);
                  if (status.error().kind != ErrorKind::refused) {
                    self->world_.fail(fmt::format("the coordinator takes {} for a liar: {}",
                                                  self->name_, status.error().message));
                  }
                  self->exit_process(false);
                  return;
                }
                self->reports_.pop_front();
                self->send_reports();
              },
              [self, number] {
                if (self->report_under_way_ != number) return;
                self->post(self->world_.random.between(10, 100) * kMs, [self, number] {
                  if (self->report_under_way_ != number) return;
                  self->report_under_way_ = 0;
                  self->send_reports();
                });
              });
}

void SimNode::upload(int64_t step) {
  const auto self = shared_from_this();
  machine_->snapshot_taken();
  machine_->snapshot_under_way(true);
  world_.trace("{} copies state[{}]", name_, step);
  send_copy(step, state_.bytes());
  post(world_.random.between(0, 3 * kMs), [self] { self->done(); });
}

// Until it is stored: the coordinator does not ask for the same copy twice.
void SimNode::send_copy(int64_t step, const std::string& bytes) {
  const auto self = shared_from_this();
  auto id = std::make_shared<int64_t>(0);
  call(
      [self, id, step, bytes](Head& head) {
        head.upload(self->session_, step, bytes, [self, id, life = head.life()](const Status&) {
          self->post(self->world_.setting.message_us, [self, id, life] {
            if (self->world_.head->life() != life || !self->answered(*id)) return;
            self->machine_->snapshot_under_way(false);
            self->wake();
          });
        });
      },
      [self, step, bytes] {
        self->post(100 * kMs, [self, step, bytes] { self->send_copy(step, bytes); });
      },
      id.get());
}

void SimNode::ask_to_leave() {
  leaving_ = true;
  world_.trace("{} asks to leave", name_);
  report(AskLeave{});
}

void SimNode::fail_itself() {
  world_.trace("{} reports that it fails", name_);
  const FaultReport fault{session_, 0, 0, "it failed"};
  ask<Status>([fault](Head& head) { return head.fault(fault); }, [](const Status&) {}, [] {});
  post(world_.random.between(0, 30) * kMs, [self = shared_from_this()] { self->die(); });
}

// Time passes: rules that depend on it, and links that do not come back.
void SimNode::watch() {
  wake();
  if (machine_->view()) {
    for (const Member& member : machine_->view()->members) {
      Peer& peer = peers_[member.session];
      const bool missing = member.session != session_ && !peer.stream;
      if (!missing || world_.now_us() - peer.without_since_us < kLinkUs) continue;
      peer.without_since_us = world_.now_us();
      world_.trace("{} complains about {}", name_, member.session);
      world_.count("complaints");
      report(FaultReport{session_, member.session, machine_->step(), "no connection"});
    }
  }
  post(100 * kMs, [self = shared_from_this()] { self->watch(); });
}

}  // namespace lockstep::sim
