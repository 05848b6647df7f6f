// The node's streams to other members.
#include <cstring>

#include "host/core/planted.h"
#include "host/reduce/layout.h"
#include "tests/sim/head.h"
#include "tests/sim/sim_node.h"

namespace lockstep::sim {

int SimNode::era() const { return machine_ && machine_->view() ? machine_->view()->era : -1; }

bool SimNode::accepts_dial(SessionId from, int era) const {
  if (!machine_ || !machine_->view() || machine_->view()->index_of(from) < 0) return false;
  return era == machine_->view()->era || planted(Bug::stale_era);
}

void SimNode::stream_open(const std::shared_ptr<Stream>& stream) {
  const SessionId other = stream->sides[1 - stream->side_of(session_)].session;
  Peer& peer = peers_[other];
  peer.dialing = false;
  if (peer.stream) stream_closed(peer.stream);
  if (machine_->view()->index_of(other) < 0) {  // no longer a member
    world_.network->close(stream, session_);
    return;
  }
  peer.stream = stream;
  world_.trace("{} has stream {} to session {}", name_, stream->id, other);
  ExchangeOrders orders;
  exchange_->connected(other, &orders);
  transfer_->connected(other, &orders.sends);
  carry_out(orders);
}

void SimNode::dial_failed(SessionId to) {
  peers_[to].dialing = false;
  dial_peers();
}

void SimNode::stream_closed(const std::shared_ptr<Stream>& stream) {
  Stream::Side& self = stream->sides[stream->side_of(session_)];
  const SessionId other = stream->sides[1 - stream->side_of(session_)].session;
  if (self.partial && is_of_state(self.partial->kind)) transfer_->gave_up(*self.partial);
  if (self.partial && !is_of_state(self.partial->kind)) exchange_->gave_up(other, *self.partial);
  self.partial.reset();
  world_.network->close(stream, session_);
  Peer& peer = peers_[other];
  if (peer.stream != stream) return;
  world_.trace("{} lost stream {} to session {}", name_, stream->id, other);
  peer.stream.reset();
  peer.without_since_us = world_.now_us();
  dial_peers();
}

// The later session dials the earlier.
void SimNode::dial_peers() {
  if (!machine_ || !machine_->view()) return;
  for (const Member& member : machine_->view()->members) {
    Peer& peer = peers_[member.session];
    if (member.session >= session_ || peer.stream || peer.dialing) continue;
    peer.dialing = true;
    const auto self = shared_from_this();
    post(world_.random.between(0, 5) * kMs, [self, to = member.session] {
      if (self->machine_->view()->index_of(to) < 0) {
        self->peers_[to].dialing = false;
        return;
      }
      self->world_.network->dial(self, to);
    });
  }
}

// Streams of another era, always; those to former members, mostly, since exchange must refuse what
// they bring.
void SimNode::drop_streams(const View& view, bool all) {
  std::vector<std::shared_ptr<Stream>> closed;
  for (auto& [session, peer] : peers_) {
    const bool member = view.index_of(session) >= 0;
    peer.without_since_us = world_.now_us();
    if (peer.stream && (all || (!member && world_.random.chance(70))))
      closed.push_back(peer.stream);
  }
  for (const auto& stream : closed) stream_closed(stream);
}

void SimNode::header(const std::shared_ptr<Stream>& stream, const FrameKey& key) {
  Stream::Side& self = stream->sides[stream->side_of(session_)];
  const SessionId from = stream->sides[1 - stream->side_of(session_)].session;
  const bool values = key.kind == FrameKind::piece || key.kind == FrameKind::reduced;
  const Result<bool> wanted =
      is_of_state(key.kind) ? transfer_->offer(from, key) : exchange_->offer(from, key);
  if (!wanted.ok()) {
    world_.trace("{} refuses kind {} step {} from {}: {}", name_, static_cast<int>(key.kind),
                 key.step, from, wanted.error().message);
    // One that was expelled while it stood still may hear of steps far ahead of its own.
    const bool has_head = world_.head->machine() != nullptr;
    if (machine_->view()->index_of(from) >= 0 && has_head && !is_expelled()) {
      world_.fail(fmt::format("{} refuses a member's frame: {}", name_, wanted.error().message));
    }
    stream_closed(stream);
    return;
  }
  if (*wanted && values) {
    if (key.step < exchange_step_ || key.step > exchange_step_ + 1) {
      world_.fail(
          fmt::format("{} takes a frame of step {} at step {}", name_, key.step, exchange_step_));
    }
  }
  if (*wanted) self.partial = key;
  wake();
}

void SimNode::body(const std::shared_ptr<Stream>& stream, const FrameKey& key,
                   const std::vector<float>& values) {
  Stream::Side& self = stream->sides[stream->side_of(session_)];
  const SessionId from = stream->sides[1 - stream->side_of(session_)].session;
  if (!self.partial || !(*self.partial == key)) return;
  self.partial.reset();
  world_.trace("{} gets kind {} step {} slice {} tree {}+{} from {}", name_,
               static_cast<int>(key.kind), key.step, key.slice, key.subtree.first,
               key.subtree.level, from);
  ExchangeOrders orders;
  if (is_of_state(key.kind)) {
    if (key.kind == FrameKind::state) state_parts_[key.slice] = values;
    transfer_->arrived(from, key, &orders.sends);
    carry_out(orders);
    wake();
    return;
  }
  const bool fresh = key.step >= exchange_step_;
  if (key.kind == FrameKind::piece && fresh) {
    values_at(key.step).pieces[static_cast<size_t>(key.slice)].push_back({key.subtree, values});
  }
  if (key.kind == FrameKind::reduced && fresh) {
    auto& reduced = values_at(key.step).reduced[static_cast<size_t>(key.slice)];
    if (!reduced) reduced = values;
  }
  exchange_->arrived(from, key, &orders);
  carry_out(orders);
  wake();
}

std::optional<std::vector<float>> SimNode::values_of(const FrameKey& key, SessionId to) {
  if (is_question(key.kind) || key.kind == FrameKind::present) return std::vector<float>{};
  const auto slice = static_cast<size_t>(key.slice);
  if (key.kind == FrameKind::state) {
    const auto other = world_.node_of(to);
    if (!has_state_bytes_ || state_.step != key.step) {
      const bool needed = other && other->transfer_ && other->transfer_->awaits() &&
                          other->machine_->view()->number == machine_->view()->number;
      if (needed && machine_->view()->first_step == key.step) {
        world_.fail(
            fmt::format("{} overwrote state[{}] before {} had it", name_, key.step, other->name()));
      }
      return std::nullopt;
    }
    std::vector<float> part;
    for (int i = key.slice * ToyModel::kWidth; i < (key.slice + 1) * ToyModel::kWidth; ++i) {
      part.push_back(state_.weights[static_cast<size_t>(i)]);
      part.push_back(state_.momentum[static_cast<size_t>(i)]);
    }
    const size_t values = part.size();
    part.resize(values + 2 * kToySums);
    std::memcpy(part.data() + values, state_.sums.data(), 8 * kToySums);
    return part;
  }
  const auto found = values_.find(key.step);
  if (found == values_.end()) return std::nullopt;
  if (key.kind == FrameKind::reduced) return found->second.reduced[slice];
  const std::vector<Piece>& local = found->second.local[slice];
  int rows = 0;
  int held = 0;
  for (int p = key.subtree.first; p < key.subtree.end(); ++p) {
    const int count = world_.model->rows(key.step, p);
    rows += count;
    for (const Piece& piece : local) {
      if (piece.subtree.first <= p && p < piece.subtree.end()) held += count;
    }
  }
  if (held == 0) return std::nullopt;  // the slice is done, its sums are gone
  if (held != rows && !planted(Bug::child_beside_ancestor)) {
    world_.fail(fmt::format("{} sends a sum of {} rows that holds {}", name_, rows, held));
  }
  return sum_in_tree(local, key.subtree);
}

void SimNode::carry_out(const ExchangeOrders& orders) {
  for (const SendFrame& send : orders.sends) {
    const auto peer = peers_.find(send.to);
    if (peer == peers_.end() || !peer->second.stream) continue;
    world_.network->send(peer->second.stream, session_, send.key);
  }
  for (const ReduceSlice& order : orders.reductions) reduce(order);
}

void SimNode::reduce(const ReduceSlice& order) {
  const auto self = shared_from_this();
  post(world_.random.between(10, 2 * kMs), [self, order, era = era()] {
    const auto found = self->values_.find(order.step);
    if (self->era() != era || found == self->values_.end()) return;
    const auto slice = static_cast<size_t>(order.slice);
    std::vector<Piece> pieces;
    for (const Subtree& subtree : order.pieces) {
      const std::vector<Piece>& come = found->second.pieces[slice];
      const auto same = std::find_if(come.begin(), come.end(),
                                     [&](const Piece& piece) { return piece.subtree == subtree; });
      if (same != come.end()) {
        pieces.push_back(*same);
      } else if (auto own = sum_in_tree(found->second.local[slice], subtree)) {
        pieces.push_back({subtree, std::move(*own)});
      } else {
        self->world_.fail(fmt::format("{} is told to add values that it has not", self->name_));
        return;
      }
    }
    const auto sum = sum_in_tree(pieces, root_subtree(self->world_.setting.facts.partitions));
    auto& reduced = found->second.reduced[slice];
    if (!reduced) reduced = sum;
    ExchangeOrders orders;
    self->exchange_->reduced(order.step, order.slice, &orders);
    self->carry_out(orders);
    self->wake();
  });
}

SimNode::StepValues& SimNode::values_at(int64_t step) {
  return values_.try_emplace(step, static_cast<size_t>(world_.setting.facts.slices)).first->second;
}

// As the exchange does: the step before is kept for members that lack it.
void SimNode::forget_values() {
  std::erase_if(values_, [&](const auto& entry) { return entry.first < exchange_step_ - 1; });
  const auto kept = values_.find(exchange_step_ - 1);
  if (kept == values_.end()) return;
  for (auto& local : kept->second.local) local.clear();
  for (auto& pieces : kept->second.pieces) pieces.clear();
}

}  // namespace lockstep::sim
