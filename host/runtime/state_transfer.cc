#include "host/runtime/state_transfer.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <iterator>

#include "host/core/digest.h"

namespace lockstep {
namespace {

constexpr int64_t kFloatsOfDouble = sizeof(double) / sizeof(float);

}  // namespace

StateTransfer::StateTransfer(Replica& replica, std::function<void(SessionId, Frame)> send,
                             std::function<void()> done)
    : replica_(replica),
      layout_(static_cast<int64_t>(replica.state().weights.size())),
      send_(std::move(send)),
      done_(std::move(done)),
      accumulators_(replica.state().sums.size() + 1) {}

std::span<float> StateTransfer::vector(int index) const {
  const TrainState& state = replica_.state();
  return index == 0 ? state.weights : state.slots[static_cast<size_t>(index) - 1];
}

Status StateTransfer::adopt(const View& view, SessionId self) {
  const int index = view.index_of(self);
  const bool gives = view.donor == index && !view.restores;
  if (gives) LOCKSTEP_RETURN_IF_ERROR(replica_.fetch_state());
  std::vector<SessionId> waiting;
  {
    const std::lock_guard lock(mutex_);
    owed_.clear();
    missing_.clear();
    under_way_.clear();
    donor_ = 0;
    step_ = view.first_step;
    const auto asked = std::exchange(asked_, {});
    if (gives) {
      prepare(view);
      for (const auto& [session, step] : asked) {
        if (step == step_ && owed_.contains(session)) waiting.push_back(session);
      }
    } else if (!view.restores && view.donor >= 0 && view.members[index].step < 0) {
      donor_ = view.members[view.donor].session;
      for (int i = 0; i < vectors(); ++i) {
        for (int part = 0; part < layout_.count(); ++part) missing_.insert({i, part});
      }
      missing_.insert({kAccumulators, 0});
    }
  }
  for (const SessionId session : waiting) send_state(session);
  ask_again();
  return {};
}

// With mutex_ held.
void StateTransfer::prepare(const View& view) {
  const TrainState& state = replica_.state();
  std::copy(state.sums.begin(), state.sums.end(), accumulators_.begin());
  accumulators_.back() = std::bit_cast<double>(state.digest);
  for (const Member& member : view.members) {
    if (member.step < 0) owed_.insert(member.session);
  }
}

void StateTransfer::ask_again() {
  SessionId donor = 0;
  int64_t step = 0;
  {
    const std::lock_guard lock(mutex_);
    if (missing_.empty() || !under_way_.empty()) return;
    donor = donor_;
    step = step_;
  }
  send_(donor, {{FrameKind::want_state, step, 0, {}}, nullptr, 0, nullptr});
}

void StateTransfer::connected(SessionId peer) {
  {
    const std::lock_guard lock(mutex_);
    if (peer != donor_) return;
  }
  ask_again();
}

void StateTransfer::asked(SessionId from, int64_t step) {
  {
    const std::lock_guard lock(mutex_);
    if (step != step_ || !owed_.contains(from)) {
      asked_[from] = step;
      return;
    }
  }
  send_state(from);
}

void StateTransfer::send_state(SessionId to) {
  send_(to, {{FrameKind::state, step_, 0, {kAccumulators, 0}},
             reinterpret_cast<const float*>(accumulators_.data()),
             kFloatsOfDouble * std::ssize(accumulators_),
             nullptr});
  for (int i = 0; i < vectors(); ++i) {
    for (int part = 0; part < layout_.count(); ++part) {
      send_(to, {{FrameKind::state, step_, part, {i, 0}},
                 vector(i).data() + layout_.begin(part),
                 layout_.size(part),
                 nullptr});
    }
  }
}

Result<float*> StateTransfer::accept(SessionId from, const FrameKey& key, int64_t count) {
  if (key.kind == FrameKind::want_state) return nullptr;
  const std::lock_guard lock(mutex_);
  const std::pair<int, int> part{key.subtree.first, key.slice};
  if (from != donor_ || key.step != step_ || !missing_.contains(part)) return nullptr;
  if (!under_way_.insert(part).second) return nullptr;
  const bool is_accumulators = part.first == kAccumulators;
  const int64_t expected =
      is_accumulators ? kFloatsOfDouble * std::ssize(accumulators_) : layout_.size(part.second);
  if (count != expected) {
    under_way_.erase(part);
    return Error{fmt::format("part {} of vector {} of the state has {} values, expected {}",
                             part.second, part.first, count, expected)};
  }
  if (is_accumulators) return reinterpret_cast<float*>(accumulators_.data());
  return vector(part.first).data() + layout_.begin(part.second);
}

void StateTransfer::arrived(SessionId from, const FrameKey& key, float*) {
  if (key.kind == FrameKind::want_state) return asked(from, key.step);
  bool whole = false;
  {
    const std::lock_guard lock(mutex_);
    const std::pair<int, int> part{key.subtree.first, key.slice};
    under_way_.erase(part);
    missing_.erase(part);
    whole = missing_.empty();
  }
  if (whole) done_();
}

void StateTransfer::gave_up(SessionId, const FrameKey& key, float*) {
  const std::lock_guard lock(mutex_);
  under_way_.erase({key.subtree.first, key.slice});
}

size_t StateTransfer::missing() {
  const std::lock_guard lock(mutex_);
  return missing_.size();
}

Result<bool> StateTransfer::take() {
  const std::lock_guard lock(mutex_);
  if (donor_ == 0 || !missing_.empty()) return false;
  LOCKSTEP_RETURN_IF_ERROR(
      replica_.set_accumulators(step_, {accumulators_.begin(), accumulators_.end() - 1}));
  donor_ = 0;
  const uint64_t digest = replica_.state().digest;
  const auto donors = std::bit_cast<uint64_t>(accumulators_.back());
  if (donors == 0 || donors == digest) return true;
  return Error{fmt::format("the state of step {} arrived with digest {}, its donor has {}", step_,
                           hex64(digest), hex64(donors))};
}

}  // namespace lockstep
