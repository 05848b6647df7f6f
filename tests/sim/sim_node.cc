#include "tests/sim/sim_node.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "host/core/planted.h"
#include "host/reduce/layout.h"
#include "tests/sim/head.h"

namespace lockstep::sim {

void SimNode::post(int64_t delay_us, std::function<void()> what) {
  world_.after(delay_us, [self = shared_from_this(), what = std::move(what)] {
    if (!self->alive_) return;
    if (self->frozen_) {
      self->backlog_.push_back(what);
    } else {
      what();
    }
  });
}

void SimNode::die() {
  if (!alive_) return;
  world_.trace("{} (session {}) dies", name_, session_);
  const bool silent = world_.random.chance(20);  // the machine, not the process
  for (auto& [session, peer] : peers_) {
    if (!peer.stream) continue;
    if (silent) peer.stream->sides[peer.stream->side_of(session_)].closed = true;
    if (!silent) world_.network->close(peer.stream, session_);
  }
  alive_ = false;
  if (!silent && world_.head) {
    world_.after(world_.random.between(1, 20) * kMs,
                 [world = &world_, session = session_] { world->head->connection_lost(session); });
  }
  world_.node_exited(this, false);
}

void SimNode::exit_process(bool clean) {
  if (!alive_) return;
  world_.trace("{} (session {}) ends", name_, session_);
  for (auto& [session, peer] : peers_) {
    if (peer.stream) world_.network->close(peer.stream, session_);
  }
  alive_ = false;
  world_.after(world_.random.between(1, 20) * kMs,
               [world = &world_, session = session_] { world->head->connection_lost(session); });
  world_.node_exited(this, clean);
}

bool SimNode::is_expelled() const {
  const Coordinator* coordinator = world_.head->machine();
  return coordinator != nullptr && coordinator->view().index_of(session_) < 0;
}

void SimNode::freeze(int64_t for_us) {
  if (!alive_ || frozen_) return;
  frozen_ = true;
  world_.trace("{} stands still for {} us", name_, for_us);
  world_.after(for_us, [self = shared_from_this(), freeze = ++freezes_] {
    if (!self->alive_ || self->freezes_ != freeze) return;
    self->frozen_ = false;
    self->world_.trace("{} goes on", self->name_);
    while (!self->backlog_.empty() && self->alive_) {
      const auto what = std::move(self->backlog_.front());
      self->backlog_.pop_front();
      what();
    }
  });
}

// Not the exponent's highest bit: where it makes NaN of a gradient all states are the same ones.
void SimNode::flip_bit() {
  const auto bit = static_cast<uint32_t>(1) << world_.random.between(0, 29);
  auto& values = world_.random.chance(50) ? state_.weights : state_.momentum;
  float& value = values[static_cast<size_t>(
      world_.random.between(0, static_cast<int64_t>(values.size()) - 1))];
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  bits ^= bit;
  std::memcpy(&value, &bits, 4);
  world_.trace("{} has a flipped bit {:x} in state[{}]", name_, bit, state_.step);
}

void SimNode::wake() {
  if (!machine_ || busy_ || main_scheduled_) return;
  main_scheduled_ = true;
  post(world_.random.between(0, 300), [self = shared_from_this()] { self->step_main(); });
}

void SimNode::done() {
  busy_ = false;
  wake();
}

void SimNode::step_main() {
  main_scheduled_ = false;
  if (busy_) return;
  perform(machine_->next(world_.now_ms()));
}

void SimNode::perform(const NodeAction& action) {
  if (std::holds_alternative<AwaitEvent>(action)) return;
  busy_ = true;
  if (const auto* held = std::get_if<ReportHeld>(&action)) {
    world_.trace("{} holds for view {} at step {} begun {}", name_, held->number,
                 held->standing.step, held->standing.begun);
    report(HeldReport{session_, held->number, held->standing});
    machine_->held_reported(held->number);
    done();
  } else if (const auto* adoption = std::get_if<AdoptView>(&action)) {
    adopt(adoption->view);
  } else if (const auto* restoring = std::get_if<RestoreState>(&action)) {
    restore(restoring->state);
  } else if (const auto* awaited = std::get_if<AwaitState>(&action)) {
    await_state(awaited->step);
  } else if (std::get_if<TakeSnapshot>(&action) != nullptr) {
    upload(state_.step);
  } else if (const auto* computing = std::get_if<ComputeStep>(&action)) {
    compute(*computing);
  } else if (const auto* alone = std::get_if<TrainAlone>(&action)) {
    train_alone(*alone);
  } else if (const auto* awaiting = std::get_if<AwaitStep>(&action)) {
    busy_ = false;
    if (!exchange_->complete(awaiting->step)) return;
    machine_->step_complete();
    wake();
  } else if (const auto* applying = std::get_if<ApplyStep>(&action)) {
    std::vector<float> flat;
    for (int slice = 0; slice < world_.setting.facts.slices; ++slice) {
      const auto& reduced = values_at(applying->step).reduced[static_cast<size_t>(slice)];
      if (!reduced) {
        world_.fail(
            fmt::format("{} applies step {} without slice {}", name_, applying->step, slice));
        return;
      }
      flat.insert(flat.end(), reduced->begin(), reduced->end());
    }
    apply(applying->step, flat);
  } else if (const auto* measuring = std::get_if<MeasureEpoch>(&action)) {
    measure(*measuring);
  } else if (const auto* leave = std::get_if<LeaveJob>(&action)) {
    world_.trace("{} leaves: {}", name_, leave->reason);
    exit_process(leave->completed);
  }
}

void SimNode::adopt(const View& view) {
  const bool new_era = view.era != era();
  if (machine_->view() && view.number <= machine_->view()->number) {
    world_.fail(fmt::format("{} goes back to view {}", name_, view.number));
  }
  drop_streams(view, new_era && !planted(Bug::stale_era));
  if (new_era) {
    values_.clear();
    kept_steps_.clear();
    kept_epochs_.clear();
  }
  const Member& self = view.members[static_cast<size_t>(view.index_of(session_))];
  const bool keeps_state = !view.restores && self.step >= 0;
  if (!keeps_state) {
    has_state_bytes_ = false;
    contributed_.clear();
  }
  exchange_step_ = keeps_state ? machine_->step() : view.first_step;
  state_parts_.clear();
  ExchangeOrders orders;
  exchange_->adopt(view, session_, exchange_step_, &orders);
  transfer_->adopt(view, session_, &orders.sends);
  machine_->view_adopted();
  forget_values();
  world_.trace("{} adopts view {} era {} at step {} (first {}{}{})", name_, view.number, view.era,
               machine_->standing().step, view.first_step, view.carries ? ", carries" : "",
               view.restores ? ", restores" : "");
  carry_out(orders);
  dial_peers();
  post(world_.random.between(0, 2 * kMs), [self = shared_from_this()] { self->done(); });
}

void SimNode::restore(const StateRef& state) {
  post(world_.random.between(1, 4) * world_.setting.disk_us, [self = shared_from_this(), state] {
    if (state.object.empty()) {
      self->state_ = self->world_.model->initial_state();
    } else {
      const auto found = self->world_.store->objects.find(state.object);
      if (found == self->world_.store->objects.end()) {
        // One that was expelled while it stood still may want what the others are long past.
        if (self->is_expelled()) return self->exit_process(false);
        self->world_.fail(fmt::format("the state of step {} is not in the store", state.step));
        return;
      }
      self->state_ = ToyState::from_bytes(found->second);
    }
    self->has_state_bytes_ = true;
    self->world_.trace("{} restored step {}", self->name_, state.step);
    self->world_.check_state(state.step, self->state_.digest(), self->name_, self->era());
    self->machine_->state_here(state.step, self->ends_epoch());
    self->done();
  });
}

void SimNode::await_state(int64_t step) {
  busy_ = false;
  if (transfer_->missing() > 0) return;
  transfer_->taken();
  state_ = ToyState{};
  state_.step = step;
  for (const auto& [slice, part] : state_parts_) {
    const size_t values = part.size() - 2 * kToySums;  // then doubles
    for (size_t i = 0; i < values; i += 2) {
      state_.weights.push_back(part[i]);
      state_.momentum.push_back(part[i + 1]);
    }
    std::memcpy(state_.sums.data(), part.data() + values, 8 * kToySums);
  }
  state_parts_.clear();
  has_state_bytes_ = true;
  world_.count("states received");
  world_.check_state(step, state_.digest(), name_, era());
  machine_->state_here(step, ends_epoch());
  wake();
}

// The roots in which a device leaves its sums: some single, some joined.
std::vector<Piece> SimNode::gradients(const std::vector<PartitionRange>& partitions) {
  std::vector<Piece> roots;
  int local_row = 0;
  for (const PartitionRange range : partitions) {
    std::vector<Piece> singles;
    for (int p = range.begin; p < range.end; ++p) {
      const bool is_empty = world_.model->rows(state_.step, p) == 0;
      if (is_empty && !planted(Bug::empty_as_zeros)) continue;
      singles.push_back({{p, 0}, world_.model->gradient(state_, p, local_row)});
      if (is_empty) std::fill(singles.back().values.begin(), singles.back().values.end(), 0.0f);
      local_row += world_.model->rows(state_.step, p);
      world_.computed(era(), state_.step, p);
      contributed_.insert(p);
    }
    const int64_t rows = world_.setting.facts.rows_of_step(state_.step);
    if (world_.random.chance(50) && !planted(Bug::empty_as_zeros)) {
      for (const Subtree& subtree :
           contributed_subtrees(rows, world_.setting.facts.partitions, range)) {
        roots.push_back({subtree, *sum_in_tree(singles, subtree)});
      }
    } else {
      roots.insert(roots.end(), singles.begin(), singles.end());
    }
  }
  return roots;
}

void SimNode::compute(const ComputeStep& action) {
  ExchangeOrders orders;
  if (!machine_->standing().begun) {
    contributed_.clear();
    exchange_->begin(action.step, &orders);
    carry_out(orders);
  }
  if (state_.step != action.step) {
    world_.fail(
        fmt::format("{} is to compute step {} of state[{}]", name_, action.step, state_.step));
    return;
  }
  const auto roots = gradients(action.partitions);
  world_.trace("{} computes step {}: {} roots", name_, action.step, roots.size());
  int64_t at_us = world_.random.between(1, world_.setting.compute_us);
  std::vector<int> slices(static_cast<size_t>(world_.setting.facts.slices));
  for (size_t i = 0; i < slices.size(); ++i) {
    slices[i] = static_cast<int>(i);
    std::swap(slices[i],
              slices[static_cast<size_t>(world_.random.between(0, static_cast<int64_t>(i)))]);
  }
  const auto self = shared_from_this();
  for (const int slice : slices) {
    if (roots.empty()) break;
    post(at_us,
         [self, step = action.step, slice, roots] { self->slice_ready(step, slice, roots); });
    at_us += world_.random.between(1, world_.setting.compute_us / 8);
  }
  post(at_us, [self, partitions = action.partitions] {
    self->machine_->computed(partitions);
    self->done();
  });
}

void SimNode::slice_ready(int64_t step, int slice, const std::vector<Piece>& roots) {
  std::vector<Subtree> keys;
  auto& local = values_at(step).local[static_cast<size_t>(slice)];
  for (const Piece& root : roots) {
    keys.push_back(root.subtree);
    const auto begin = root.values.begin();
    local.push_back(
        {root.subtree,
         {begin + world_.model->slice_begin(slice), begin + world_.model->slice_end(slice)}});
  }
  ExchangeOrders orders;
  exchange_->local_ready(step, slice, keys, &orders);
  carry_out(orders);
}

void SimNode::train_alone(const TrainAlone& action) {
  contributed_.clear();
  const auto roots = gradients(action.partitions);
  const auto flat = sum_in_tree(roots, root_subtree(world_.setting.facts.partitions));
  post(world_.random.between(1, world_.setting.compute_us),
       [self = shared_from_this(), step = action.step, flat] { self->apply(step, *flat); });
}

// In place: from here on nobody may need state[step] from this node.
void SimNode::apply(int64_t step, const std::vector<float>& flat) {
  const View& view = *machine_->view();
  std::vector<int> own;
  for (int slice = 0; slice < world_.setting.facts.slices; ++slice) {
    const auto owner = static_cast<size_t>(view.slice_owners[static_cast<size_t>(slice)]);
    if (view.members[owner].session == session_) own.push_back(slice);
  }
  world_.model->apply(&state_, flat, static_cast<int>(view.members.size()), own,
                      machine_->learning_rate());
  StepReport report{session_, view.era, step, world_.model->sums_of(step, flat), 0, {}};
  if (world_.setting.facts.verify_every > 0) report.digest = state_.digest();
  for (const int p : contributed_) {
    report.partitions.push_back({p, world_.model->rows(step, p), {}});
  }
  world_.trace("{} applies step {}: digest {:x}", name_, step, state_.digest());
  world_.check_state(step + 1, state_.digest(), name_, view.era);
  const int64_t interval = world_.setting.facts.checkpoint_every_steps;
  if (interval > 0 && step + 1 > world_.store->durable_step + interval) {
    world_.fail(fmt::format("{} applies step {}, and step {} is durable", name_, step,
                            world_.store->durable_step));
  }
  post(world_.random.between(0, 2 * kMs), [self = shared_from_this(), step, report] {
    self->exchange_->applied(step);
    self->exchange_step_ = step + 1;
    self->forget_values();
    if (self->values_.size() > 3 || self->exchange_->steps_held() > 3) {
      self->world_.fail(fmt::format("{} holds more than three steps", self->name_));
    }
    self->machine_->applied(self->ends_epoch());
    self->contributed_.clear();
    self->kept_steps_.push_back(report);
    self->report(report);
    self->done();
  });
}

bool SimNode::ends_epoch() const { return sim::ends_epoch(world_.setting.facts, state_.sums); }

void SimNode::measure(const MeasureEpoch& action) {
  EpochReport report{session_, era(), action.epoch, state_.step, state_.sums, {}};
  const bool validates = world_.setting.facts.validation_rows_of(action.epoch) > 0;
  for (const PartitionRange range : action.partitions) {
    if (!validates) break;
    for (int p = range.begin; p < range.end; ++p) {
      const auto parts = world_.model->validate(state_, p);
      report.validation.insert(report.validation.end(), parts.begin(), parts.end());
    }
  }
  world_.trace("{} measures epoch {}: {} parts", name_, action.epoch, report.validation.size());
  post(world_.random.between(1, world_.setting.compute_us / 2),
       [self = shared_from_this(), report, action] {
         self->kept_epochs_.push_back(report);
         self->report(report);
         self->machine_->epoch_measured(action.epoch, action.partitions);
         self->done();
       });
}

namespace {

std::string action_name(const NodeAction& action) {
  constexpr std::array<const char*, 12> kNames = {
      "AwaitEvent",  "ReportHeld", "AdoptView", "RestoreState", "AwaitState",   "TakeSnapshot",
      "ComputeStep", "TrainAlone", "AwaitStep", "ApplyStep",    "MeasureEpoch", "LeaveJob"};
  return kNames[action.index()];
}

}  // namespace

std::string SimNode::describe() const {
  if (!machine_) return fmt::format("{}: not a member yet", name_);
  const Standing standing = machine_->standing();
  std::string text = fmt::format(
      "{}: session {} view {} step {} begun {} decided {} {}{} reports {} calls {}", name_,
      session_, standing.view, standing.step, standing.begun, standing.decided_epochs,
      frozen_ ? "FROZEN " : "", action_name(machine_->next(world_.now_ms())), reports_.size(),
      outstanding_.size());
  if (!machine_->view()) return text;
  for (const SessionId other : exchange_->waiting_for(exchange_step_)) {
    const auto peer = peers_.find(other);
    const bool stream = peer != peers_.end() && peer->second.stream;
    text += fmt::format(" waits for {}{}", other, stream ? "" : " (no stream)");
  }
  return text;
}

}  // namespace lockstep::sim
