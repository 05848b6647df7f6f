#include "host/cluster/node.h"

#include <gtest/gtest.h>

namespace lockstep {
namespace {

using Ranges = std::vector<PartitionRange>;

// Members 1 and 2 have four of eight partitions each; tests are member 1.
View view_of_two(int number, int64_t first_step) {
  View view;
  view.number = number;
  view.first_step = first_step;
  view.members = {{1, "a", "", {0, 4}, {}, first_step}, {2, "b", "", {4, 8}, {}, first_step}};
  view.slice_owners = {0, 1};
  return view;
}

View view_of_one(int number, int64_t first_step) {
  View view = view_of_two(number, first_step);
  view.members.pop_back();
  view.members[0].partitions = {0, 8};
  view.slice_owners = {0, 0};
  return view;
}

View restored_to(const StateRef& state, View view) {
  view.restores = true;
  view.restore = state;
  view.first_step = state.step;
  view.era = view.number;
  for (Member& member : view.members) member.step = state.step;
  return view;
}

class NodeMachineTest : public testing::Test {
 protected:
  explicit NodeMachineTest(CheckpointRule rule = {.every_ms = 500}) : node_(1, 10, rule) {}
  template <class T>
  bool next_is() const {
    return std::holds_alternative<T>(node_.next(now_));
  }
  // The next action, which must be of this kind.
  template <class T>
  T next() const {
    const NodeAction action = node_.next(now_);
    const T* match = std::get_if<T>(&action);
    EXPECT_NE(match, nullptr) << "the action has index " << action.index();
    return match == nullptr ? T{} : *match;
  }
  void tell(const NodeEvent& event) { node_.event(event, now_); }
  void adopt(const View& view) {
    tell(ViewEvent{view});
    ASSERT_EQ(next<AdoptView>().view, view);
    node_.view_adopted();
  }
  // In training under view 1, from the initial state on.
  void start(const View& view) {
    adopt(restored_to({}, view));
    ASSERT_TRUE(next_is<RestoreState>());
    node_.state_here(0, false);
  }
  void train_step() {
    const auto compute = next<ComputeStep>();
    node_.computed(compute.partitions);
    ASSERT_EQ(next<AwaitStep>().step, compute.step);
    node_.step_complete();
    ASSERT_EQ(next<ApplyStep>().step, compute.step);
    node_.applied(false);
  }
  void train_to(int64_t step) {
    while (node_.step() < step && !HasFatalFailure()) train_step();
  }

  int64_t now_ = 1000;
  NodeMachine node_;
};

TEST_F(NodeMachineTest, ComputesAwaitsAndAppliesStepAfterStep) {
  start(view_of_two(1, 0));
  for (int64_t step = 0; step < 3; ++step) {
    EXPECT_EQ(next<ComputeStep>().step, step);
    EXPECT_EQ(next<ComputeStep>().partitions, (Ranges{{0, 4}}));
    train_step();
    EXPECT_EQ(node_.step(), step + 1);
  }
}

TEST_F(NodeMachineTest, HoldsReportsAndDoesNothingUntilTheViewComes) {
  EXPECT_TRUE(next_is<AwaitEvent>());
  start(view_of_two(1, 0));
  train_to(3);
  node_.computed({{0, 4}});
  node_.step_complete();
  tell(HoldEvent{2});
  const auto report = next<ReportHeld>();
  EXPECT_EQ(report.number, 2);
  EXPECT_EQ(report.standing, (Standing{1, 3, true, 0, 0}));
  node_.held_reported(2);
  EXPECT_TRUE(next_is<AwaitEvent>());  // although the step could be applied
  tell(EpochEvent{0, true, {}});
  EXPECT_TRUE(next_is<AwaitEvent>());
  View view = view_of_two(2, 3);
  view.carries = true;
  view.members[0].carried = {{0, 4}};
  adopt(view);
  EXPECT_TRUE(next_is<AwaitStep>());  // the new members must have begun it, too
}

TEST_F(NodeMachineTest, AHoldSaidAgainIsReportedAgain) {
  start(view_of_two(1, 0));
  tell(HoldEvent{2});
  node_.held_reported(2);
  tell(HoldEvent{2});
  EXPECT_EQ(next<ReportHeld>().number, 2);
  node_.held_reported(2);
  tell(HoldEvent{1});  // of a view that is here
  EXPECT_TRUE(next_is<AwaitEvent>());
  tell(HoldEvent{3});
  EXPECT_EQ(next<ReportHeld>().number, 3);
  tell(HoldEvent{2});
  EXPECT_EQ(next<ReportHeld>().number, 3);
}

TEST_F(NodeMachineTest, AHoldForAViewThatIsHereChangesNothing) {
  start(view_of_two(4, 0));
  tell(HoldEvent{4});
  EXPECT_TRUE(next_is<ComputeStep>());
}

TEST_F(NodeMachineTest, ViewsThatAreOldOrOfOthersAreNotAdopted) {
  start(view_of_two(2, 0));
  tell(ViewEvent{view_of_two(2, 0)});
  EXPECT_TRUE(next_is<ComputeStep>());
  View of_others = view_of_two(3, 0);
  of_others.members.erase(of_others.members.begin());
  tell(ViewEvent{of_others});
  EXPECT_TRUE(next_is<ComputeStep>());
}

TEST_F(NodeMachineTest, AJoinerAwaitsTheState) {
  tell(HoldEvent{1});
  EXPECT_EQ(next<ReportHeld>().standing, Standing{});
  node_.held_reported(1);
  View view = view_of_two(1, 7);
  view.members[0].step = -1;
  view.donor = 1;
  adopt(view);
  EXPECT_EQ(next<AwaitState>().step, 7);
  EXPECT_EQ(node_.standing().step, -1);
  node_.state_here(7, false);
  EXPECT_EQ(next<ComputeStep>().step, 7);
  EXPECT_EQ(node_.standing().since, 7);
}

TEST_F(NodeMachineTest, ARestoreTakesItBack) {
  start(view_of_two(1, 0));
  train_to(5);
  node_.computed({{0, 4}});
  const StateRef state{2, "object", 9, 100};
  adopt(restored_to(state, view_of_two(2, 0)));
  EXPECT_EQ(next<RestoreState>().state, state);
  EXPECT_EQ(node_.standing(), (Standing{2, -1, false, -1, 0}));
  node_.state_here(2, false);
  EXPECT_EQ(node_.standing(), (Standing{2, 2, false, 2, 0}));
  EXPECT_EQ(next<ComputeStep>().step, 2);
  EXPECT_EQ(next<ComputeStep>().partitions, (Ranges{{0, 4}}));  // all of it again
}

TEST_F(NodeMachineTest, ComputesOnlyWhatIsMissingAfterAView) {
  start(view_of_two(1, 0));
  train_to(3);
  node_.computed({{0, 4}});
  View view = view_of_one(2, 3);
  view.carries = true;
  view.members[0].carried = {{0, 8}};
  adopt(view);
  EXPECT_EQ(next<ComputeStep>().partitions, (Ranges{{4, 8}}));
  node_.computed({{4, 8}});
  EXPECT_EQ(next<AwaitStep>().step, 3);
  node_.step_complete();
  EXPECT_EQ(next<ApplyStep>().step, 3);
  node_.applied(false);
  EXPECT_EQ(next<TrainAlone>().step, 4);
}

TEST_F(NodeMachineTest, WhoLacksAStepAwaitsItsGradient) {
  start(view_of_two(1, 0));
  train_to(3);
  View view = view_of_two(2, 4);
  view.members[0].step = 3;
  adopt(view);
  EXPECT_EQ(next<AwaitStep>().step, 3);
  node_.step_complete();
  EXPECT_EQ(next<ApplyStep>().step, 3);
  node_.applied(false);
  EXPECT_EQ(next<ComputeStep>().step, 4);
}

TEST_F(NodeMachineTest, AloneItTrainsWithoutAnExchange) {
  start(view_of_one(1, 0));
  EXPECT_EQ(next<TrainAlone>().step, 0);
  EXPECT_EQ(next<TrainAlone>().partitions, (Ranges{{0, 8}}));
  EXPECT_TRUE(node_.is_alone(0));
  node_.applied(false);
  EXPECT_EQ(next<TrainAlone>().step, 1);
  adopt(view_of_two(2, 1));
  EXPECT_FALSE(node_.is_alone(1));
  EXPECT_EQ(next<ComputeStep>().step, 1);
}

TEST_F(NodeMachineTest, TakesThePlannedSnapshotWhenTheStepIsHere) {
  start(view_of_two(1, 0));
  tell(SnapshotEvent{2});
  train_to(2);
  EXPECT_EQ(next<TakeSnapshot>().step, 2);
  node_.snapshot_taken();
  EXPECT_EQ(next<ComputeStep>().step, 2);
}

TEST_F(NodeMachineTest, APlannedSnapshotWaitsForTheLast) {
  start(view_of_two(1, 0));
  tell(SnapshotEvent{2});
  node_.snapshot_under_way(true);
  train_to(2);
  EXPECT_TRUE(next_is<AwaitEvent>());
  node_.snapshot_under_way(false);
  EXPECT_EQ(next<TakeSnapshot>().step, 2);
}

TEST_F(NodeMachineTest, TakesASnapshotAsSoonAsMayBe) {
  start(view_of_two(1, 0));
  node_.computed({{0, 4}});
  tell(SnapshotEvent{0});
  EXPECT_TRUE(next_is<AwaitStep>());  // a step that is begun is ended
  node_.step_complete();
  node_.applied(false);
  EXPECT_EQ(next<TakeSnapshot>().step, 1);
  node_.snapshot_under_way(true);
  EXPECT_EQ(next<ComputeStep>().step, 1);  // training does not wait for it
  train_step();
  node_.snapshot_under_way(false);
  EXPECT_EQ(next<TakeSnapshot>().step, 2);
}

TEST_F(NodeMachineTest, AViewForgetsTheSnapshotsThatWereAskedBefore) {
  start(view_of_two(1, 0));
  tell(SnapshotEvent{0});
  adopt(view_of_two(2, 0));
  EXPECT_TRUE(next_is<ComputeStep>());
  tell(ViewEvent{view_of_two(3, 0)});
  tell(SnapshotEvent{0});  // told after it, before it is adopted
  node_.view_adopted();
  EXPECT_TRUE(next_is<TakeSnapshot>());
}

TEST_F(NodeMachineTest, MeasuresTheEpochAndAwaitsTheDecision) {
  start(view_of_two(1, 0));
  train_to(10);
  EXPECT_EQ(next<MeasureEpoch>().epoch, 0);
  EXPECT_EQ(next<MeasureEpoch>().partitions, (Ranges{{0, 4}}));
  node_.epoch_measured(0, {{0, 4}});
  EXPECT_TRUE(next_is<AwaitEvent>());
  tell(EpochEvent{3, true, {}});  // of another epoch
  EXPECT_TRUE(next_is<AwaitEvent>());
  tell(EpochEvent{0, true, {}});
  EXPECT_EQ(next<ComputeStep>().step, 10);
  train_to(20);
  EXPECT_EQ(next<MeasureEpoch>().epoch, 1);
}

TEST_F(NodeMachineTest, MeasuresWhatTheDeadDidNot) {
  start(view_of_two(1, 0));
  train_to(10);
  node_.epoch_measured(0, {{0, 4}});
  adopt(view_of_one(2, 10));
  EXPECT_EQ(next<MeasureEpoch>().epoch, 0);
  EXPECT_EQ(next<MeasureEpoch>().partitions, (Ranges{{4, 8}}));
  node_.epoch_measured(0, {{4, 8}});
  EXPECT_TRUE(next_is<AwaitEvent>());
}

TEST_F(NodeMachineTest, MeasuresAgainForACoordinatorThatDoesNotKnow) {
  start(view_of_two(1, 0));
  train_to(10);
  node_.epoch_measured(0, {{0, 4}});
  EXPECT_TRUE(next_is<AwaitEvent>());
  node_.measure_again();
  EXPECT_EQ(next<MeasureEpoch>().epoch, 0);
  EXPECT_EQ(next<MeasureEpoch>().partitions, (Ranges{{0, 4}}));
}

TEST_F(NodeMachineTest, ASpareReportsTheEpochOnce) {
  View view = view_of_two(1, 0);
  view.members[0].partitions = {};
  start(view);
  train_to(10);
  EXPECT_EQ(next<MeasureEpoch>().partitions, Ranges{});
  node_.epoch_measured(0, {});
  EXPECT_TRUE(next_is<AwaitEvent>());
}

TEST_F(NodeMachineTest, TheLastDecisionEndsTrainingAfterTheEpochsLastStep) {
  start(view_of_two(1, 0));
  train_to(9);
  tell(EpochEvent{0, false, {}});  // the others were faster
  EXPECT_EQ(next<ComputeStep>().step, 9);
  train_step();
  EXPECT_TRUE(next_is<AwaitEvent>());
  tell(SnapshotEvent{10});
  EXPECT_EQ(next<TakeSnapshot>().step, 10);
  node_.snapshot_taken();
  tell(StopEvent{ErrorKind::failed, true, "the job is done"});
  EXPECT_TRUE(next<LeaveJob>().completed);
}

TEST_F(NodeMachineTest, ACoordinatorThatComesBackWithMoreEpochsIsFollowed) {
  start(view_of_two(1, 0));
  train_to(10);
  tell(EpochEvent{0, false, {}});
  ASSERT_TRUE(next_is<AwaitEvent>());
  tell(EpochEvent{0, true, {}});
  EXPECT_EQ(next<ComputeStep>().step, 10);
}

TEST_F(NodeMachineTest, ARateHoldsFromTheNextEpochOn) {
  View view = view_of_two(1, 0);
  view.learning_rate = 4;
  start(view);
  EXPECT_EQ(node_.learning_rate(), std::optional<double>(4));
  train_to(9);
  tell(EpochEvent{0, true, 2});  // the others were faster
  EXPECT_EQ(node_.learning_rate(), std::optional<double>(4));
  train_step();
  EXPECT_EQ(node_.learning_rate(), std::optional<double>(2));
}

TEST_F(NodeMachineTest, AnEpochThatItsStateEndsIsMeasuredThere) {
  start(view_of_two(1, 0));
  train_to(3);
  node_.computed(next<ComputeStep>().partitions);
  node_.step_complete();
  node_.applied(true);
  EXPECT_EQ(next<MeasureEpoch>().epoch, 0);
  node_.epoch_measured(0, {{0, 4}});
  EXPECT_TRUE(next_is<AwaitEvent>());
  tell(EpochEvent{0, false, {}});
  EXPECT_TRUE(next_is<AwaitEvent>());
  tell(SnapshotEvent{4});
  EXPECT_EQ(next<TakeSnapshot>().step, 4);
}

TEST_F(NodeMachineTest, WhoIsGivenAStateThatEndsItsEpochMeasuresIt) {
  adopt(restored_to({4, "object", 9, 100}, view_of_two(1, 4)));
  node_.state_here(4, true);
  EXPECT_EQ(next<MeasureEpoch>().epoch, 0);
}

TEST_F(NodeMachineTest, ADecisionThatFollowsAViewIsHeededAfterIt) {
  start(view_of_two(1, 0));
  train_to(10);
  tell(ViewEvent{restored_to({10, "object", 9, 100}, view_of_two(2, 10))});
  tell(EpochEvent{0, true, {}});
  node_.view_adopted();
  node_.state_here(10, false);
  EXPECT_EQ(node_.standing().decided_epochs, 1);
  EXPECT_EQ(next<ComputeStep>().step, 10);
}

class NodeWithACheckpointEachThirdStep : public NodeMachineTest {
 protected:
  NodeWithACheckpointEachThirdStep() : NodeMachineTest({.every_ms = 0, .every_steps = 3}) {}
};

TEST_F(NodeWithACheckpointEachThirdStep, TrainsNoFurtherThanThatBeyondWhatIsDurable) {
  start(view_of_two(1, 0));
  train_to(3);
  EXPECT_TRUE(next_is<AwaitEvent>());
  tell(CheckpointEvent{2});
  EXPECT_EQ(node_.durable_step(), 2);
  train_to(5);
  node_.coordinator_away(true);
  EXPECT_TRUE(next_is<AwaitEvent>());
  tell(CheckpointEvent{5});
  train_to(8);
  EXPECT_TRUE(next_is<AwaitEvent>());
}

class NodeWithACheckpointEachStep : public NodeMachineTest {
 protected:
  NodeWithACheckpointEachStep() : NodeMachineTest({.every_ms = 0, .every_steps = 1}) {}
};

TEST_F(NodeWithACheckpointEachStep, TrainsOneStepWithoutACoordinator) {
  start(view_of_two(1, 0));
  node_.coordinator_away(true);
  train_to(1);
  EXPECT_TRUE(next_is<AwaitEvent>());
}

TEST_F(NodeMachineTest, WithoutACoordinatorItTrainsUntilACheckpointIsDueByTime) {
  start(view_of_two(1, 0));
  node_.coordinator_away(true);
  now_ += 499;
  EXPECT_TRUE(next_is<ComputeStep>());
  now_ += 1;
  EXPECT_TRUE(next_is<AwaitEvent>());
  node_.computed({{0, 4}});
  EXPECT_TRUE(next_is<AwaitStep>());  // a step that is begun is ended
}

TEST_F(NodeMachineTest, StopsWhereverItIsAndTheFirstReasonStands) {
  start(view_of_two(1, 0));
  tell(HoldEvent{2});
  tell(ViewEvent{view_of_two(2, 0)});
  EXPECT_FALSE(node_.stopping());
  tell(StopEvent{ErrorKind::halted, false, "the states differ"});
  tell(StopEvent{ErrorKind::failed, true, "the job is done"});
  node_.fail(ErrorKind::failed, "later");
  EXPECT_TRUE(node_.stopping());
  const auto leave = next<LeaveJob>();
  EXPECT_EQ(leave.kind, ErrorKind::halted);
  EXPECT_FALSE(leave.completed);
  EXPECT_EQ(leave.reason, "the states differ");
}

TEST_F(NodeMachineTest, ItsOwnFailureEndsIt) {
  start(view_of_two(1, 0));
  node_.fail(ErrorKind::halted, "the disk is full");
  EXPECT_EQ(next<LeaveJob>().reason, "the disk is full");
  EXPECT_EQ(next<LeaveJob>().kind, ErrorKind::halted);
}

}  // namespace
}  // namespace lockstep
