// Who is a member: joins, deaths, leaves and views.
#include "host/cluster/coordinator.h"

#include "tests/cluster/coordinator_fixture.h"

namespace lockstep {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using Phase = Coordinator::Phase;

TEST_F(CoordinatorTest, TheFirstViewComesWhenAllStartNodesHold) {
  facts_.start_nodes = 2;
  begin();
  enter("a");
  EXPECT_THAT(receivers<HoldEvent>(), IsEmpty());
  enter("b");
  EXPECT_THAT(receivers<HoldEvent>(), ElementsAre(kFirst, kSecond));
  EXPECT_EQ(events<HoldEvent>()[0].second.number, 1);
  held(kFirst, {});
  EXPECT_THAT(taken<ViewMade>(), IsEmpty());
  held(kSecond, {});
  EXPECT_THAT(receivers<ViewEvent>(), ElementsAre(kFirst, kSecond));
  EXPECT_LT(first_record<ViewRecord>(), first_event<ViewEvent>());
  const View& view = coordinator_->view();
  EXPECT_EQ(view.members[1].name, "b");
  EXPECT_TRUE(view.restores);
  EXPECT_EQ(view.restore, StateRef{});
  EXPECT_THAT(taken<Restored>(), IsEmpty());  // nothing was lost
  EXPECT_EQ(coordinator_->phase(), Phase::training);
}

TEST_F(CoordinatorTest, RefusesOtherVersions) {
  begin();
  const auto version = coordinator_->hello({kWireVersion, "2", "n"}, now_);
  ASSERT_FALSE(version.ok());
  EXPECT_EQ(version.error().kind, ErrorKind::refused);
  EXPECT_THAT(version.error().message, AllOf(HasSubstr("'2 (wire"), HasSubstr("'1 (wire")));
  EXPECT_FALSE(coordinator_->hello({kWireVersion + 1, "1", "n"}, now_).ok());
}

TEST_F(CoordinatorTest, RefusesWhatWouldNotGiveTheSameBits) {
  facts_.start_nodes = 2;
  begin();
  enter();
  JoinRequest numerics = request(hello());
  numerics.numerics = "cpu-avx512";
  JoinRequest data = request(hello());
  data.data_digest = "other";
  JoinRequest validation = request(hello());
  validation.validation_digest = "others";
  JoinRequest canary = request(hello());
  canary.canary[1].hash = 9;
  JoinRequest shorter = request(hello());
  shorter.canary.pop_back();
  const auto refused = [this](const JoinRequest& wrong) {
    const Status status = join(wrong);
    EXPECT_FALSE(status.ok());
    if (status.ok()) return std::string();
    EXPECT_EQ(status.error().kind, ErrorKind::refused);
    return status.error().message;
  };
  EXPECT_THAT(refused(numerics), AllOf(HasSubstr("'cpu-avx512'"), HasSubstr("'cpu-avx2'")));
  EXPECT_THAT(refused(data), AllOf(HasSubstr("'other'"), HasSubstr("'data'")));
  EXPECT_THAT(refused(validation), AllOf(HasSubstr("'others'"), HasSubstr("'validation'")));
  EXPECT_THAT(refused(canary), AllOf(HasSubstr("op 1"), HasSubstr("dense 0000000000000009"),
                                     HasSubstr("dense 0000000000000008")));
  EXPECT_THAT(refused(shorter), AllOf(HasSubstr("op 1"), HasSubstr("none")));
  EXPECT_THAT(refused(request(99)), HasSubstr("unknown session"));
  EXPECT_EQ(taken<NodeJoined>().size(), 1u);
  EXPECT_THAT(receivers<HoldEvent>(), IsEmpty());
}

TEST_F(CoordinatorTest, RefusesMoreNodesThanTheJobTakes) {
  facts_.start_nodes = facts_.max_nodes = 2;
  begin();
  const SessionId late = hello();
  enter();
  enter();
  EXPECT_EQ(join(request(late)).error().kind, ErrorKind::refused);
  EXPECT_FALSE(coordinator_->hello({kWireVersion, "1", "n"}, now_).ok());
}

TEST_F(CoordinatorTest, WhoTakesThePlaceOfANodeThatIsAboutToGoTriesAgain) {
  facts_.max_nodes = 2;
  train(2);
  const auto kind = [this] {
    return coordinator_->hello({kWireVersion, "1", "n"}, now_).error().kind;
  };
  EXPECT_EQ(kind(), ErrorKind::refused);
  now_ += 1500;
  ASSERT_TRUE(coordinator_->renew(kFirst, now_).ok());
  EXPECT_EQ(kind(), ErrorKind::failed);  // the second is silent
  ASSERT_TRUE(coordinator_->renew(kSecond, now_).ok());
  EXPECT_EQ(kind(), ErrorKind::refused);
  coordinator_->connection_lost(kSecond, now_);
  EXPECT_EQ(kind(), ErrorKind::failed);
  ASSERT_TRUE(coordinator_->renew(kSecond, now_).ok());
  ASSERT_TRUE(coordinator_->ask_to_leave(kSecond, &actions_).ok());
  EXPECT_EQ(kind(), ErrorKind::failed);
}

TEST_F(CoordinatorTest, WhoLeavesBeforeTheJobBeginsDoesNotCount) {
  facts_.start_nodes = 2;
  begin();
  enter();
  ASSERT_TRUE(coordinator_->ask_to_leave(kFirst, &actions_).ok());
  ASSERT_THAT(receivers<StopEvent>(), ElementsAre(kFirst));
  EXPECT_TRUE(events<StopEvent>()[0].second.completed);
  EXPECT_EQ(taken<NodeLeft>().size(), 1u);
  enter();
  EXPECT_THAT(receivers<HoldEvent>(), IsEmpty());
  enter();
  EXPECT_THAT(receivers<HoldEvent>(), ElementsAre(kSecond, kThird));
  ASSERT_TRUE(coordinator_->ask_to_leave(kThird, &actions_).ok());
  held(kSecond, {});
  EXPECT_THAT(taken<ViewMade>(), IsEmpty());  // too few again
  held(enter(), {});
  EXPECT_EQ(coordinator_->view().members.size(), 2u);
}

// The last for whom the first view waits.
TEST_F(CoordinatorTest, WhoLeavesInsteadOfHoldingIsNotWaitedFor) {
  facts_.start_nodes = 2;
  begin();
  for (int i = 0; i < 3; ++i) enter();
  held(kFirst, {});
  held(kThird, {});
  EXPECT_THAT(taken<ViewMade>(), IsEmpty());
  ASSERT_TRUE(coordinator_->ask_to_leave(kSecond, &actions_).ok());
  EXPECT_THAT(receivers<ViewEvent>(), ElementsAre(kFirst, kThird));
}

TEST_F(CoordinatorTest, NodesThatComeWhenAllOthersHaveGoneMustComputeTheSame) {
  train(1);
  die(kFirst);
  JoinRequest other = request(hello());
  other.canary[1].hash = 9;
  EXPECT_EQ(join(other).error().kind, ErrorKind::refused);
  EXPECT_TRUE(join(request(hello())).ok());
}

TEST_F(CoordinatorTest, JoiningTwiceIsJoiningOnce) {
  begin();
  const SessionId session = enter();
  EXPECT_TRUE(join(request(session)).ok());
  ASSERT_EQ(taken<NodeJoined>().size(), 1u);
  EXPECT_EQ(taken<NodeJoined>()[0].member.step, -1);  // it holds no state
}

TEST_F(CoordinatorTest, ADeathMakesTheOthersHoldAndThenAView) {
  train(3);
  die(kSecond);
  ASSERT_EQ(taken<NodeLeft>().size(), 1u);
  EXPECT_EQ(taken<NodeLeft>()[0].session, kSecond);
  EXPECT_THAT(receivers<HoldEvent>(), ElementsAre(kFirst, kThird));
  EXPECT_EQ(coordinator_->phase(), Phase::changing);
  held(kFirst, standing(3, true));
  EXPECT_THAT(taken<ViewMade>(), IsEmpty());
  held(kThird, standing(2, true));
  EXPECT_THAT(receivers<ViewEvent>(), ElementsAre(kFirst, kThird));
  EXPECT_LT(first_record<ViewRecord>(), first_event<ViewEvent>());
  const View& view = coordinator_->view();
  EXPECT_EQ(view.number, 2);
  EXPECT_EQ(view.first_step, 3);
  EXPECT_TRUE(view.carries);
  EXPECT_FALSE(view.restores);
  EXPECT_EQ(view.members[1].step, 2);
}

TEST_F(CoordinatorTest, TellsWhatARecoveryTook) {
  train(2);
  die(kSecond);
  held(kFirst, standing(1, true));
  now_ += 2500;
  applied(kFirst, 0);  // it comes late and is no step without the dead
  EXPECT_THAT(taken<Recovered>(), IsEmpty());
  applied(kFirst, 1);
  ASSERT_EQ(taken<Recovered>().size(), 1u);
  const Recovered recovered = taken<Recovered>()[0];
  EXPECT_EQ(recovered.session, kSecond);
  EXPECT_EQ(recovered.why, "it died");
  EXPECT_EQ(recovered.step, 1);
  EXPECT_EQ(recovered.seconds, 2.5);
  EXPECT_EQ(recovered.partitions, 4);
  applied(kFirst, 2);
  EXPECT_EQ(taken<Recovered>().size(), 1u);
}

TEST_F(CoordinatorTest, AJoinerIsPartOfTheChangeThatIsUnderWay) {
  train(2);
  enter("c");
  EXPECT_THAT(receivers<HoldEvent>(), ElementsAre(kFirst, kSecond, kThird));
  held(kFirst, standing(3));
  enter("d");
  EXPECT_EQ(events<HoldEvent>().back().second.number, 2);
  held(kSecond, standing(3));
  held(kThird, {});
  EXPECT_THAT(taken<ViewMade>(), IsEmpty());
  held(session_id(4), {});
  const View& view = coordinator_->view();
  ASSERT_EQ(view.members.size(), 4u);
  EXPECT_EQ(view.members[2].step, -1);
  EXPECT_EQ(view.donor, 0);
}

TEST_F(CoordinatorTest, AReportOfAnEarlierHoldDoesNotCount) {
  train(2);
  die(kSecond);
  ASSERT_TRUE(coordinator_->held({kFirst, 1, standing(3)}, now_, &actions_).ok());
  EXPECT_THAT(taken<ViewMade>(), IsEmpty());
  held(kFirst, standing(3));
  EXPECT_EQ(taken<ViewMade>().size(), 1u);
}

TEST_F(CoordinatorTest, ASilentNodeIsDeadWhenItsLeaseIsOver) {
  train(2);
  ASSERT_TRUE(coordinator_->renew(kFirst, 5000).ok());
  coordinator_->tick(5999, &actions_);
  EXPECT_THAT(taken<NodeLeft>(), IsEmpty());
  coordinator_->tick(6000, &actions_);
  ASSERT_EQ(taken<NodeLeft>().size(), 1u);
  EXPECT_EQ(taken<NodeLeft>()[0].session, kSecond);
}

TEST_F(CoordinatorTest, ANodeMayTakeLongToLoadItsData) {
  begin();
  const SessionId session = hello();
  now_ += 3'600'000;
  coordinator_->tick(now_, &actions_);
  EXPECT_TRUE(join(request(session)).ok());
  coordinator_->tick(now_ + 4999, &actions_);
  EXPECT_THAT(taken<NodeLeft>(), IsEmpty());
  coordinator_->tick(now_ + 5000, &actions_);
  EXPECT_EQ(taken<NodeLeft>().size(), 1u);
}

TEST_F(CoordinatorTest, ALostConnectionShortensTheLease) {
  train(2);
  coordinator_->connection_lost(kSecond, now_);
  coordinator_->tick(now_ + 149, &actions_);
  EXPECT_THAT(taken<NodeLeft>(), IsEmpty());
  coordinator_->tick(now_ + 150, &actions_);
  ASSERT_EQ(taken<NodeLeft>().size(), 1u);
  EXPECT_EQ(taken<NodeLeft>()[0].session, kSecond);
}

TEST_F(CoordinatorTest, ASignOfLifeSavesTheLeaseOfALostConnection) {
  train(2);
  coordinator_->connection_lost(kSecond, now_);
  ASSERT_TRUE(coordinator_->renew(kSecond, now_ + 100).ok());
  coordinator_->tick(now_ + 150, &actions_);
  EXPECT_THAT(taken<NodeLeft>(), IsEmpty());
}

TEST_F(CoordinatorTest, ASessionThatIsGoneIsRefusedEverywhere) {
  train(2);
  const StepReport late = step_report(kSecond, 0);
  const EpochReport late_epoch = epoch_report(kSecond, 0);
  die(kSecond);
  actions_.clear();
  EXPECT_FALSE(coordinator_->renew(kSecond, now_).ok());
  EXPECT_FALSE(coordinator_->attach(kSecond, {}, now_, &actions_).ok());
  EXPECT_FALSE(coordinator_->held({kSecond, 2, {}}, now_, &actions_).ok());
  EXPECT_FALSE(report(late).ok());
  EXPECT_FALSE(measured(late_epoch).ok());
  EXPECT_FALSE(coordinator_->snapshot_stored(kSecond, state(1), &actions_).ok());
  EXPECT_FALSE(coordinator_->fault({kSecond, kFirst, 0, "x"}, now_, &actions_).ok());
  EXPECT_FALSE(coordinator_->leave(kSecond, now_, &actions_).ok());
  EXPECT_FALSE(join(request(kSecond)).ok());
  EXPECT_THAT(actions_, IsEmpty());
}

TEST_F(CoordinatorTest, TheMostAccusedIsExpelled) {
  train(3);
  const auto accuse = [this](SessionId from, SessionId accused) {
    ASSERT_TRUE(coordinator_->fault({from, accused, 0, "no answer"}, now_, &actions_).ok());
  };
  for (int i = 0; i < 3; ++i) accuse(kFirst, kThird);  // by one member only
  accuse(kFirst, kSecond);
  accuse(kThird, kSecond);
  coordinator_->tick(now_ + 299, &actions_);
  EXPECT_THAT(taken<NodeLeft>(), IsEmpty());
  coordinator_->tick(now_ + 300, &actions_);
  EXPECT_THAT(receivers<StopEvent>(), ElementsAre(kSecond));
  EXPECT_FALSE(events<StopEvent>()[0].second.completed);
  EXPECT_THAT(receivers<HoldEvent>(), ElementsAre(kFirst, kThird));
  coordinator_->tick(now_ + 900, &actions_);
  EXPECT_EQ(taken<NodeLeft>().size(), 1u);  // the other complaints are settled, too
}

TEST_F(CoordinatorTest, OfTwoThatAccuseEachOtherTheLaterGoes) {
  train(3);
  ASSERT_TRUE(coordinator_->fault({kSecond, kFirst, 0, "x"}, now_, &actions_).ok());
  ASSERT_TRUE(coordinator_->fault({kFirst, kSecond, 0, "x"}, now_, &actions_).ok());
  coordinator_->tick(now_ + 300, &actions_);
  EXPECT_THAT(receivers<StopEvent>(), ElementsAre(kSecond));
}

TEST_F(CoordinatorTest, AComplaintAboutTheDeadExpelsNobody) {
  train(3);
  ASSERT_TRUE(coordinator_->fault({kSecond, kFirst, 0, "x"}, now_, &actions_).ok());
  die(kSecond);
  coordinator_->tick(now_ + 300, &actions_);
  EXPECT_THAT(receivers<StopEvent>(), IsEmpty());
}

TEST_F(CoordinatorTest, WhoLeavesHandsOverFirst) {
  train(2);
  ASSERT_TRUE(coordinator_->ask_to_leave(kSecond, &actions_).ok());
  EXPECT_THAT(receivers<HoldEvent>(), ElementsAre(kFirst, kSecond));
  held(kFirst, standing(1));
  held(kSecond, standing(1));
  ASSERT_EQ(coordinator_->view().members.size(), 2u);
  EXPECT_TRUE(coordinator_->view().members[1].partitions.empty());
  applied(kFirst, 0);  // a step of the view before
  EXPECT_THAT(receivers<StopEvent>(), IsEmpty());
  actions_.clear();
  applied(kFirst, 1);
  ASSERT_THAT(receivers<StopEvent>(), ElementsAre(kSecond));
  EXPECT_TRUE(events<StopEvent>()[0].second.completed);
  EXPECT_EQ(taken<NodeLeft>().size(), 1u);
  EXPECT_THAT(receivers<HoldEvent>(), ElementsAre(kFirst));
  held(kFirst, standing(2));
  EXPECT_EQ(coordinator_->view().number, 3);
  EXPECT_EQ(coordinator_->view().members.size(), 1u);
}

TEST_F(CoordinatorTest, TheLastOneLeavesWhenTheStateIsDurable) {
  train(1);
  applied(kFirst, 0);
  ASSERT_TRUE(coordinator_->ask_to_leave(kFirst, &actions_).ok());
  ASSERT_THAT(receivers<SnapshotEvent>(), ElementsAre(kFirst));
  EXPECT_EQ(events<SnapshotEvent>()[0].second.step, 0);  // as soon as may be
  stored(state(1));
  EXPECT_THAT(receivers<StopEvent>(), IsEmpty());
  commit_durable();
  ASSERT_THAT(receivers<StopEvent>(), ElementsAre(kFirst));
  EXPECT_TRUE(events<StopEvent>()[0].second.completed);
  EXPECT_FALSE(coordinator_->ended());
}

TEST_F(CoordinatorTest, TheLastOneStaysForTheStateThatItHadWhenItAsked) {
  facts_.train_rows = 640;
  train(1);
  applied(kFirst, 0);
  stored(state(1));  // on its way to the disk
  applied(kFirst, 1);
  applied(kFirst, 2);
  ASSERT_TRUE(coordinator_->ask_to_leave(kFirst, &actions_).ok());
  commit_durable();
  EXPECT_THAT(receivers<StopEvent>(), IsEmpty());
  actions_.clear();
  stored(state(3));
  commit_durable();
  EXPECT_THAT(receivers<StopEvent>(), ElementsAre(kFirst));
}

TEST_F(CoordinatorTest, BelowItsMinimumTheJobWaits) {
  facts_.min_nodes = 2;
  train(2);
  die(kSecond);
  held(kFirst, standing(3));
  EXPECT_THAT(taken<ViewMade>(), IsEmpty());
  EXPECT_EQ(coordinator_->phase(), Phase::changing);
  const SessionId third = enter("c");
  EXPECT_EQ(receivers<HoldEvent>().back(), third);
  held(third, {});
  ASSERT_EQ(taken<ViewMade>().size(), 1u);
  EXPECT_EQ(coordinator_->view().first_step, 3);
  EXPECT_EQ(coordinator_->view().members[1].step, -1);
  EXPECT_EQ(coordinator_->phase(), Phase::training);
}

TEST_F(CoordinatorTest, StartsAgainFromTheInitialStateIfAllDied) {
  train(1);
  applied(kFirst, 0);
  die(kFirst);
  EXPECT_THAT(taken<JobFailed>(), IsEmpty());
  const SessionId second = enter();
  held(second, {});
  EXPECT_TRUE(coordinator_->view().restores);
  ASSERT_EQ(taken<Restored>().size(), 1u);
  EXPECT_EQ(taken<Restored>()[0].step, 0);
  EXPECT_THAT(taken<Restored>()[0].why, HasSubstr("no node holds the state"));
}

TEST_F(CoordinatorTest, StopsFromOutside) {
  train(2);
  coordinator_->stop(ErrorKind::halted, "the disk is full", &actions_);
  ASSERT_EQ(taken<JobFailed>().size(), 1u);
  EXPECT_EQ(taken<JobFailed>()[0].kind, ErrorKind::halted);
  EXPECT_THAT(receivers<StopEvent>(), ElementsAre(kFirst, kSecond));
  EXPECT_EQ(events<StopEvent>()[0].second.reason, "the disk is full");
  EXPECT_TRUE(coordinator_->ended());
  EXPECT_FALSE(coordinator_->hello({kWireVersion, "1", "n"}, now_).ok());
  actions_.clear();
  coordinator_->stop(ErrorKind::failed, "again", &actions_);
  coordinator_->tick(now_ + 5000, &actions_);
  EXPECT_THAT(taken<JobFailed>(), IsEmpty());
  EXPECT_THAT(receivers<HoldEvent>(), IsEmpty());
}

}  // namespace
}  // namespace lockstep
