// What the nodes report: steps, digests, epochs, copies of states.
#include "host/cluster/coordinator.h"
#include "tests/cluster/coordinator_fixture.h"

namespace lockstep {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using Phase = Coordinator::Phase;

using CoordinatorReportsTest = CoordinatorTest;

// Two rows right in each partition; the order of the tree shows in the sum of the losses.
std::vector<ValidationPart> validation(int begin, int end) {
  const float losses[8] = {1e8f, 1.0f, -1e8f, 1.0f, 0.5f, 0.5f, 0.5f, 0.5f};
  std::vector<ValidationPart> parts;
  for (int p = begin; p < end; ++p) parts.push_back({0, p, {losses[p], 2, 4}});
  return parts;
}

TEST_F(CoordinatorReportsTest, AStepIsDoneOnceAndItsSamplesCountOnce) {
  train(2);
  applied(kSecond, 0);
  applied(kSecond, 0);
  applied(kFirst, 0);
  ASSERT_EQ(taken<StepDone>().size(), 1u);
  EXPECT_EQ(taken<StepDone>()[0].rows, 32);
  EXPECT_EQ(taken<StepDone>()[0].sums, (MetricSums{1.5, 20, 32}));
  EXPECT_EQ(coordinator_->steps_done(), 1);
  const auto consumed = taken<SamplesConsumed>();
  ASSERT_EQ(consumed.size(), 2u);
  EXPECT_EQ(consumed[0].session, kSecond);
  EXPECT_EQ(consumed[0].partitions.size(), 4u);
  EXPECT_EQ(consumed[1].session, kFirst);
}

TEST_F(CoordinatorReportsTest, WhatTheDeadAppliedAndDidNotTellIsCounted) {
  train(2);
  applied(kFirst, 0);
  die(kSecond);
  actions_.clear();
  held(kFirst, standing(1));
  const auto consumed = taken<SamplesConsumed>();
  ASSERT_EQ(consumed.size(), 4u);
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ(consumed[i].session, 0);
    EXPECT_EQ(consumed[i].step, 0);
    ASSERT_EQ(consumed[i].partitions.size(), 1u);
    EXPECT_EQ(consumed[i].partitions[0].partition, 4 + i);
    EXPECT_EQ(consumed[i].partitions[0].rows, 4);
  }
}

TEST_F(CoordinatorReportsTest, ReportsThatMakeNoSenseAreErrors) {
  train(1);
  StepReport step = step_report(kFirst, 0);
  step.partitions.push_back({8, 4, {}});
  EXPECT_FALSE(report(step).ok());
  EXPECT_THAT(taken<SamplesConsumed>(), IsEmpty());
  EXPECT_FALSE(measured(epoch_report(kFirst, 1)).ok());  // epoch 0 is not decided
}

// The last of three batches has three rows in eight partitions: 2, 5 and 7 hold one each.
TEST_F(CoordinatorReportsTest, ValidationOfWhatHoldsNoRowsIsAnError) {
  facts_.validation_rows = 67;
  train(1);
  const std::pair<int64_t, int> wrong[] = {{0, -1}, {0, 8}, {-1, 0},       {2, 0},
                                           {2, 6},  {3, 0}, {INT64_MAX, 0}};
  EpochReport report = epoch_report(kFirst, 0);
  for (const auto& [batch, partition] : wrong) {
    report.validation = {{batch, partition, {0.5, 2, 4}}};
    EXPECT_FALSE(measured(report).ok()) << batch << " " << partition;
  }
  for (const int partition : {2, 5, 7}) {
    report.validation = {{2, partition, {0.5, 2, 4}}};
    EXPECT_TRUE(measured(report).ok()) << partition;
  }
}

TEST_F(CoordinatorReportsTest, AnotherNumberOfSumsThanTheJobsIsRefused) {
  facts_.validation_rows = 32;
  train(1);
  StepReport step = step_report(kFirst, 0);
  EpochReport epoch = epoch_report(kFirst, 0);
  EpochReport part = epoch;
  part.validation = validation(0, 8);
  for (const MetricSums& sums : {MetricSums{}, MetricSums{1, 2}, MetricSums{1, 2, 3, 4}}) {
    step.sums = sums;
    epoch.sums = sums;
    part.validation[3].sums = sums;
    for (const Status& status : {report(step), measured(epoch), measured(part)}) {
      ASSERT_FALSE(status.ok());
      EXPECT_EQ(status.error().kind, ErrorKind::refused);
      EXPECT_THAT(status.error().message, HasSubstr("sums of metrics, the job has 3"));
    }
  }
  EXPECT_THAT(taken<StepDone>(), IsEmpty());
}

TEST_F(CoordinatorReportsTest, ReportsOfAnotherEraAreIgnored) {
  train(2);
  StepReport step = step_report(kFirst, 0);
  step.era = 0;
  EXPECT_TRUE(report(step).ok());
  applied_by_all(0);
  applied_by_all(1);
  actions_.clear();
  EpochReport epoch = epoch_report(kFirst, 0);
  epoch.era = 0;
  EXPECT_TRUE(measured(epoch).ok());
  step.step = 2;
  EXPECT_TRUE(report(step).ok());
  EXPECT_THAT(actions_, IsEmpty());
}

TEST_F(CoordinatorReportsTest, TheMajorityExpelsTheMinorityAndRestores) {
  train(3);
  applied(kFirst, 0, 7);
  applied(kThird, 0, 9);
  EXPECT_THAT(receivers<StopEvent>(), IsEmpty());  // not all have said theirs
  applied(kSecond, 0, 7);
  ASSERT_THAT(receivers<StopEvent>(), ElementsAre(kThird));
  EXPECT_EQ(events<StopEvent>()[0].second.kind, ErrorKind::halted);
  EXPECT_THAT(receivers<HoldEvent>(), ElementsAre(kFirst, kSecond));
  held(kFirst, standing(1));
  held(kSecond, standing(1));
  const View& view = coordinator_->view();
  EXPECT_TRUE(view.restores);
  EXPECT_EQ(view.first_step, 0);
  EXPECT_EQ(view.era, 2);
  EXPECT_EQ(view.members.size(), 2u);
  ASSERT_EQ(taken<Restored>().size(), 1u);
  EXPECT_THAT(taken<Restored>()[0].why, HasSubstr("silent corruption"));
  EXPECT_EQ(coordinator_->steps_done(), 0);
}

TEST_F(CoordinatorReportsTest, TwoThatDifferGoBackOnceAndThenHalt) {
  train(2);
  finish_epoch(0);
  stored(state(2));
  commit_durable();
  actions_.clear();
  applied(kFirst, 2, 7);
  applied(kSecond, 2, 9);
  EXPECT_THAT(receivers<StopEvent>(), IsEmpty());
  EXPECT_THAT(receivers<HoldEvent>(), ElementsAre(kFirst, kSecond));
  held(kFirst, standing(3));
  held(kSecond, standing(3));
  EXPECT_EQ(coordinator_->view().restore, state(2));
  EXPECT_EQ(coordinator_->view().members.size(), 2u);
  ASSERT_EQ(taken<Restored>().size(), 1u);
  EXPECT_EQ(taken<Restored>()[0].samples_consumed, 64);
  EXPECT_THAT(taken<JobFailed>(), IsEmpty());
  applied(kFirst, 2, 7);
  applied(kSecond, 2, 9);
  ASSERT_EQ(taken<JobFailed>().size(), 1u);
  EXPECT_EQ(taken<JobFailed>()[0].kind, ErrorKind::halted);
  EXPECT_THAT(taken<JobFailed>()[0].reason,
              AllOf(HasSubstr(std::to_string(kFirst)), HasSubstr(std::to_string(kSecond))));
  EXPECT_EQ(coordinator_->phase(), Phase::failed);
}

TEST_F(CoordinatorReportsTest, DigestsAreComparedWhenItIsDue) {
  facts_.verify_every = 4;
  facts_.train_rows = 320;
  train(2);
  for (int64_t step = 0; step < 3; ++step) {
    applied(kFirst, step, 7);
    applied(kSecond, step, 9);
  }
  EXPECT_THAT(receivers<HoldEvent>(), IsEmpty());
  applied(kFirst, 3, 7);
  applied(kSecond, 3, 9);
  EXPECT_THAT(receivers<HoldEvent>(), ElementsAre(kFirst, kSecond));
}

TEST_F(CoordinatorReportsTest, ACopyIsACheckpointOnceAllAgreeOnIt) {
  train(2);
  applied_by_all(0);
  applied(kFirst, 1);
  stored(state(2));
  EXPECT_THAT(taken<CommitCheckpoint>(), IsEmpty());
  applied(kSecond, 1);
  ASSERT_EQ(taken<CommitCheckpoint>().size(), 1u);
  EXPECT_EQ(taken<CommitCheckpoint>()[0].state, state(2));
  EXPECT_EQ(taken<CommitCheckpoint>()[0].samples_consumed, 64);
  commit_durable();
  EXPECT_EQ(taken<CheckpointDone>().size(), 1u);
  EXPECT_THAT(receivers<CheckpointEvent>(), ElementsAre(kFirst, kSecond));
  EXPECT_EQ(coordinator_->checkpoints().size(), 1u);
}

TEST_F(CoordinatorReportsTest, WhoWasGivenAStateNeedNotAgreeOnIt) {
  train(2);
  applied_by_all(0);
  applied_by_all(1);
  enter();
  held(kFirst, standing(2));
  held(kSecond, standing(2));
  held(kThird, {});
  ASSERT_EQ(coordinator_->view().members.size(), 3u);
  stored(state(2));
  EXPECT_EQ(taken<CommitCheckpoint>().size(), 1u);
  applied(kFirst, 2);
  applied(kSecond, 2);
  commit_durable();
  stored(state(3));
  EXPECT_EQ(taken<CommitCheckpoint>().size(), 1u);  // the next it has applied itself
  applied(kThird, 2);
  EXPECT_EQ(taken<CommitCheckpoint>().size(), 2u);
}

TEST_F(CoordinatorReportsTest, ACopyOfAnotherStateIsNoCheckpoint) {
  train(2);
  applied_by_all(0);
  applied_by_all(1);
  actions_.clear();
  stored(state(2, 9));
  EXPECT_THAT(taken<CommitCheckpoint>(), IsEmpty());
  EXPECT_THAT(receivers<SnapshotEvent>(), ElementsAre(kSecond));  // another copy is wanted
}

TEST_F(CoordinatorReportsTest, ACopyWaitsForTheReportsOfItsSamples) {
  facts_.verify_every = 0;
  train(2);
  applied(kFirst, 0, 0);
  stored(state(1));
  EXPECT_THAT(taken<CommitCheckpoint>(), IsEmpty());
  applied(kSecond, 0, 0);
  ASSERT_EQ(taken<CommitCheckpoint>().size(), 1u);
  EXPECT_EQ(taken<CommitCheckpoint>()[0].samples_consumed, 32);
}

TEST_F(CoordinatorReportsTest, ARestoreWaitsForTheCommitThatIsUnderWay) {
  train(2);
  applied_by_all(0);
  stored(state(1));
  applied(kFirst, 1, 7);
  applied(kSecond, 1, 9);
  held(kFirst, standing(2));
  held(kSecond, standing(2));
  EXPECT_THAT(taken<ViewMade>(), IsEmpty());
  commit_durable();
  ASSERT_EQ(taken<ViewMade>().size(), 1u);
  EXPECT_EQ(coordinator_->view().restore, state(1));
}

TEST_F(CoordinatorReportsTest, TheEpochsEndIsPlannedAsACheckpoint) {
  facts_.start_nodes = 1;
  begin();
  held(enter(), {});
  ASSERT_EQ(events<SnapshotEvent>().size(), 1u);
  EXPECT_EQ(events<SnapshotEvent>()[0].second.step, 2);
}

TEST_F(CoordinatorReportsTest, CheckpointsByStepsArePlannedOneAfterTheOther) {
  facts_.checkpoint_every_steps = 1;
  begin();
  held(enter(), {});
  ASSERT_EQ(events<SnapshotEvent>().size(), 1u);
  EXPECT_EQ(events<SnapshotEvent>()[0].second.step, 1);
  applied(kFirst, 0);
  stored(state(1));
  commit_durable();
  ASSERT_EQ(events<SnapshotEvent>().size(), 2u);
  EXPECT_EQ(events<SnapshotEvent>()[1].second.step, 2);
}

TEST_F(CoordinatorReportsTest, WhatIsTrainedWhileACheckpointIsWrittenIsPartOfTheInterval) {
  facts_.epochs = 1;
  facts_.train_rows = 20 * facts_.batch_size;
  facts_.checkpoint_every_steps = 8;
  facts_.start_nodes = 1;
  begin();
  held(enter(), {});
  ASSERT_EQ(events<SnapshotEvent>().size(), 1u);
  EXPECT_EQ(events<SnapshotEvent>()[0].second.step, 7);  // something is guessed
  for (int64_t step = 0; step < 9; ++step) applied(kFirst, step);
  stored(state(7));
  commit_durable();  // at step 9: it took two steps
  ASSERT_EQ(events<SnapshotEvent>().size(), 2u);
  EXPECT_EQ(events<SnapshotEvent>()[1].second.step, 7 + 8 - 3);
}

TEST_F(CoordinatorReportsTest, CheckpointsByTimeAreAskedForOnceThereIsSomethingNew) {
  facts_.checkpoint_every_ms = 1000;
  train(1);
  coordinator_->tick(1000, &actions_);
  coordinator_->tick(2500, &actions_);
  EXPECT_THAT(receivers<SnapshotEvent>(), IsEmpty());
  applied(kFirst, 0);
  coordinator_->tick(2600, &actions_);
  ASSERT_THAT(receivers<SnapshotEvent>(), ElementsAre(kFirst));
  EXPECT_EQ(events<SnapshotEvent>()[0].second.step, 0);
  coordinator_->tick(3599, &actions_);
  EXPECT_EQ(receivers<SnapshotEvent>().size(), 1u);  // the first is under way
}

TEST_F(CoordinatorReportsTest, AnEpochIsDecidedOnceItsValidationIsWhole) {
  facts_.validation_rows = 32;
  train(2);
  applied_by_all(0);
  applied_by_all(1);
  EpochReport report = epoch_report(kSecond, 0);
  report.validation = validation(4, 8);
  ASSERT_TRUE(measured(report).ok());
  ASSERT_TRUE(measured(report).ok());  // twice is once
  EXPECT_THAT(taken<EpochRecord>(), IsEmpty());
  report = epoch_report(kFirst, 0);
  report.validation = validation(0, 4);
  ASSERT_TRUE(measured(report).ok());
  ASSERT_EQ(taken<EpochRecord>().size(), 1u);
  const EpochDone done = taken<EpochRecord>()[0].done;
  EXPECT_EQ(done, (EpochDone{0, {128, 32, 64}, {2, 16, 32}, 0}));
  EXPECT_THAT(receivers<EpochEvent>(), ElementsAre(kFirst, kSecond));
  EXPECT_TRUE(events<EpochEvent>()[0].second.go_on);
  EXPECT_LT(first_record<EpochRecord>(), first_event<EpochEvent>());
  ASSERT_TRUE(measured(report).ok());  // late
  EXPECT_EQ(taken<EpochRecord>().size(), 1u);
}

TEST_F(CoordinatorReportsTest, SurvivorsMeasureWhatTheDeadDidNot) {
  facts_.validation_rows = 32;
  train(2);
  applied_by_all(0);
  applied_by_all(1);
  EpochReport report = epoch_report(kFirst, 0);
  report.validation = validation(0, 4);
  ASSERT_TRUE(measured(report).ok());
  die(kSecond);
  report.validation = validation(3, 8);
  ASSERT_TRUE(measured(report).ok());
  EXPECT_THAT(taken<EpochRecord>(), IsEmpty());  // the members hold
  held(kFirst, standing(2));
  ASSERT_EQ(taken<EpochRecord>().size(), 1u);
  EXPECT_EQ(taken<EpochRecord>()[0].done.validation, (MetricSums{2, 16, 32}));
  EXPECT_LT(first_record<ViewRecord>(), first_record<EpochRecord>());
}

TEST_F(CoordinatorReportsTest, AnEpochIsDecidedOnceAllAgreeOnItsLastState) {
  train(2);
  applied_by_all(0);
  applied(kFirst, 1);
  ASSERT_TRUE(measured(epoch_report(kFirst, 0)).ok());
  EXPECT_THAT(taken<EpochRecord>(), IsEmpty());
  applied(kSecond, 1);
  EXPECT_EQ(taken<EpochRecord>().size(), 1u);
}

TEST_F(CoordinatorReportsTest, TheJobIsCompletedWhenItsLastStateIsDurable) {
  train(2);
  finish_epoch(0);
  stored(state(2));
  commit_durable();
  actions_.clear();
  finish_epoch(1);
  ASSERT_EQ(events<EpochEvent>().size(), 2u);
  EXPECT_FALSE(events<EpochEvent>()[0].second.go_on);
  EXPECT_EQ(coordinator_->phase(), Phase::finishing);
  stored(state(4));
  EXPECT_THAT(taken<JobCompleted>(), IsEmpty());
  commit_durable();
  ASSERT_EQ(taken<JobCompleted>().size(), 1u);
  EXPECT_EQ(taken<JobCompleted>()[0].state, state(4));
  EXPECT_EQ(coordinator_->phase(), Phase::completed);
  EXPECT_THAT(receivers<StopEvent>(), ElementsAre(kFirst, kSecond));
  EXPECT_TRUE(events<StopEvent>()[0].second.completed);
  EXPECT_LT(first_record<EndRecord>(), first_event<StopEvent>());
  EXPECT_TRUE(coordinator_->leave(kFirst, now_, &actions_).ok());
  EXPECT_EQ(taken<NodeLeft>().size(), 1u);
}

TEST_F(CoordinatorReportsTest, ADeathAfterTheLastDecisionStillEndsWell) {
  facts_.epochs = 1;
  train(2);
  finish_epoch(0);
  EXPECT_EQ(coordinator_->phase(), Phase::finishing);
  die(kFirst);  // which was to send the copy
  actions_.clear();
  held(kSecond, standing(2));
  EXPECT_EQ(coordinator_->phase(), Phase::finishing);
  ASSERT_THAT(receivers<SnapshotEvent>(), ElementsAre(kSecond));
  EXPECT_EQ(events<SnapshotEvent>()[0].second.step, 2);
  ASSERT_THAT(receivers<EpochEvent>(), ElementsAre(kSecond));
  stored(state(2), kSecond);
  commit_durable();
  EXPECT_EQ(coordinator_->phase(), Phase::completed);
}

}  // namespace
}  // namespace lockstep
