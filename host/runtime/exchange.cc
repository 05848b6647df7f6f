#include "host/runtime/exchange.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "host/core/check.h"

namespace lockstep {
namespace {

Subtree root_of(int partitions) {
  int level = 0;
  while ((1 << level) < partitions) ++level;
  return {0, level};
}

}  // namespace

Result<std::unique_ptr<Exchange>> Exchange::create(ExchangeOptions options, Device& device) {
  std::unique_ptr<Exchange> exchange(new Exchange(std::move(options), device));
  LOCKSTEP_RETURN_IF_ERROR(exchange->allocate());
  return exchange;
}

Exchange::Exchange(ExchangeOptions options, Device& device)
    : options_(std::move(options)), device_(device) {
  for (int member = 0; member < members(); ++member) {
    if (options_.view.members[member].session == options_.self) self_ = member;
  }
  LOCKSTEP_CHECK(self_ >= 0);
  current_ = options_.view.first_step - 1;
}

// Receive space for the fullest batch: the first of an epoch; a shorter one has no more subtrees.
Status Exchange::allocate() {
  const int64_t flat_bytes = options_.layout.flat_size() * static_cast<int64_t>(sizeof(float));
  const int64_t piece_bytes = piece_floats(0) * static_cast<int64_t>(sizeof(float));
  const PartitionRange own = range_of(self_);
  const int devices_joined =
      options_.roots_are_joined ? static_cast<int>(maximal_subtrees(own).size()) : 0;
  for (Step& step : steps_) {
    for (int slice = 0; slice < options_.layout.count(); ++slice) {
      step.slices.push_back(std::make_unique<Slice>());
    }
    LOCKSTEP_ASSIGN(step.reduced, device_.allocate(flat_bytes));
    if (piece_bytes > 0) {
      LOCKSTEP_ASSIGN(step.pieces, device_.allocate(piece_bytes));
    }
    for (int i = 0; i < devices_joined; ++i) {
      LOCKSTEP_ASSIGN(auto buffer, device_.allocate(flat_bytes));
      step.joined.push_back(std::move(buffer));
    }
  }
  prepare(options_.view.first_step);
  prepare(options_.view.first_step + 1);
  return {};
}

int64_t Exchange::planned_bytes() const {
  int64_t bytes = 0;
  for (const Step& step : steps_) {
    bytes += step.reduced->bytes() + (step.pieces ? step.pieces->bytes() : 0);
    for (const auto& joined : step.joined) bytes += joined->bytes();
  }
  return bytes;
}

int64_t Exchange::piece_floats(int64_t step) const {
  const int64_t rows = options_.rows_of_step(step);
  int64_t floats = 0;
  for (int member = 0; member < members(); ++member) {
    if (member == self_) continue;
    const auto subtrees = contributed_subtrees(rows, options_.partitions, range_of(member));
    for (int slice = 0; slice < options_.layout.count(); ++slice) {
      if (owns(slice))
        floats += options_.layout.size(slice) * static_cast<int64_t>(subtrees.size());
    }
  }
  return floats;
}

void Exchange::prepare(int64_t number) {
  Step& step = slot(number);
  step.number = number;
  step.roots.clear();
  step.unfinished = options_.layout.count();
  const int64_t rows = options_.rows_of_step(number);
  for (int member = 0; member < members(); ++member) {
    if (member == self_) continue;
    if (contributed_subtrees(rows, options_.partitions, range_of(member)).empty()) {
      ++step.unfinished;  // it will say that it is present
    }
  }
  float* next = step.pieces ? step.pieces->data() : nullptr;
  for (int slice = 0; slice < options_.layout.count(); ++slice) prepare_slice(step, slice, &next);
}

void Exchange::prepare_slice(Step& step, int slice, float** space) {
  Slice& state = *step.slices[slice];
  state.pieces.clear();
  state.missing = 1;  // the local part
  if (!owns(slice)) return;
  const int64_t rows = options_.rows_of_step(step.number);
  for (int member = 0; member < members(); ++member) {
    if (member == self_) continue;
    for (const Subtree& subtree :
         contributed_subtrees(rows, options_.partitions, range_of(member))) {
      state.pieces.push_back({subtree, *space});
      *space += options_.layout.size(slice);
      ++state.missing;
    }
  }
}

void Exchange::begin(int64_t number, std::vector<LocalRoot> roots, int devices) {
  Step& step = slot(number);
  {
    const std::lock_guard lock(mutex_);
    LOCKSTEP_CHECK(number == current_ + 1 && step.number == number);
    // Every member has applied number - 1, so nothing of it can be asked for or come any more.
    if (number > options_.view.first_step) prepare(number + 1);
    current_ = number;
  }
  step.roots = std::move(roots);
  for (int slice = 0; slice < options_.layout.count(); ++slice) {
    step.slices[slice]->local_missing = options_.layout.size(slice) * devices;
  }
  if (devices > 0) return;
  for (int slice = 0; slice < options_.layout.count(); ++slice) {
    if (owns(slice)) piece_done(step, slice);
  }
  for (int member = 0; member < members(); ++member) {
    if (member == self_) continue;
    options_.send(member, {FrameKind::present, number, 0, {}, nullptr, 0});
  }
}

void Exchange::local_ready(int64_t number, int64_t begin, int64_t end) {
  Step& step = slot(number);
  while (begin < end) {
    const int slice = options_.layout.slice_at(begin);
    const int64_t part = std::min(end, options_.layout.end(slice)) - begin;
    if (step.slices[slice]->local_missing.fetch_sub(part) == part) slice_locally_done(step, slice);
    begin += part;
  }
}

void Exchange::slice_locally_done(Step& step, int slice) {
  if (owns(slice)) {
    piece_done(step, slice);
  } else {
    send_own_pieces(step, slice);
  }
}

void Exchange::send_own_pieces(Step& step, int slice) {
  const int64_t begin = options_.layout.begin(slice);
  const int64_t count = options_.layout.size(slice);
  const int64_t rows = options_.rows_of_step(step.number);
  std::vector<TreePiece> roots;
  for (const LocalRoot& root : step.roots) roots.push_back({root.subtree, root.values + begin});
  size_t index = 0;
  for (const Subtree& subtree : contributed_subtrees(rows, options_.partitions, range_of(self_))) {
    const auto whole = std::find_if(roots.begin(), roots.end(),
                                    [&](const TreePiece& root) { return root.subtree == subtree; });
    const float* values = whole == roots.end() ? nullptr : whole->values;
    if (values == nullptr) {
      LOCKSTEP_CHECK(index < step.joined.size());
      float* joined = step.joined[index]->data() + begin;
      tree_sum_range(device_, roots, subtree, count, joined);
      values = joined;
    }
    ++index;
    options_.send(options_.view.slice_owners[slice],
                  {FrameKind::piece, step.number, slice, subtree, values, count});
  }
}

void Exchange::piece_done(Step& step, int slice) {
  if (step.slices[slice]->missing.fetch_sub(1) == 1) reduce(step, slice);
}

void Exchange::reduce(Step& step, int slice) {
  const int64_t begin = options_.layout.begin(slice);
  std::vector<TreePiece> pieces = step.slices[slice]->pieces;
  for (const LocalRoot& root : step.roots) pieces.push_back({root.subtree, root.values + begin});
  float* out = step.reduced->data() + begin;
  const int64_t count = options_.layout.size(slice);
  tree_sum_range(device_, pieces, root_of(options_.partitions), count, out);
  for (int64_t i = 0; options_.scale != 1 && i < count; ++i) out[i] *= options_.scale;
  for (int member = 0; member < members(); ++member) {
    if (member == self_) continue;
    options_.send(member, {FrameKind::reduced, step.number, slice, root_of(options_.partitions),
                           out, options_.layout.size(slice)});
  }
  one_finished(step);
}

void Exchange::one_finished(Step& step) {
  const std::lock_guard lock(mutex_);
  LOCKSTEP_CHECK(step.unfinished > 0);
  if (--step.unfinished == 0) changed_.notify_all();
}

Result<float*> Exchange::accept(int member, const Frame& frame) {
  const std::lock_guard lock(mutex_);
  if (frame.step != std::max(current_, options_.view.first_step) && frame.step != current_ + 1) {
    return Error{
        fmt::format("a frame of step {} while this node works on step {}", frame.step, current_)};
  }
  Step& step = slot(frame.step);
  if (frame.kind == FrameKind::present) return nullptr;
  if (frame.slice < 0 || frame.slice >= options_.layout.count() ||
      frame.count != options_.layout.size(frame.slice)) {
    return Error{fmt::format("a frame of slice {} with {} values, which does not exist",
                             frame.slice, frame.count)};
  }
  if (frame.kind == FrameKind::reduced) {
    if (options_.view.slice_owners[frame.slice] != member) {
      return Error{fmt::format("slice {} reduced by a member that does not own it", frame.slice)};
    }
    return step.reduced->data() + options_.layout.begin(frame.slice);
  }
  for (const TreePiece& piece : step.slices[frame.slice]->pieces) {
    const PartitionRange range = range_of(member);
    const bool of_member = range.begin <= piece.subtree.first && piece.subtree.end() <= range.end;
    if (of_member && piece.subtree == frame.subtree) return const_cast<float*>(piece.values);
  }
  return Error{
      fmt::format("a piece of slice {} (partitions from {}, level {}) that its sender does "
                  "not hold",
                  frame.slice, frame.subtree.first, frame.subtree.level)};
}

void Exchange::arrived(int, const Frame& frame) {
  Step& step = slot(frame.step);
  if (frame.kind == FrameKind::piece) {
    piece_done(step, frame.slice);
  } else {
    one_finished(step);
  }
}

void Exchange::member_lost(int member, const std::string& why) {
  const std::lock_guard lock(mutex_);
  if (lost_member_ < 0) {
    lost_member_ = member;
    lost_why_ = why;
  }
  changed_.notify_all();
}

Result<const float*> Exchange::wait(int64_t number, int timeout_ms) {
  std::unique_lock lock(mutex_);
  Step& step = slot(number);
  const auto over = [&] { return step.unfinished == 0 || lost_member_ >= 0 || interrupted_; };
  const bool in_time = changed_.wait_for(lock, std::chrono::milliseconds(timeout_ms), over);
  if (step.unfinished == 0) return step.reduced->data();
  if (lost_member_ >= 0) {
    return Error{fmt::format("lost the stream to node '{}' in step {}: {}",
                             options_.view.members[lost_member_].name, number, lost_why_)};
  }
  if (!in_time) {
    return Error{fmt::format("no progress in step {} for {} ms: {} slices are missing", number,
                             timeout_ms, step.unfinished)};
  }
  return Error{"interrupted"};
}

int Exchange::lost_member() const {
  const std::lock_guard lock(mutex_);
  return lost_member_;
}

void Exchange::interrupt() {
  const std::lock_guard lock(mutex_);
  interrupted_ = true;
  changed_.notify_all();
}

}  // namespace lockstep
