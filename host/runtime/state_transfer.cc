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
      machine_(parts()),
      accumulators_(replica.state().sums.size() + 1) {}

std::vector<TransferMachine::Part> StateTransfer::parts() const {
  std::vector<TransferMachine::Part> parts = {{kAccumulators, 0}};
  for (int i = 0; i < vectors(); ++i) {
    for (int slice = 0; slice < layout_.count(); ++slice) parts.emplace_back(i, slice);
  }
  return parts;
}

std::span<float> StateTransfer::values_of(const TransferMachine::Part& part) {
  const auto [index, slice] = part;
  if (index == kAccumulators) {
    return {reinterpret_cast<float*>(accumulators_.data()), kFloatsOfDouble * accumulators_.size()};
  }
  const TrainState& state = replica_.state();
  const auto vector = index == 0 ? state.weights : state.slots[static_cast<size_t>(index) - 1];
  return vector.subspan(static_cast<size_t>(layout_.begin(slice)),
                        static_cast<size_t>(layout_.size(slice)));
}

void StateTransfer::send(const std::function<void(std::vector<SendFrame>*)>& decide) {
  std::vector<SendFrame> sends;
  {
    const std::lock_guard lock(mutex_);
    decide(&sends);
  }
  for (const auto& [to, key] : sends) {
    std::span<const float> values;
    if (key.kind == FrameKind::state) values = values_of(TransferMachine::part_of(key));
    send_(to, {key, values.data(), std::ssize(values), nullptr});
  }
}

Status StateTransfer::adopt(const View& view, SessionId self) {
  const bool gives = TransferMachine::gives(view, self);
  if (gives) LOCKSTEP_RETURN_IF_ERROR(replica_.fetch_state());
  send([&](std::vector<SendFrame>* sends) {
    machine_.adopt(view, self, sends);
    if (!gives) return;
    const TrainState& state = replica_.state();
    std::copy(state.sums.begin(), state.sums.end(), accumulators_.begin());
    accumulators_.back() = std::bit_cast<double>(state.digest);
  });
  return {};
}

void StateTransfer::ask_again() {
  send([&](std::vector<SendFrame>* sends) { machine_.ask_again(sends); });
}

void StateTransfer::connected(SessionId peer) {
  send([&](std::vector<SendFrame>* sends) { machine_.connected(peer, sends); });
}

Result<float*> StateTransfer::accept(SessionId from, const FrameKey& key, int64_t count) {
  const std::lock_guard lock(mutex_);
  if (!machine_.offer(from, key) || is_question(key.kind)) return nullptr;
  const std::span<float> values = values_of(TransferMachine::part_of(key));
  if (count == std::ssize(values)) return values.data();
  machine_.gave_up(key);
  return Error{fmt::format("part {} of vector {} of the state has {} values, expected {}",
                           key.slice, key.subtree.first, count, values.size())};
}

void StateTransfer::arrived(SessionId from, const FrameKey& key, float*) {
  bool whole = false;
  send([&](std::vector<SendFrame>* sends) {
    machine_.arrived(from, key, sends);
    whole = key.kind == FrameKind::state && machine_.missing() == 0;
  });
  if (whole) done_();
}

void StateTransfer::gave_up(SessionId, const FrameKey& key, float*) {
  const std::lock_guard lock(mutex_);
  machine_.gave_up(key);
}

size_t StateTransfer::missing() {
  const std::lock_guard lock(mutex_);
  return machine_.missing();
}

Result<bool> StateTransfer::take() {
  const std::lock_guard lock(mutex_);
  if (!machine_.awaits() || machine_.missing() > 0) return false;
  LOCKSTEP_RETURN_IF_ERROR(
      replica_.set_accumulators(machine_.step(), {accumulators_.begin(), accumulators_.end() - 1}));
  machine_.taken();
  const uint64_t digest = replica_.state().digest;
  const auto donors = std::bit_cast<uint64_t>(accumulators_.back());
  if (donors == 0 || donors == digest) return true;
  return Error{fmt::format("the state of step {} arrived with digest {}, its donor has {}",
                           machine_.step(), hex64(digest), hex64(donors))};
}

}  // namespace lockstep
