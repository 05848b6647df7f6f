#include "host/cluster/view.h"

#include <gtest/gtest.h>

namespace lockstep {
namespace {

using Ranges = std::vector<PartitionRange>;

Candidate at(SessionId session, int64_t step, bool begun = false, int64_t since = 0) {
  return {session, "n", "", step, begun, since, true};
}

Candidate leaving(SessionId session, int64_t step, bool begun = false) {
  Candidate candidate = at(session, step, begun);
  candidate.works = false;
  return candidate;
}

ViewRequest request(int number, std::vector<Candidate> candidates, int partitions = 8) {
  ViewRequest request;
  request.number = number;
  request.partitions = partitions;
  request.slices = 4;
  request.candidates = std::move(candidates);
  return request;
}

// A view in which all members have state[5].
View view_at_five(const std::vector<SessionId>& sessions) {
  std::vector<Candidate> candidates;
  for (const SessionId session : sessions) candidates.push_back(at(session, 5));
  return make_view({}, request(1, candidates));
}

// How many members compute each partition of a step.
std::vector<int> times_computed(const View& view, int64_t step) {
  std::vector<int> times(8);
  for (size_t member = 0; member < view.members.size(); ++member) {
    for (const PartitionRange range : assigned_partitions(view, static_cast<int>(member), step)) {
      for (int p = range.begin; p < range.end; ++p) ++times[p];
    }
  }
  return times;
}

std::vector<int> each_once() { return std::vector<int>(8, 1); }

TEST(Patience, GrowsWithWhatAStepTakesAndWithTheStateThatIsLoaded) {
  View view = view_at_five({1, 2});
  EXPECT_EQ(patience_ms(view, 5, 0, 1'000'000'000), 30'000);
  EXPECT_EQ(patience_ms(view, 5, 10'000, 0), 110'000);
  view.members[1].step = -1;
  EXPECT_EQ(patience_ms(view, 5, 0, 1'000'000'000), 130'000);
  EXPECT_EQ(patience_ms(view, 6, 0, 1'000'000'000), 30'000);  // all have begun its first step
}

TEST(MakeView, TheFirstViewStartsAllFromTheInitialState) {
  ViewRequest first = request(1, {at(1, -1), at(2, -1), at(3, -1)});
  const View view = make_view({}, first);
  EXPECT_EQ(view.number, 1);
  EXPECT_EQ(view.era, 1);
  EXPECT_TRUE(view.restores);
  EXPECT_EQ(view.restore, StateRef{});
  EXPECT_EQ(view.first_step, 0);
  EXPECT_FALSE(view.carries);
  EXPECT_EQ(view.donor, -1);
  ASSERT_EQ(view.members.size(), 3u);
  EXPECT_EQ(view.members[0].partitions, (PartitionRange{0, 3}));
  EXPECT_EQ(view.members[1].partitions, (PartitionRange{3, 6}));
  EXPECT_EQ(view.members[2].partitions, (PartitionRange{6, 8}));
  for (const Member& member : view.members) EXPECT_EQ(member.step, 0);
  EXPECT_EQ(view.slice_owners, (std::vector<int>{0, 1, 2, 0}));
}

TEST(MakeView, MembersBeyondThePartitionsAreSpares) {
  const View view = make_view({}, request(1, {at(1, -1), at(2, -1), at(3, -1)}, 2));
  ASSERT_EQ(view.members.size(), 3u);
  EXPECT_EQ(view.members[1].partitions, (PartitionRange{1, 2}));
  EXPECT_TRUE(view.members[2].partitions.empty());
  EXPECT_TRUE(assigned_partitions(view, 2, 0).empty());
  EXPECT_EQ(view.slice_owners, (std::vector<int>{0, 1, 0, 1}));
}

TEST(MakeView, OnlyWhatTheLostHeldIsDealtOut) {
  const View before = view_at_five({1, 2, 3});
  const View view = make_view(before, request(2, {at(1, 7, true), at(3, 7, true)}));
  EXPECT_TRUE(view.carries);
  EXPECT_FALSE(view.restores);
  EXPECT_EQ(view.first_step, 7);
  EXPECT_EQ(view.era, before.era);
  EXPECT_EQ(view.members[0].carried, (Ranges{{0, 5}}));  // its own, 3 and 4
  EXPECT_EQ(view.members[1].carried, (Ranges{{5, 8}}));
  EXPECT_EQ(view.members[0].partitions, (PartitionRange{0, 4}));
  EXPECT_EQ(view.members[1].partitions, (PartitionRange{4, 8}));
  EXPECT_EQ(times_computed(view, 7), each_once());
  EXPECT_EQ(times_computed(view, 8), each_once());
  EXPECT_EQ(partitions_dealt(before, view), 3);
}

TEST(MakeView, CarriedPartitionsNeedNotBeContiguous) {
  const View before = view_at_five({1, 2, 3, 4});
  const View view =
      make_view(before, request(2, {at(2, 5, true), at(3, 5, true), at(4, 5, false)}));
  EXPECT_EQ(view.members[0].carried, (Ranges{{0, 1}, {2, 4}}));
  EXPECT_EQ(view.members[1].carried, (Ranges{{1, 2}, {4, 6}}));
  EXPECT_EQ(view.members[2].carried, (Ranges{{6, 8}}));
  EXPECT_EQ(times_computed(view, 5), each_once());
  EXPECT_EQ(partitions_dealt(before, view), 2);
}

TEST(MakeView, ASecondDeathInTheSameStepKeepsWhatWasCarried) {
  const View before = view_at_five({1, 2, 3});
  const View first = make_view(before, request(2, {at(1, 7, true), at(3, 7, true)}));
  const View second = make_view(first, request(3, {at(3, 7, true)}));
  EXPECT_EQ(second.members[0].carried, (Ranges{{0, 8}}));
  EXPECT_EQ(partitions_dealt(first, second), 5);  // and not the 4 of later steps
}

TEST(MakeView, AStepThatNobodyHasBegunIsNotCarried) {
  const View before = view_at_five({1, 2, 3});
  // 2 has begun the step before only.
  const View view = make_view(before, request(2, {at(1, 7, false), at(2, 6, true)}));
  EXPECT_FALSE(view.carries);
  EXPECT_EQ(view.first_step, 7);
  EXPECT_EQ(times_computed(view, 7), each_once());
  EXPECT_EQ(partitions_dealt(before, view), 0);
}

TEST(MakeView, AStepFromBeforeTheLastViewIsNotCarried) {
  View before = view_at_five({1, 2});
  before.first_step = 8;
  const View view = make_view(before, request(2, {at(1, 7, true), at(3, -1)}));
  EXPECT_FALSE(view.carries);
  EXPECT_EQ(view.first_step, 7);
  EXPECT_EQ(times_computed(view, 7), each_once());
}

TEST(MakeView, WhoLacksOneStepKeepsItsState) {
  const View before = view_at_five({1, 2, 3});
  const View view =
      make_view(before, request(2, {at(1, 6, true), at(2, 7, false), at(3, 7, true)}));
  EXPECT_EQ(view.first_step, 7);
  EXPECT_EQ(view.members[0].step, 6);
  EXPECT_EQ(view.members[1].step, 7);
  EXPECT_EQ(view.members[2].step, 7);
}

TEST(MakeView, WhereNobodyHasTheGradientTheStateIsSent) {
  const View before = view_at_five({1, 2});
  // 2 was given state[7] and has not applied step 6 itself.
  const View view = make_view(before, request(2, {at(1, 6), at(2, 7, false, 7)}));
  EXPECT_EQ(view.members[0].step, -1);
  EXPECT_EQ(view.donor, 1);
}

TEST(MakeView, JoinersAndThoseFarBehindGetTheStateFromTheDonor) {
  const View before = view_at_five({1, 2, 3});
  const View view = make_view(before, request(2, {at(1, 5), at(2, 7, true), at(3, 7), at(4, -1)}));
  EXPECT_EQ(view.members[0].step, -1);
  EXPECT_EQ(view.members[3].step, -1);
  EXPECT_EQ(view.donor, 1);  // the first of those that have it
  EXPECT_TRUE(view.carries);
  EXPECT_TRUE(view.members[3].carried.empty());  // nothing was lost
  EXPECT_EQ(view.members[3].partitions, (PartitionRange{6, 8}));
  EXPECT_EQ(times_computed(view, 7), each_once());
}

TEST(MakeView, ARestoreTakesAllBackToWhatIsDurable) {
  const View before = view_at_five({1, 2});
  ViewRequest restore = request(2, {at(1, 7, true), at(2, 6)});
  restore.restore = true;
  restore.durable = {4, "object", 9, 100};
  const View view = make_view(before, restore);
  EXPECT_TRUE(view.restores);
  EXPECT_EQ(view.restore, restore.durable);
  EXPECT_EQ(view.first_step, 4);
  EXPECT_EQ(view.era, 2);
  EXPECT_FALSE(view.carries);
  EXPECT_EQ(view.donor, -1);
  EXPECT_EQ(view.members[0].step, 4);
  EXPECT_EQ(view.members[1].step, 4);
}

TEST(MakeView, WhoLeavesKeepsWhatItHasBegunAndGetsNothing) {
  const View before = view_at_five({1, 2, 3, 4});
  const View view =
      make_view(before, request(2, {at(1, 7, true), leaving(2, 7, true), at(3, 7, true)}));
  EXPECT_EQ(view.members[1].carried, (Ranges{{2, 4}}));
  EXPECT_TRUE(view.members[1].partitions.empty());
  EXPECT_EQ(view.members[0].carried, (Ranges{{0, 2}, {6, 7}}));
  EXPECT_EQ(view.members[2].carried, (Ranges{{4, 6}, {7, 8}}));
  EXPECT_EQ(times_computed(view, 7), each_once());
  EXPECT_EQ(times_computed(view, 8), each_once());
  EXPECT_EQ(view.slice_owners, (std::vector<int>{0, 2, 0, 2}));
}

TEST(AssignedPartitions, FollowTheStep) {
  View view;
  view.first_step = 3;
  view.carries = true;
  view.members = {{1, "a", "", {0, 4}, {{0, 1}, {6, 8}}, 3}, {2, "b", "", {}, {{1, 6}}, 3}};
  EXPECT_EQ(assigned_partitions(view, 0, 2), Ranges{});
  EXPECT_EQ(assigned_partitions(view, 0, 3), (Ranges{{0, 1}, {6, 8}}));
  EXPECT_EQ(assigned_partitions(view, 0, 4), (Ranges{{0, 4}}));
  EXPECT_EQ(assigned_partitions(view, 1, 3), (Ranges{{1, 6}}));
  EXPECT_EQ(assigned_partitions(view, 1, 4), Ranges{});
  view.carries = false;
  EXPECT_EQ(assigned_partitions(view, 0, 3), (Ranges{{0, 4}}));
}

TEST(View, KnowsItsMembers) {
  const View view = view_at_five({4, 9});
  EXPECT_EQ(view.index_of(4), 0);
  EXPECT_EQ(view.index_of(9), 1);
  EXPECT_EQ(view.index_of(5), -1);
}

}  // namespace
}  // namespace lockstep
