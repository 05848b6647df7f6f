#include "host/cluster/view.h"

#include <algorithm>

#include "host/core/check.h"
#include "host/reduce/layout.h"

namespace lockstep {
namespace {

// Deals `lost` partitions out to the members that work, in turn and in contiguous runs.
void deal_out(const std::vector<PartitionRange>& lost, const std::vector<int>& working,
              View* view) {
  const int total = count_partitions(lost);
  const int parts = static_cast<int>(working.size());
  int dealt = 0;
  for (const PartitionRange range : lost) {
    for (int p = range.begin; p < range.end; ++p, ++dealt) {
      int part = 0;
      while (!range_of_part({0, total}, parts, part).contains(dealt)) ++part;
      view->members[working[part]].carried.push_back({p, p + 1});
    }
  }
}

void carry_over(const View& previous, const ViewRequest& request, const std::vector<int>& working,
                View* view) {
  view->carries = true;
  std::vector<PartitionRange> held;
  for (Member& member : view->members) {
    const int before = previous.index_of(member.session);
    if (before >= 0) {
      member.carried = assigned_partitions(previous, before, view->first_step);
      held.insert(held.end(), member.carried.begin(), member.carried.end());
    }
  }
  deal_out(without({{0, request.partitions}}, merged(held)), working, view);
  for (Member& member : view->members) member.carried = merged(member.carried);
}

View restored_view(const ViewRequest& request, View view) {
  view.restores = true;
  view.restore = request.durable;
  view.first_step = request.durable.step;
  view.era = view.number;
  for (Member& member : view.members) member.step = view.first_step;
  return view;
}

}  // namespace

int View::index_of(SessionId session) const {
  for (size_t i = 0; i < members.size(); ++i) {
    if (members[i].session == session) return static_cast<int>(i);
  }
  return -1;
}

std::vector<PartitionRange> assigned_partitions(const View& view, int member, int64_t step) {
  if (step < view.first_step) return {};
  if (view.carries && step == view.first_step) return view.members[member].carried;
  const PartitionRange range = view.members[member].partitions;
  if (range.empty()) return {};
  return {range};
}

View make_view(const View& previous, const ViewRequest& request) {
  View view;
  view.number = request.number;
  view.era = previous.era;
  std::vector<int> working;
  bool begun = false;
  bool gradient_is_here = false;  // of the step before the furthest, for those that lack it
  int64_t furthest = -1;
  for (const Candidate& candidate : request.candidates) {
    if (candidate.works) working.push_back(static_cast<int>(view.members.size()));
    view.members.push_back(
        {candidate.session, candidate.name, candidate.address, {}, {}, candidate.step});
    furthest = std::max(furthest, candidate.step);
  }
  for (const Candidate& candidate : request.candidates) {
    const bool applied = candidate.step == furthest && candidate.since < furthest;
    gradient_is_here = gradient_is_here || applied;
  }
  LOCKSTEP_CHECK(!working.empty());
  std::vector<PartitionRange> ranges(view.members.size());
  const int parts = static_cast<int>(working.size());
  for (int i = 0; i < parts; ++i) {
    ranges[working[i]] = range_of_part({0, request.partitions}, parts, i);
    view.members[working[i]].partitions = ranges[working[i]];
  }
  view.slice_owners = assign_slice_owners(request.slices, ranges);
  if (furthest < 0 || request.restore) return restored_view(request, std::move(view));
  view.first_step = furthest;
  for (size_t i = 0; i < view.members.size(); ++i) {
    Member& member = view.members[i];
    if (member.step == furthest) {
      begun = begun || request.candidates[i].begun;
      if (view.donor < 0) view.donor = static_cast<int>(i);
    } else if (member.step < furthest - 1 || !gradient_is_here) {
      member.step = -1;
    }
  }
  // Who holds what of a step before the previous view's first is not known here; nodes use again
  // whatever they have.
  if (begun && furthest >= previous.first_step) carry_over(previous, request, working, &view);
  return view;
}

int64_t patience_ms(const View& view, int64_t step, int64_t compute_ms, int64_t state_bytes) {
  constexpr int64_t kLeastMs = 30'000;
  constexpr int64_t kSlowerThanThis = 8;        // a member may be, with more partitions
  constexpr int64_t kStateBytesPerMs = 10'000;  // 10 MB/s
  int64_t patience = kLeastMs + kSlowerThanThis * compute_ms;
  const bool some_load = std::any_of(view.members.begin(), view.members.end(),
                                     [](const Member& member) { return member.step < 0; });
  const bool of_first_step = step <= view.first_step;
  if (of_first_step && (view.restores || some_load)) patience += state_bytes / kStateBytesPerMs;
  return patience;
}

int partitions_dealt(const View& previous, const View& view) {
  if (!view.carries) return 0;
  int kept = 0;
  int all = 0;
  for (const Member& member : view.members) {
    all += count_partitions(member.carried);
    const int before = previous.index_of(member.session);
    if (before < 0) continue;
    kept += count_partitions(assigned_partitions(previous, before, view.first_step));
  }
  return all - kept;
}

}  // namespace lockstep
