#include "host/runtime/exchange.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstring>

#include "host/core/check.h"
#include "host/core/digest.h"

namespace lockstep {
uint64_t FrameHash::of(const float* values, int64_t count) {
  std::call_once(once_, [&] { hash_ = xxh3(values, static_cast<size_t>(count) * sizeof(float)); });
  return hash_;
}

Result<std::unique_ptr<Exchange>> Exchange::create(ExchangeOptions options, Device& device) {
  std::unique_ptr<Exchange> exchange(new Exchange(std::move(options), device));
  for (auto& reduced : exchange->reduced_) {
    LOCKSTEP_ASSIGN(reduced, device.allocate_host(exchange->options_.layout.flat_size() *
                                                  static_cast<int64_t>(sizeof(float))));
  }
  return exchange;
}

Exchange::Exchange(ExchangeOptions options, Device& device)
    : options_(std::move(options)),
      device_(device),
      pool_(std::make_shared<PiecePool>(device, options_.layout.size(0))),
      machine_(options_.partitions, options_.layout.count(), options_.rows_of_step) {}

int64_t Exchange::planned_bytes(const ExchangeOptions& options, const View& view, SessionId self,
                                const Device& device) {
  const int64_t slice_bytes = device.buffer_bytes(options.layout.size(0) * 4);
  int64_t pieces = 0;
  for (size_t member = 0; member < view.members.size(); ++member) {
    if (view.members[member].session == self) continue;
    const auto subtrees = contributed_subtrees(options.rows_of_step(0), options.partitions,
                                               view.members[member].partitions);
    for (const int owner : view.slice_owners) {
      const bool own = view.members[owner].session == self;
      if (own) pieces += static_cast<int64_t>(subtrees.size());
    }
  }
  return 2 * device.buffer_bytes(options.layout.flat_size() * 4) + pieces * slice_bytes;
}

void Exchange::adopt(const View& view, SessionId self, int64_t step) {
  ExchangeOrders orders;
  {
    const std::lock_guard lock(mutex_);
    if (view.restores || step != step_) {
      // The machine still counts on pieces that came early of the step to which this node is moved.
      std::erase_if(pieces_,
                    [&](const auto& entry) { return view.restores || entry.first.first < step; });
      roots_.clear();
      round_.reset();
    }
    step_ = step;
    machine_.adopt(view, self, step, &orders);
  }
  carry_out(std::move(orders));
}

void Exchange::begin(int64_t step, const std::vector<LocalRoot>& roots, int devices) {
  ExchangeOrders orders;
  {
    const std::lock_guard lock(mutex_);
    LOCKSTEP_CHECK(step == step_);
    auto round = std::make_shared<Round>(static_cast<size_t>(options_.layout.count()));
    round->roots = roots;
    for (int slice = 0; slice < options_.layout.count(); ++slice) {
      round->missing[static_cast<size_t>(slice)] = options_.layout.size(slice) * devices;
    }
    round_ = std::move(round);
    roots_.insert(roots_.end(), roots.begin(), roots.end());
    machine_.begin(step, &orders);
  }
  carry_out(std::move(orders));
}

void Exchange::local_ready(int64_t step, int64_t begin, int64_t end) {
  Round& round = *round_;  // stays until all its devices have called for all elements
  while (begin < end) {
    const int slice = options_.layout.slice_at(begin);
    const int64_t part = std::min(end, options_.layout.end(slice)) - begin;
    begin += part;
    if (round.missing[static_cast<size_t>(slice)].fetch_sub(part) != part) continue;
    ExchangeOrders orders;
    {
      const std::lock_guard lock(mutex_);
      std::vector<Subtree> subtrees;
      for (const LocalRoot& root : round.roots) subtrees.push_back(root.subtree);
      machine_.local_ready(step, slice, subtrees, &orders);
    }
    carry_out(std::move(orders));
  }
}

void Exchange::carry_out(ExchangeOrders orders) {
  for (const ReduceSlice& order : orders.reductions) reduce(order);
  std::optional<Frame> frame;  // what goes to several is made once
  for (const SendFrame& send : orders.sends) {
    if (!frame || !(frame->key == send.key)) frame = frame_of(send.key);
    options_.send(send.to, *frame);
  }
}

std::vector<TreePiece> Exchange::values_of(const ReduceSlice& order,
                                           std::vector<std::shared_ptr<float>>* keep) const {
  const std::lock_guard lock(mutex_);
  std::vector<TreePiece> pieces;
  const int64_t begin = options_.layout.begin(order.slice);
  const auto received = pieces_.find({order.step, order.slice});
  for (const Subtree& subtree : order.pieces) {
    const float* values = nullptr;
    for (const LocalRoot& root : roots_) {
      if (root.subtree == subtree) values = root.values + begin;
    }
    if (values == nullptr && received != pieces_.end()) {
      for (const Piece& piece : received->second) {
        if (!(piece.first == subtree)) continue;
        values = piece.second.get();
        keep->push_back(piece.second);
      }
    }
    LOCKSTEP_CHECK(values != nullptr);
    pieces.push_back({subtree, values});
  }
  return pieces;
}

void Exchange::reduce(const ReduceSlice& order) {
  std::vector<std::shared_ptr<float>> keep;
  const std::vector<TreePiece> pieces = values_of(order, &keep);
  const int64_t count = options_.layout.size(order.slice);
  float* out = reduced_[order.step % 2]->data() + options_.layout.begin(order.slice);
  tree_sum_range(device_, pieces, root_subtree(options_.partitions), count, out, options_.scale);
  ExchangeOrders orders;
  {
    const std::lock_guard lock(mutex_);
    pieces_.erase({order.step, order.slice});
    machine_.reduced(order.step, order.slice, &orders);
    wake_if_complete();
  }
  carry_out(std::move(orders));
}

// "Present" in place of a piece where the main thread has gone on since this was ordered: nobody
// needs the values any more.
Frame Exchange::frame_of(const FrameKey& key) {
  Frame frame{key};
  if (key.kind != FrameKind::piece && key.kind != FrameKind::reduced) return frame;
  const int64_t begin = options_.layout.begin(key.slice);
  frame.count = options_.layout.size(key.slice);
  if (key.kind == FrameKind::reduced) {
    frame.values = reduced_[key.step % 2]->data() + begin;
    frame.lasting = Lasting{&step_, key.step + 1};
    return frame;
  }
  std::vector<TreePiece> pieces;
  {
    const std::lock_guard lock(mutex_);
    if (key.step != step_ || roots_.empty()) return {present_key(key.step)};
    for (const LocalRoot& root : roots_) {
      if (root.subtree == key.subtree) frame.values = root.values + begin;
      pieces.push_back({root.subtree, root.values + begin});
    }
  }
  const Lasting roots{&step_, key.step};
  if (frame.values != nullptr) {
    frame.lasting = roots;
    return frame;
  }
  frame.keep = joined(key, pieces);
  frame.values = frame.keep.get();
  if (roots.over()) return {present_key(key.step)};
  return frame;
}

// The sum over several devices' roots, in memory of its own.
std::shared_ptr<float> Exchange::joined(const FrameKey& key, const std::vector<TreePiece>& pieces) {
  auto sum = pool_->take();
  LOCKSTEP_CHECK(sum.ok());
  tree_sum_range(device_, pieces, key.subtree, options_.layout.size(key.slice), sum->get());
  return *sum;
}

Result<float*> Exchange::accept(SessionId from, const FrameKey& key, int64_t count) {
  if (is_of_state(key.kind)) return options_.state_sink->accept(from, key, count);
  const std::lock_guard lock(mutex_);
  LOCKSTEP_ASSIGN(const bool wanted, machine_.offer(from, key));
  wake_if_complete();
  if (!wanted || key.kind == FrameKind::want) return nullptr;
  if (count != options_.layout.size(key.slice)) {
    machine_.gave_up(from, key);
    return Error{fmt::format("a frame of slice {} with {} values, which has {}", key.slice, count,
                             options_.layout.size(key.slice))};
  }
  ++news_;
  if (key.kind == FrameKind::reduced) {
    return reduced_[key.step % 2]->data() + options_.layout.begin(key.slice);
  }
  LOCKSTEP_ASSIGN(auto piece, pool_->take());
  float* values = piece.get();
  receiving_[values] = std::move(piece);
  return values;
}

void Exchange::part_arrived(const FrameKey& key) {
  if (is_of_state(key.kind)) return;
  const std::lock_guard lock(mutex_);
  ++news_;
}

void Exchange::arrived(SessionId from, const FrameKey& key, float* values) {
  if (is_of_state(key.kind)) {
    options_.state_sink->arrived(from, key, values);
    return;
  }
  ExchangeOrders orders;
  {
    const std::lock_guard lock(mutex_);
    if (key.kind == FrameKind::piece) {
      const auto piece = receiving_.extract(values);
      if (piece.empty() || key.step < step_) return;
      auto& pieces = pieces_[{key.step, key.slice}];
      const bool known = std::any_of(pieces.begin(), pieces.end(), [&](const Piece& other) {
        return other.first == key.subtree;
      });
      if (!known) pieces.emplace_back(key.subtree, piece.mapped());
    }
    if (key.kind != FrameKind::want) ++news_;
    machine_.arrived(from, key, &orders);
    wake_if_complete();
  }
  carry_out(std::move(orders));
}

void Exchange::gave_up(SessionId from, const FrameKey& key, float* values) {
  if (is_of_state(key.kind)) {
    options_.state_sink->gave_up(from, key, values);
    return;
  }
  const std::lock_guard lock(mutex_);
  receiving_.erase(values);
  machine_.gave_up(from, key);
}

void Exchange::connected(SessionId peer) {
  ExchangeOrders orders;
  {
    const std::lock_guard lock(mutex_);
    machine_.connected(peer, &orders);
  }
  carry_out(std::move(orders));
  if (options_.state_sink != nullptr) options_.state_sink->connected(peer);
}

void Exchange::ask_again() {
  ExchangeOrders orders;
  {
    const std::lock_guard lock(mutex_);
    machine_.ask_again(&orders);
  }
  carry_out(std::move(orders));
}

void Exchange::wake_if_complete() {
  if (machine_.complete(step_)) changed_.notify_all();
}

Exchange::Waited Exchange::wait(int64_t step, int timeout_ms) {
  std::unique_lock lock(mutex_);
  LOCKSTEP_CHECK(step == step_);
  const int64_t news = news_;
  changed_.wait_for(lock, std::chrono::milliseconds(timeout_ms),
                    [&] { return interrupted_ || machine_.complete(step); });
  if (interrupted_) {
    interrupted_ = false;
    return Waited::interrupted;
  }
  if (machine_.complete(step)) return Waited::complete;
  return news_ != news ? Waited::progress : Waited::no_progress;
}

void Exchange::wait_for_news(int timeout_ms) {
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, std::chrono::milliseconds(timeout_ms), [&] { return interrupted_; });
  interrupted_ = false;
}

void Exchange::applied(int64_t step) {
  const std::lock_guard lock(mutex_);
  machine_.applied(step);
  step_ = step + 1;
  roots_.clear();
  std::erase_if(pieces_, [&](const auto& entry) { return entry.first.first <= step; });
}

std::vector<SessionId> Exchange::waiting_for(int64_t step) const {
  const std::lock_guard lock(mutex_);
  return machine_.waiting_for(step);
}

void Exchange::interrupt() {
  const std::lock_guard lock(mutex_);
  interrupted_ = true;
  changed_.notify_all();
}

}  // namespace lockstep
