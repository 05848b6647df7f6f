// A coordinator that comes back with its log, and those that come back to it.
#include "host/cluster/coordinator.h"

#include "tests/cluster/coordinator_fixture.h"

namespace lockstep {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using Phase = Coordinator::Phase;

// A log that ends in a view of two members of term 1, made at step 2, which is durable.
class ReturningCoordinatorTest : public CoordinatorTest {
 protected:
  ReturningCoordinatorTest() {
    View view;
    view.number = 3;
    view.first_step = 2;
    view.members = {{kFirst, "a", "", {0, 4}, {}, 2}, {kSecond, "b", "", {4, 8}, {}, 2}};
    view.slice_owners = {0, 1, 0, 1};
    view.decided_epochs = 1;
    recovered_.view = view;
    recovered_.epochs = {{{0, {128, 32, 64}, {}, 0}, {}}};
    recovered_.checkpoints.resize(1);
    recovered_.checkpoints[0].state = state(2);
    recovered_.checkpoints[0].samples_consumed = 64;
  }
  Status attach(SessionId session, const Standing& standing) {
    return coordinator_->attach(session, standing, now_, &actions_);
  }

  RecoveredJob recovered_;
};

TEST_F(ReturningCoordinatorTest, MembersComeBackAndGoOn) {
  begin(recovered_, true, 2);
  EXPECT_EQ(coordinator_->phase(), Phase::changing);
  EXPECT_EQ(coordinator_->steps_done(), 2);
  EXPECT_TRUE(*coordinator_->renew(kFirst, now_));
  ASSERT_TRUE(attach(kFirst, standing(3)).ok());
  EXPECT_FALSE(*coordinator_->renew(kFirst, now_));
  EXPECT_THAT(receivers<HoldEvent>(), IsEmpty());  // one change for all
  ASSERT_TRUE(attach(kSecond, standing(3)).ok());
  EXPECT_THAT(receivers<HoldEvent>(), ElementsAre(kFirst, kSecond));
  EXPECT_EQ(events<HoldEvent>()[0].second.number, 4);
  held(kFirst, {3, 3, true, 0, 1});
  held(kSecond, {3, 3, false, 0, 0});
  EXPECT_EQ(coordinator_->view().number, 4);
  EXPECT_EQ(coordinator_->view().first_step, 3);
  EXPECT_FALSE(coordinator_->view().restores);
  // The second missed the decision; to the first it is said again.
  EXPECT_THAT(receivers<EpochEvent>(), ElementsAre(kFirst, kSecond));
}

TEST_F(ReturningCoordinatorTest, WithMoreEpochsItGoesOnWithNodesThatThoughtTheyWereDone) {
  facts_.epochs = 2;  // it was one
  begin(recovered_, true, 2);
  for (const SessionId session : {kFirst, kSecond}) {
    ASSERT_TRUE(attach(session, standing(2)).ok());
  }
  held(kFirst, {3, 2, false, 0, 1});
  held(kSecond, {3, 2, false, 0, 1});
  EXPECT_EQ(coordinator_->phase(), Phase::training);
  ASSERT_THAT(receivers<EpochEvent>(), ElementsAre(kFirst, kSecond));
  EXPECT_EQ(events<EpochEvent>()[0].second.epoch, 0);
  EXPECT_TRUE(events<EpochEvent>()[0].second.go_on);
}

TEST_F(ReturningCoordinatorTest, NewNodesMustComputeWhatTheFormerDid) {
  recovered_.canary = CanaryRecord{"1", {{"conv2d", 7}, {"dense", 9}}};
  begin(recovered_, false, 2);
  const Status refused = join(request(hello()));
  ASSERT_FALSE(refused.ok());
  EXPECT_THAT(refused.error().message, HasSubstr("op 1"));
}

TEST_F(ReturningCoordinatorTest, WhatAnotherVersionComputedIsNotCompared) {
  recovered_.canary = CanaryRecord{"0", {{"conv2d", 7}, {"dense", 9}}};
  begin(recovered_, false, 2);
  const SessionId session = enter();
  held(session, {});
  ASSERT_LT(first_record<CanaryRecord>(), first_record<ViewRecord>());
  const auto& append = std::get<AppendRecord>(actions_[first_record<CanaryRecord>()]);
  EXPECT_EQ(std::get<CanaryRecord>(append.record), (CanaryRecord{"1", request(1).canary}));
}

TEST_F(ReturningCoordinatorTest, WhoWasAboutToJoinIsToldToSayHelloAgain) {
  begin(recovered_, true, 2);
  const Status joined = join(request(session_id(9)));
  ASSERT_FALSE(joined.ok());
  EXPECT_EQ(joined.error().kind, ErrorKind::failed);
  EXPECT_EQ(join(request(session_id(9, 2))).error().kind, ErrorKind::refused);
}

TEST_F(ReturningCoordinatorTest, ItsOwnSessionsAreNew) {
  begin(recovered_, true, 2);
  EXPECT_EQ(hello(), session_id(1, 2));
}

TEST_F(ReturningCoordinatorTest, ReportsThatAreSentAgainCountOnce) {
  begin(recovered_, true, 2);
  const StepReport again = step_report(kFirst, 2);
  ASSERT_TRUE(report(again).ok());
  ASSERT_TRUE(report(again).ok());
  ASSERT_EQ(taken<SamplesConsumed>().size(), 1u);
  EXPECT_EQ(taken<SamplesConsumed>()[0].partitions.size(), 4u);
  EXPECT_EQ(taken<StepDone>().size(), 1u);
  StepReport durable = again;
  durable.step = 1;  // counted by the checkpoint
  ASSERT_TRUE(report(durable).ok());
  EXPECT_EQ(taken<SamplesConsumed>().size(), 1u);
}

TEST_F(ReturningCoordinatorTest, WhoDoesNotComeBackIsDeadAfterALease) {
  begin(recovered_, true, 2);
  now_ += 4999;
  ASSERT_TRUE(attach(kFirst, standing(3)).ok());
  coordinator_->tick(now_, &actions_);
  EXPECT_THAT(taken<NodeLeft>(), IsEmpty());
  coordinator_->tick(now_ + 1, &actions_);
  ASSERT_EQ(taken<NodeLeft>().size(), 1u);
  EXPECT_EQ(taken<NodeLeft>()[0].session, kSecond);
  held(kFirst, standing(3));
  EXPECT_EQ(coordinator_->view().members.size(), 1u);
  EXPECT_EQ(coordinator_->view().first_step, 3);
}

TEST_F(ReturningCoordinatorTest, ANodeOfALaterViewShowsThatItIsAnotherLog) {
  begin(recovered_, true, 2);
  const Status refused = attach(kFirst, {4, 3, false, 0, 1});
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().kind, ErrorKind::refused);
  EXPECT_TRUE(*coordinator_->renew(kFirst, now_));  // it is not back
}

TEST_F(ReturningCoordinatorTest, ARestoreThatWasLoggedAndNotSaidIsDoneAgain) {
  recovered_.view->restores = true;
  recovered_.view->restore = state(2);
  recovered_.view->era = 3;
  begin(recovered_, true, 2);
  ASSERT_TRUE(attach(kFirst, {2, 5, true, 0, 1}).ok());
  ASSERT_TRUE(attach(kSecond, {2, 5, true, 0, 1}).ok());
  held(kFirst, {2, 5, true, 0, 1});
  held(kSecond, {2, 5, true, 0, 1});
  EXPECT_TRUE(coordinator_->view().restores);
  EXPECT_EQ(coordinator_->view().first_step, 2);
  EXPECT_EQ(coordinator_->view().era, 4);
}

TEST_F(ReturningCoordinatorTest, AResumedJobStartsFromWhatIsDurable) {
  begin(recovered_, false, 2);
  EXPECT_EQ(coordinator_->phase(), Phase::gathering);
  EXPECT_FALSE(coordinator_->renew(kFirst, now_).ok());
  held(enter(), {});
  EXPECT_EQ(coordinator_->view().number, 4);
  EXPECT_EQ(coordinator_->view().restore, state(2));
  EXPECT_EQ(coordinator_->view().decided_epochs, 1);
  ASSERT_EQ(taken<Restored>().size(), 1u);
  EXPECT_EQ(taken<Restored>()[0].samples_consumed, 64);
}

}  // namespace
}  // namespace lockstep
