#include "host/cluster/exchange_machine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <optional>
#include <utility>

namespace lockstep {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using testing::UnorderedElementsAre;

constexpr Subtree kLow{0, 1};   // partitions 0 and 1
constexpr Subtree kHigh{2, 1};  // 2 and 3
constexpr Subtree kAll{0, 2};

FrameKey piece(int64_t step, int slice, Subtree subtree) {
  return {FrameKind::piece, step, slice, subtree};
}
FrameKey reduced_slice(int64_t step, int slice) { return {FrameKind::reduced, step, slice, kAll}; }
FrameKey present(int64_t step) { return {FrameKind::present, step, 0, {}}; }
FrameKey want(int64_t step) { return {FrameKind::want, step, 0, {}}; }

auto sent(SessionId to, const FrameKey& key) {
  return testing::AllOf(testing::Field(&SendFrame::to, to), testing::Field(&SendFrame::key, key));
}

// Members 1 and 2 compute two of four partitions each; 1 owns slice 0, 2 owns slice 1.
View view_of_two() {
  View view;
  view.number = 1;
  view.members = {{1, "a", "", {0, 2}, {}, 0}, {2, "b", "", {2, 4}, {}, 0}};
  view.slice_owners = {0, 1};
  return view;
}

// 3 holds the state and owns nothing.
View view_with_spare() {
  View view = view_of_two();
  view.members.push_back({3, "c", "", {}, {}, 0});
  return view;
}

// 2 died while step 0 was computed; 3 took its place and its half.
View view_after_death() {
  View view;
  view.number = 2;
  view.carries = true;
  view.members = {{1, "a", "", {0, 2}, {{0, 2}}, 0}, {3, "c", "", {2, 4}, {{2, 4}}, 0}};
  view.slice_owners = {0, 1};
  return view;
}

class ExchangeMachineTest : public testing::Test {
 protected:
  // This node is a member of the view and has begun the step.
  void begin(const View& view, SessionId self, int64_t step = 0, int64_t rows = 8) {
    machine_.emplace(4, 2, [rows](int64_t) { return rows; });
    machine_->adopt(view, self, step, &orders_);
    machine_->begin(step, &orders_);
  }
  ExchangeOrders taken() { return std::exchange(orders_, {}); }
  bool wanted(SessionId from, const FrameKey& key) {
    const Result<bool> offered = machine_->offer(from, key);
    EXPECT_TRUE(offered.ok());
    return offered.ok() && *offered;
  }
  void receive(SessionId from, const FrameKey& key) {
    ASSERT_TRUE(wanted(from, key));
    machine_->arrived(from, key, &orders_);
  }
  // Node 1's whole step, whose slice 0 it reduces itself.
  void exchange(int64_t step) {
    machine_->local_ready(step, 0, {kLow}, &orders_);
    machine_->local_ready(step, 1, {kLow}, &orders_);
    receive(2, piece(step, 0, kHigh));
    machine_->reduced(step, 0, &orders_);
    receive(2, reduced_slice(step, 1));
  }

  std::optional<ExchangeMachine> machine_;
  ExchangeOrders orders_;
};

TEST(InsertSubtree, KeepsOnlyWhatNoOtherContains) {
  std::vector<Subtree> subtrees;
  EXPECT_TRUE(insert_subtree(&subtrees, {0, 0}));
  EXPECT_TRUE(insert_subtree(&subtrees, {1, 0}));
  EXPECT_TRUE(insert_subtree(&subtrees, {4, 1}));
  EXPECT_FALSE(insert_subtree(&subtrees, {1, 0}));  // a duplicate
  EXPECT_FALSE(insert_subtree(&subtrees, {5, 0}));  // inside {4, 1}
  EXPECT_THAT(subtrees, ElementsAre(Subtree{0, 0}, Subtree{1, 0}, Subtree{4, 1}));
  EXPECT_TRUE(insert_subtree(&subtrees, {0, 1}));  // replaces its children
  EXPECT_THAT(subtrees, ElementsAre(Subtree{4, 1}, Subtree{0, 1}));
}

TEST_F(ExchangeMachineTest, AsksTheOthersWhenItAdoptsAView) {
  begin(view_with_spare(), 1);
  // An owner sees from the piece that this node has begun; a spare must be told.
  EXPECT_THAT(taken().sends, ElementsAre(sent(2, want(0)), sent(3, want(0)), sent(3, present(0))));
}

TEST_F(ExchangeMachineTest, ASpareTellsAllThatItHasBegun) {
  begin(view_with_spare(), 3);
  EXPECT_THAT(taken().sends, ElementsAre(sent(1, want(0)), sent(2, want(0)), sent(1, present(0)),
                                         sent(2, present(0))));
}

TEST_F(ExchangeMachineTest, SendsItsPiecesToTheOwnerOnceTheyAreWhole) {
  begin(view_of_two(), 1);
  taken();
  machine_->local_ready(0, 1, {{0, 0}}, &orders_);
  EXPECT_THAT(taken().sends, IsEmpty());  // partition 1 is missing
  machine_->local_ready(0, 1, {{1, 0}}, &orders_);
  EXPECT_THAT(taken().sends, ElementsAre(sent(2, piece(0, 1, kLow))));  // joined
  machine_->local_ready(0, 0, {kLow}, &orders_);
  EXPECT_THAT(taken().sends, IsEmpty());  // its own slice
}

TEST_F(ExchangeMachineTest, ReducesASliceOnceAllItsRowsAreThere) {
  begin(view_of_two(), 1);
  machine_->local_ready(0, 0, {kLow}, &orders_);
  receive(2, piece(0, 0, {3, 0}));
  taken();
  receive(2, piece(0, 0, {2, 0}));
  const ExchangeOrders covered = taken();
  ASSERT_EQ(covered.reductions.size(), 1u);
  EXPECT_EQ(covered.reductions[0].step, 0);
  EXPECT_EQ(covered.reductions[0].slice, 0);
  EXPECT_THAT(covered.reductions[0].pieces,
              UnorderedElementsAre(kLow, Subtree{2, 0}, Subtree{3, 0}));
  EXPECT_THAT(covered.sends, IsEmpty());
  machine_->reduced(0, 0, &orders_);
  EXPECT_THAT(taken().sends, ElementsAre(sent(2, reduced_slice(0, 0))));
}

TEST_F(ExchangeMachineTest, ASecondCopyChangesNothing) {
  begin(view_of_two(), 1);
  // Two streams bring the same piece at once.
  EXPECT_TRUE(wanted(2, piece(0, 0, kHigh)));
  EXPECT_TRUE(wanted(2, piece(0, 0, kHigh)));
  machine_->arrived(2, piece(0, 0, kHigh), &orders_);
  EXPECT_FALSE(wanted(2, piece(0, 0, kHigh)));
  EXPECT_FALSE(wanted(2, piece(0, 0, {3, 0})));  // inside it
  machine_->local_ready(0, 0, {kLow}, &orders_);
  machine_->arrived(2, piece(0, 0, kHigh), &orders_);
  EXPECT_EQ(taken().reductions.size(), 1u);
  machine_->reduced(0, 0, &orders_);
  machine_->arrived(2, piece(0, 0, kHigh), &orders_);
  machine_->local_ready(0, 0, {kLow}, &orders_);
  EXPECT_EQ(taken().reductions.size(), 0u);
}

TEST_F(ExchangeMachineTest, APieceForAnotherOwnerIsDropped) {
  begin(view_of_two(), 1);
  EXPECT_FALSE(wanted(2, piece(0, 1, kHigh)));
}

TEST_F(ExchangeMachineTest, RefusesWhatDoesNotExistOrHoldsNoRows) {
  begin(view_of_two(), 1, 0, 2);  // the partitions 1 and 3 have a row each
  EXPECT_TRUE(wanted(2, piece(0, 0, {3, 0})));
  EXPECT_TRUE(wanted(2, piece(0, 0, kHigh)));
  for (const Subtree subtree : {Subtree{2, 0}, Subtree{1, 1}, Subtree{4, 0}, Subtree{0, 3},
                                Subtree{-1, 0}, Subtree{0, -1}, Subtree{0, 31}}) {
    EXPECT_FALSE(machine_->offer(2, piece(0, 0, subtree)).ok())
        << subtree.first << " " << subtree.level;
  }
  EXPECT_FALSE(machine_->offer(2, piece(0, 2, kHigh)).ok());
  EXPECT_FALSE(machine_->offer(2, reduced_slice(0, -1)).ok());
}

TEST_F(ExchangeMachineTest, KeepsToTheStepsUnderWay) {
  begin(view_of_two(), 1, 3);
  EXPECT_FALSE(wanted(2, piece(2, 0, kHigh)));
  EXPECT_FALSE(wanted(2, reduced_slice(2, 1)));
  EXPECT_TRUE(wanted(2, piece(4, 0, kHigh)));
  EXPECT_FALSE(machine_->offer(2, piece(5, 0, kHigh)).ok());
  EXPECT_FALSE(machine_->offer(2, present(5)).ok());
}

TEST_F(ExchangeMachineTest, RefusesFramesOfOthersThanMembers) {
  begin(view_of_two(), 1);
  EXPECT_FALSE(machine_->offer(9, piece(0, 0, kHigh)).ok());
  EXPECT_FALSE(machine_->offer(9, want(0)).ok());
  taken();
  machine_->arrived(9, want(0), &orders_);  // it was one when the header came
  EXPECT_THAT(taken().sends, IsEmpty());
}

TEST_F(ExchangeMachineTest, RefusesSubtreesBeyondAllPartitions) {
  begin(view_of_two(), 1);
  EXPECT_FALSE(machine_->offer(2, piece(0, 0, {1 << 30, 30})).ok());
  EXPECT_FALSE(machine_->offer(2, piece(0, 0, {4, 1})).ok());
}

TEST_F(ExchangeMachineTest, IsCompleteWhenAllSlicesAreReduced) {
  begin(view_of_two(), 1);
  EXPECT_THAT(machine_->waiting_for(0), ElementsAre(2));  // who has not begun
  machine_->local_ready(0, 0, {kLow}, &orders_);
  receive(2, piece(0, 0, kHigh));
  EXPECT_FALSE(machine_->complete(0));
  EXPECT_THAT(machine_->waiting_for(0), ElementsAre(1, 2));  // the owners
  machine_->reduced(0, 0, &orders_);
  EXPECT_FALSE(machine_->complete(0));
  EXPECT_THAT(machine_->waiting_for(0), ElementsAre(2));
  receive(2, reduced_slice(0, 1));
  EXPECT_TRUE(machine_->complete(0));
  EXPECT_THAT(machine_->waiting_for(0), IsEmpty());
}

TEST_F(ExchangeMachineTest, IsCompleteOnlyWhenEveryMemberHasBegun) {
  begin(view_with_spare(), 1);
  exchange(0);
  EXPECT_FALSE(machine_->complete(0));
  EXPECT_THAT(machine_->waiting_for(0), ElementsAre(3));
  EXPECT_FALSE(wanted(3, present(0)));  // it has no values
  EXPECT_TRUE(machine_->complete(0));
}

TEST_F(ExchangeMachineTest, AStepThatSomeMemberHasAppliedAllHaveBegun) {
  begin(view_with_spare(), 1);
  View view = view_of_two();
  view.number = 2;
  view.first_step = 1;
  machine_->adopt(view, 1, 0, &orders_);
  receive(2, reduced_slice(0, 0));
  EXPECT_FALSE(machine_->complete(0));
  receive(2, reduced_slice(0, 1));
  EXPECT_TRUE(machine_->complete(0));
}

TEST_F(ExchangeMachineTest, DropsWhatComesForASliceThatIsBeingReduced) {
  begin(view_of_two(), 1);
  machine_->local_ready(0, 0, {kLow}, &orders_);
  receive(2, piece(0, 0, kHigh));
  ASSERT_EQ(taken().reductions.size(), 1u);
  EXPECT_FALSE(wanted(2, reduced_slice(0, 0)));
  EXPECT_FALSE(wanted(2, piece(0, 0, kAll)));
}

TEST_F(ExchangeMachineTest, ASliceIsNotThereBeforeItsSumIsDoneWhateverElseBringsIt) {
  begin(view_of_two(), 1);
  machine_->local_ready(0, 0, {kLow}, &orders_);
  machine_->local_ready(0, 1, {kLow}, &orders_);
  receive(2, reduced_slice(0, 1));
  ASSERT_TRUE(wanted(2, reduced_slice(0, 0)));  // from an owner that is gone
  receive(2, piece(0, 0, kHigh));               // and the last piece, while it is being read
  EXPECT_THAT(taken().reductions, testing::SizeIs(1));
  machine_->arrived(2, reduced_slice(0, 0), &orders_);
  EXPECT_FALSE(machine_->complete(0));  // the sum still writes there
  machine_->reduced(0, 0, &orders_);
  EXPECT_TRUE(machine_->complete(0));
}

TEST_F(ExchangeMachineTest, AReducedSliceDoesNotShowThatItsSenderHasBegun) {
  begin(view_of_two(), 1);
  receive(2, reduced_slice(0, 0));
  receive(2, reduced_slice(0, 1));
  EXPECT_FALSE(machine_->complete(0));
  EXPECT_THAT(machine_->waiting_for(0), ElementsAre(2));
  wanted(2, present(0));
  EXPECT_TRUE(machine_->complete(0));
}

TEST_F(ExchangeMachineTest, AnswersWithTheStepBefore) {
  begin(view_of_two(), 1);
  exchange(0);
  machine_->applied(0);
  taken();
  receive(2, want(0));
  EXPECT_THAT(taken().sends, ElementsAre(sent(2, reduced_slice(0, 0)), sent(2, reduced_slice(0, 1)),
                                         sent(2, present(0))));
  receive(2, want(1));
  EXPECT_THAT(taken().sends, IsEmpty());
}

TEST_F(ExchangeMachineTest, AnswersWithWhatItHasOfThisStep) {
  begin(view_of_two(), 1);
  machine_->local_ready(0, 0, {kLow}, &orders_);
  taken();
  receive(2, want(0));
  EXPECT_THAT(taken().sends, ElementsAre(sent(2, present(0))));  // slice 1 is not there yet
  machine_->local_ready(0, 1, {kLow}, &orders_);
  receive(2, reduced_slice(0, 0));  // from an owner that is gone
  taken();
  receive(2, want(0));
  EXPECT_THAT(taken().sends, ElementsAre(sent(2, reduced_slice(0, 0)), sent(2, piece(0, 1, kLow)),
                                         sent(2, present(0))));
}

TEST_F(ExchangeMachineTest, HoldsThreeStepsAtMost) {
  begin(view_of_two(), 1);
  exchange(0);
  receive(2, piece(1, 0, kHigh));  // early
  EXPECT_EQ(machine_->steps_held(), 2);
  machine_->applied(0);
  machine_->begin(1, &orders_);
  receive(2, piece(2, 0, kHigh));
  EXPECT_EQ(machine_->steps_held(), 3);
  machine_->applied(1);
  EXPECT_EQ(machine_->steps_held(), 2);
}

TEST_F(ExchangeMachineTest, ReadsTheReducedValuesFromOneMemberOnly) {
  begin(view_with_spare(), 1);
  EXPECT_TRUE(wanted(2, reduced_slice(0, 1)));
  EXPECT_FALSE(wanted(3, reduced_slice(0, 1)));
  machine_->gave_up(3, reduced_slice(0, 1));  // which was not being read
  EXPECT_FALSE(wanted(3, reduced_slice(0, 1)));
  machine_->gave_up(2, reduced_slice(0, 1));
  EXPECT_TRUE(wanted(3, reduced_slice(0, 1)));
}

TEST_F(ExchangeMachineTest, SendsAgainToTheNewOwner) {
  begin(view_of_two(), 1);
  machine_->local_ready(0, 1, {kLow}, &orders_);
  taken();
  machine_->adopt(view_after_death(), 1, 0, &orders_);
  EXPECT_THAT(taken().sends, ElementsAre(sent(3, want(0)), sent(3, piece(0, 1, kLow))));
}

TEST_F(ExchangeMachineTest, WaitsForThePartitionsThatAViewAdds) {
  begin(view_of_two(), 1);
  machine_->local_ready(0, 1, {kLow}, &orders_);
  taken();
  View view = view_after_death();
  view.members[0].carried = {{0, 3}};
  view.members[1].carried = {{3, 4}};
  machine_->adopt(view, 1, 0, &orders_);
  EXPECT_THAT(taken().sends, ElementsAre(sent(3, want(0))));
  machine_->local_ready(0, 1, {{2, 0}}, &orders_);
  EXPECT_THAT(taken().sends, ElementsAre(sent(3, piece(0, 1, kLow)), sent(3, piece(0, 1, {2, 0}))));
}

TEST_F(ExchangeMachineTest, WhatTheDeadContributedStaysCounted) {
  begin(view_of_two(), 1);
  machine_->local_ready(0, 0, {kLow}, &orders_);
  receive(2, piece(0, 0, {2, 0}));
  machine_->adopt(view_after_death(), 1, 0, &orders_);
  EXPECT_FALSE(wanted(3, piece(0, 0, {2, 0})));
  receive(3, piece(0, 0, {3, 0}));
  ASSERT_EQ(orders_.reductions.size(), 1u);
  EXPECT_THAT(orders_.reductions[0].pieces,
              UnorderedElementsAre(kLow, Subtree{2, 0}, Subtree{3, 0}));
}

TEST_F(ExchangeMachineTest, PassesTheReducedSliceOfADeadOwnerOnToTheNew) {
  begin(view_of_two(), 1);
  receive(2, reduced_slice(0, 1));
  taken();
  machine_->adopt(view_after_death(), 1, 0, &orders_);
  EXPECT_THAT(taken().sends, ElementsAre(sent(3, want(0)), sent(3, reduced_slice(0, 1))));
}

TEST_F(ExchangeMachineTest, TheNewOwnerTellsAll) {
  View view = view_after_death();
  view.members.push_back({4, "d", "", {}, {}, 0});
  begin(view, 3);
  taken();
  receive(1, reduced_slice(0, 1));
  EXPECT_THAT(taken().sends,
              ElementsAre(sent(1, reduced_slice(0, 1)), sent(4, reduced_slice(0, 1))));
  receive(1, reduced_slice(0, 0));  // which it does not own
  EXPECT_THAT(taken().sends, IsEmpty());
}

TEST_F(ExchangeMachineTest, ANewEraForgetsEverything) {
  begin(view_of_two(), 1);
  exchange(0);
  View view = view_of_two();
  view.number = 2;
  machine_->adopt(view, 1, 0, &orders_);
  EXPECT_TRUE(machine_->complete(0));
  taken();
  view.number = view.era = 3;
  machine_->adopt(view, 1, 0, &orders_);
  EXPECT_EQ(machine_->steps_held(), 0);
  EXPECT_FALSE(machine_->complete(0));
  EXPECT_THAT(machine_->waiting_for(0), ElementsAre(2));
  EXPECT_THAT(taken().sends, ElementsAre(sent(2, want(0))));
}

TEST_F(ExchangeMachineTest, AsksAMemberThatItIsConnectedToAgain) {
  begin(view_of_two(), 1, 6);
  taken();
  machine_->connected(2, &orders_);
  machine_->connected(9, &orders_);
  EXPECT_THAT(taken().sends, ElementsAre(sent(2, want(6))));
}

}  // namespace
}  // namespace lockstep
