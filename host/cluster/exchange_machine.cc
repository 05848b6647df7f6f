#include "host/cluster/exchange_machine.h"

#include <fmt/format.h>

#include <algorithm>

#include "host/core/check.h"
#include "host/core/planted.h"
#include "host/reduce/layout.h"

namespace lockstep {
namespace {

std::vector<PartitionRange> ranges_of(const std::vector<Subtree>& subtrees) {
  std::vector<PartitionRange> ranges;
  for (const Subtree& subtree : subtrees) ranges.push_back({subtree.first, subtree.end()});
  return ranges;
}

}  // namespace

bool insert_subtree(std::vector<Subtree>* subtrees, const Subtree& subtree) {
  for (const Subtree& other : *subtrees) {
    if (other.contains(subtree)) return false;
    if (planted(Bug::child_beside_ancestor) && subtree.contains(other)) {
      subtrees->push_back(subtree);
      return true;
    }
  }
  std::erase_if(*subtrees, [&](const Subtree& other) { return subtree.contains(other); });
  subtrees->push_back(subtree);
  return true;
}

ExchangeMachine::ExchangeMachine(int partitions, int slices,
                                 std::function<int64_t(int64_t)> rows_of_step)
    : partitions_(partitions), slices_(slices), rows_of_step_(std::move(rows_of_step)) {}

void ExchangeMachine::adopt(const View& view, SessionId self, int64_t step,
                            ExchangeOrders* orders) {
  LOCKSTEP_CHECK(view.index_of(self) >= 0);
  if (view.era != view_.era) {
    steps_.clear();
    begun_.clear();
  }
  view_ = view;
  self_ = self;
  step_ = step;
  std::erase_if(steps_, [&](const auto& entry) { return entry.first < step - 1; });
  ask_again(orders);
  const auto open = steps_.find(step);
  if (open == steps_.end()) return;
  for (int slice = 0; slice < slices_; ++slice) {
    const Slice& state = open->second.slices[slice];
    if (state.reduced) {
      share_reduced(step, slice, orders);
    } else if (local_complete(step, state)) {
      push_local(step, slice, orders);
    }
  }
}

void ExchangeMachine::ask_again(ExchangeOrders* orders) {
  send_to_others({FrameKind::want, step_, 0, {}}, orders);
}

void ExchangeMachine::connected(SessionId member, ExchangeOrders* orders) {
  if (view_.index_of(member) < 0) return;
  orders->sends.push_back({member, {FrameKind::want, step_, 0, {}}});
}

// The owner tells all; whoever else has the values, from an owner that is gone, tells the owner.
void ExchangeMachine::share_reduced(int64_t step, int slice, ExchangeOrders* orders) {
  const FrameKey key{FrameKind::reduced, step, slice, root_subtree(partitions_)};
  if (owns(self_, slice)) {
    send_to_others(key, orders);
  } else {
    orders->sends.push_back({view_.members[view_.slice_owners[slice]].session, key});
  }
}

void ExchangeMachine::send_to_others(const FrameKey& key, ExchangeOrders* orders) {
  for (const Member& member : view_.members) {
    if (member.session != self_) orders->sends.push_back({member.session, key});
  }
}

void ExchangeMachine::begin(int64_t step, ExchangeOrders* orders) {
  LOCKSTEP_CHECK(step == step_);
  begun_[self_] = step;
  step_at(step);
  const bool contributes =
      rows_of_ranges(step, assigned_partitions(view_, view_.index_of(self_), step)) > 0;
  for (const Member& member : view_.members) {
    if (member.session == self_) continue;
    const int index = view_.index_of(member.session);
    // Whoever owns a slice sees from this node's piece that it has begun.
    const bool owner = std::find(view_.slice_owners.begin(), view_.slice_owners.end(), index) !=
                       view_.slice_owners.end();
    if (contributes && owner) continue;
    orders->sends.push_back({member.session, present_key(step)});
  }
  if (contributes) return;
  for (int slice = 0; slice < slices_; ++slice) push_local(step, slice, orders);
}

void ExchangeMachine::local_ready(int64_t step, int slice, const std::vector<Subtree>& roots,
                                  ExchangeOrders* orders) {
  LOCKSTEP_CHECK(step == step_);
  Slice& state = step_at(step).slices[slice];
  for (const Subtree& root : roots) insert_subtree(&state.local, root);
  if (local_complete(step, state)) push_local(step, slice, orders);
}

bool ExchangeMachine::local_complete(int64_t step, const Slice& slice) const {
  const auto missing = without(assigned_partitions(view_, view_.index_of(self_), step),
                               merged(ranges_of(slice.local)));
  return rows_of_ranges(step, missing) == 0;
}

// This node's own sums of the slice are whole: they go to the owner.
void ExchangeMachine::push_local(int64_t step, int slice, ExchangeOrders* orders) {
  Slice& state = step_at(step).slices[slice];
  if (!owns(self_, slice)) {
    send_pieces(step, slice, view_.members[view_.slice_owners[slice]].session, orders);
    return;
  }
  if (state.reduced || state.reducing) return;
  for (const Subtree& root : state.local) insert_subtree(&state.pieces, root);
  reduce_if_covered(step, slice, orders);
}

void ExchangeMachine::send_pieces(int64_t step, int slice, SessionId to, ExchangeOrders* orders) {
  for (const Subtree& subtree : contributions(step, step_at(step).slices[slice].local)) {
    orders->sends.push_back({to, {FrameKind::piece, step, slice, subtree}});
  }
}

std::vector<Subtree> ExchangeMachine::contributions(int64_t step,
                                                    const std::vector<Subtree>& roots) const {
  std::vector<Subtree> result;
  for (const PartitionRange range : merged(ranges_of(roots))) {
    const auto subtrees = contributed_subtrees(rows_of_step_(step), partitions_, range);
    result.insert(result.end(), subtrees.begin(), subtrees.end());
  }
  return result;
}

void ExchangeMachine::reduce_if_covered(int64_t step, int slice, ExchangeOrders* orders) {
  Slice& state = step_at(step).slices[slice];
  if (state.reduced || state.reducing) return;
  if (rows_of_ranges(step, ranges_of(state.pieces)) != rows_of_step_(step)) return;
  state.reducing = true;
  orders->reductions.push_back({step, slice, state.pieces});
}

void ExchangeMachine::reduced(int64_t step, int slice, ExchangeOrders* orders) {
  const auto found = steps_.find(step);
  if (found == steps_.end()) return;
  Slice& state = found->second.slices[slice];
  state.reducing = false;
  if (!state.reduced) {
    state.reduced = true;
    --found->second.unreduced;
  }
  state.pieces.clear();
  share_reduced(step, slice, orders);
}

void ExchangeMachine::applied(int64_t step) {
  LOCKSTEP_CHECK(step == step_);
  step_ = step + 1;
  const int64_t kept_from = planted(Bug::gradient_dropped_early) ? step + 1 : step;
  std::erase_if(steps_, [&](const auto& entry) { return entry.first < kept_from; });
  const auto kept = steps_.find(step);
  if (kept == steps_.end()) return;
  for (Slice& slice : kept->second.slices) {
    slice.local.clear();
    slice.pieces.clear();
  }
}

Status ExchangeMachine::check_piece(const FrameKey& key) const {
  const bool exists = key.slice >= 0 && key.slice < slices_;
  if (!exists) return Error{fmt::format("a frame of slice {}, which does not exist", key.slice)};
  if (key.kind == FrameKind::reduced) return {};
  const Subtree& subtree = key.subtree;
  const bool in_tree = subtree.level >= 0 && subtree.level < 31 && subtree.first >= 0 &&
                       subtree.first <= partitions_ - (1 << subtree.level) &&
                       subtree.first % (1 << subtree.level) == 0;
  if (in_tree && !is_empty_subtree(rows_of_step_(key.step), partitions_, subtree)) return {};
  return Error{fmt::format("a piece of partitions from {}, level {}, which holds no rows",
                           subtree.first, subtree.level)};
}

Result<bool> ExchangeMachine::offer(SessionId from, const FrameKey& key) {
  if (view_.index_of(from) < 0 && !planted(Bug::no_session_check)) {
    return Error{"a frame from a node that is not a member"};
  }
  if (key.kind == FrameKind::want) return true;
  if (key.step < step_) return false;
  if (key.step > step_ + 1) {
    return Error{
        fmt::format("a frame of step {} while this node works on step {}", key.step, step_)};
  }
  if (key.kind != FrameKind::present) LOCKSTEP_RETURN_IF_ERROR(check_piece(key));
  if (key.kind != FrameKind::reduced) {
    const auto known = begun_.emplace(from, key.step).first;
    known->second = std::max(known->second, key.step);
  }
  if (key.kind == FrameKind::present) return false;  // there are no values
  Slice& slice = step_at(key.step).slices[key.slice];
  if (slice.reduced || slice.reducing) return false;
  if (key.kind == FrameKind::reduced) {
    if (slice.receiving != 0) return false;
    slice.receiving = from;
    return true;
  }
  if (!owns(self_, key.slice)) return false;
  return std::none_of(slice.pieces.begin(), slice.pieces.end(),
                      [&](const Subtree& other) { return other.contains(key.subtree); });
}

void ExchangeMachine::gave_up(SessionId from, const FrameKey& key) {
  const auto found = steps_.find(key.step);
  if (key.kind != FrameKind::reduced || found == steps_.end()) return;
  Slice& slice = found->second.slices[key.slice];
  if (slice.receiving == from) slice.receiving = 0;
}

void ExchangeMachine::arrived(SessionId from, const FrameKey& key, ExchangeOrders* orders) {
  if (key.kind == FrameKind::want) {
    answer(from, key.step, orders);
    return;
  }
  if (key.step < step_) return;
  Step& step = step_at(key.step);
  Slice& slice = step.slices[key.slice];
  if (key.kind == FrameKind::reduced) {
    slice.receiving = 0;
    // A sum under way writes to the same memory: the slice is there when that is done.
    if (slice.reduced || slice.reducing) return;
    slice.reduced = true;
    --step.unreduced;
    slice.pieces.clear();
    if (owns(self_, key.slice)) share_reduced(key.step, key.slice, orders);
    return;
  }
  if (slice.reduced || slice.reducing || !insert_subtree(&slice.pieces, key.subtree)) return;
  reduce_if_covered(key.step, key.slice, orders);
}

// What this node has for a member that stands at `step`.
void ExchangeMachine::answer(SessionId member, int64_t step, ExchangeOrders* orders) {
  if (view_.index_of(member) < 0) return;
  for (auto& [number, held] : steps_) {
    if (number < step) continue;
    for (int slice = 0; slice < slices_; ++slice) {
      const Slice& state = held.slices[slice];
      if (state.reduced && (number < step_ || owns(self_, slice) || owns(member, slice))) {
        orders->sends.push_back(
            {member, {FrameKind::reduced, number, slice, root_subtree(partitions_)}});
      } else if (number == step_ && owns(member, slice) && local_complete(number, state)) {
        send_pieces(number, slice, member, orders);
      }
    }
  }
  const auto begun = begun_.find(self_);
  if (begun != begun_.end() && begun->second >= step) {
    orders->sends.push_back({member, present_key(begun->second)});
  }
}

bool ExchangeMachine::complete(int64_t step) const {
  const Step* held = find(step);
  if (held == nullptr) return false;
  const bool some_are_there = planted(Bug::update_before_all) && held->unreduced < slices_;
  return (held->unreduced == 0 || some_are_there) && not_begun(step).empty();
}

// What was before the view, some member has applied: all had begun it.
std::set<SessionId> ExchangeMachine::not_begun(int64_t step) const {
  std::set<SessionId> missing;
  if (step < view_.first_step || planted(Bug::apply_before_all_begun)) return missing;
  for (const Member& member : view_.members) {
    const auto begun = begun_.find(member.session);
    const bool has_begun = begun != begun_.end() && begun->second >= step;
    if (member.session != self_ && !has_begun) missing.insert(member.session);
  }
  return missing;
}

std::vector<SessionId> ExchangeMachine::waiting_for(int64_t step) const {
  std::set<SessionId> missing = not_begun(step);
  if (!missing.empty()) return {missing.begin(), missing.end()};  // owners may lack their pieces
  const Step* held = find(step);
  for (int slice = 0; slice < slices_; ++slice) {
    if (held != nullptr && held->slices[slice].reduced) continue;
    missing.insert(view_.members[view_.slice_owners[slice]].session);
  }
  return {missing.begin(), missing.end()};
}

bool ExchangeMachine::owns(SessionId session, int slice) const {
  return view_.members[view_.slice_owners[slice]].session == session;
}

ExchangeMachine::Step& ExchangeMachine::step_at(int64_t number) {
  const auto found = steps_.find(number);
  if (found != steps_.end()) return found->second;
  Step& step = steps_[number];
  step.slices.resize(static_cast<size_t>(slices_));
  step.unreduced = slices_;
  return step;
}

const ExchangeMachine::Step* ExchangeMachine::find(int64_t number) const {
  const auto found = steps_.find(number);
  return found == steps_.end() ? nullptr : &found->second;
}

int64_t ExchangeMachine::rows_of_ranges(int64_t step,
                                        const std::vector<PartitionRange>& ranges) const {
  const int64_t rows = rows_of_step_(step);
  int64_t sum = 0;
  for (const PartitionRange range : ranges) {
    sum += partition_begin(rows, partitions_, range.end) -
           partition_begin(rows, partitions_, range.begin);
  }
  return sum;
}

}  // namespace lockstep
