// What is decided at the end of an epoch: stops, learning rates, states that are kept.
#include "host/core/planted.h"
#include "tests/cluster/coordinator_fixture.h"

namespace lockstep {
namespace {

using Phase = Coordinator::Phase;
using testing::ElementsAre;
using testing::IsEmpty;

class CoordinatorDecisionsTest : public CoordinatorTest {
 protected:
  const SessionId kFirst = session_id(1);
  const SessionId kSecond = session_id(2);

  CoordinatorDecisionsTest() {
    facts_.epochs = 5;
    facts_.decide = [this](const std::vector<EpochRecord>& before, const EpochDone& done) {
      EXPECT_EQ(std::ssize(before), done.epoch);
      return decisions_.at(static_cast<size_t>(done.epoch));
    };
  }
  void make_durable(int64_t step) {
    stored(state(step));
    commit_durable();
    actions_.clear();
  }

  std::vector<EpochDecision> decisions_ = std::vector<EpochDecision>(5);
};

TEST_F(CoordinatorDecisionsTest, AStopEndsTheJobThere) {
  decisions_[1].stop = true;
  train(2);
  finish_epoch(0);
  EXPECT_TRUE(events<EpochEvent>()[0].second.go_on);
  make_durable(2);
  finish_epoch(1);
  ASSERT_EQ(events<EpochEvent>().size(), 2u);
  EXPECT_FALSE(events<EpochEvent>()[0].second.go_on);
  EXPECT_EQ(coordinator_->phase(), Phase::finishing);
  stored(state(4));
  commit_durable();
  ASSERT_EQ(taken<JobCompleted>().size(), 1u);
  EXPECT_EQ(taken<JobCompleted>()[0].state, state(4));
}

TEST_F(CoordinatorDecisionsTest, ARateIsLoggedThenToldToAll) {
  decisions_[0].learning_rate = 0.125;
  train(2);
  finish_epoch(0);
  ASSERT_THAT(receivers<EpochEvent>(), ElementsAre(kFirst, kSecond));
  for (const auto& [session, event] : events<EpochEvent>()) {
    EXPECT_EQ(event.learning_rate, std::optional<double>(0.125));
  }
  EXPECT_LT(first_record<EpochRecord>(), first_event<EpochEvent>());
  EXPECT_EQ(taken<EpochRecord>()[0].decision, decisions_[0]);
}

TEST_F(CoordinatorDecisionsTest, WhoIsGivenAStateLearnsTheRateThatHoldsThere) {
  facts_.learning_rate = 1;
  decisions_[0].learning_rate = 0.125;
  train(1);
  EXPECT_EQ(coordinator_->view().learning_rate, std::optional<double>(1));
  finish_epoch(0);
  enter();
  held(kFirst, standing(2));
  actions_.clear();
  held(kSecond, {});
  EXPECT_EQ(coordinator_->view().decided_epochs, 1);
  EXPECT_EQ(coordinator_->view().learning_rate, std::optional<double>(0.125));
  EXPECT_EQ(coordinator_->learning_rate_at(1), std::optional<double>(1));
  EXPECT_EQ(coordinator_->learning_rate_at(2), std::optional<double>(0.125));
  EXPECT_EQ(coordinator_->learning_rate_at(4), std::optional<double>(0.125));  // not decided yet
}

// The member that had measured the epoch died; the joiner is given the state before its last step.
TEST_F(CoordinatorDecisionsTest, WhoIsGivenAnEarlierStateHearsTheDecisionAfterTheView) {
  decisions_[0].learning_rate = 0.125;
  facts_.verify_every = 0;
  train(2);
  applied_by_all(0);
  applied(kFirst, 1);
  ASSERT_TRUE(measured(epoch_report(kFirst, 0)).ok());
  ASSERT_EQ(events<EpochEvent>().size(), 2u);
  die(kFirst);
  const SessionId third = enter();
  actions_.clear();
  held(kSecond, {1, 1, true, 0, 1});
  held(third, {});
  EXPECT_EQ(coordinator_->view().first_step, 1);
  EXPECT_EQ(coordinator_->view().decided_epochs, 0);
  EXPECT_EQ(coordinator_->view().learning_rate, std::nullopt);
  ASSERT_THAT(receivers<EpochEvent>(), ElementsAre(third));
  EXPECT_EQ(events<EpochEvent>()[0].second.learning_rate, std::optional<double>(0.125));
}

TEST_F(CoordinatorDecisionsTest, AStateThatIsKeptIsDurableBeforeItsEpochIsDecided) {
  decisions_[0].keep = {0};
  train(2);
  finish_epoch(0);
  EXPECT_THAT(taken<EpochRecord>(), IsEmpty());
  stored(state(2));
  EXPECT_THAT(receivers<EpochEvent>(), IsEmpty());
  commit_durable();
  EXPECT_THAT(receivers<EpochEvent>(), ElementsAre(kFirst, kSecond));
  // One that was kept before is durable already.
  actions_.clear();
  decisions_[1].keep = {0};
  finish_epoch(1);
  EXPECT_EQ(taken<EpochRecord>().size(), 1u);
}

TEST_F(CoordinatorDecisionsTest, TheJobsWeightsAreThoseOfTheBestEpoch) {
  decisions_[0].best = 0;
  decisions_[1].best = 0;
  decisions_[1].stop = true;
  train(2);
  finish_epoch(0);
  make_durable(2);
  finish_epoch(1);
  stored(state(4));
  commit_durable();
  ASSERT_EQ(taken<JobCompleted>().size(), 1u);
  EXPECT_EQ(taken<JobCompleted>()[0].state, state(2));
}

TEST_F(CoordinatorDecisionsTest, WhatIsNotDecidedYetIsAskedForAtEachTick) {
  std::optional<EpochDecision> decision;
  int asked = 0;
  facts_.decide = [&](const auto&, const auto&) {
    ++asked;
    return decision;
  };
  train(2);
  finish_epoch(0);
  EXPECT_THAT(taken<EpochRecord>(), IsEmpty());
  EXPECT_THAT(receivers<EpochEvent>(), IsEmpty());
  make_durable(2);  // the state that it may be decided from
  const int before = asked;
  coordinator_->tick(now_, &actions_);
  EXPECT_EQ(asked, before + 1);
  EXPECT_THAT(receivers<EpochEvent>(), IsEmpty());
  decision.emplace().learning_rate = 0.5;
  coordinator_->tick(now_, &actions_);
  EXPECT_THAT(receivers<EpochEvent>(), ElementsAre(kFirst, kSecond));
  EXPECT_LT(first_record<EpochRecord>(), first_event<EpochEvent>());
  coordinator_->tick(now_, &actions_);
  EXPECT_EQ(asked, before + 2);
}

// The member that dies while an answer is waited for changes none of it.
TEST_F(CoordinatorDecisionsTest, AnEpochThatWaitsForItsDecisionOutlivesAMember) {
  std::optional<EpochDecision> decision;
  facts_.decide = [&](const auto&, const auto&) { return decision; };
  train(2);
  finish_epoch(0);
  make_durable(2);
  die(kFirst);
  decision.emplace().stop = true;
  coordinator_->tick(now_, &actions_);
  EXPECT_THAT(taken<EpochRecord>(), IsEmpty());  // while the others hold
  held(kSecond, standing(2));
  EXPECT_EQ(taken<EpochRecord>().size(), 1u);
  EXPECT_EQ(taken<JobCompleted>().size(), 1u);
}

TEST_F(CoordinatorDecisionsTest, AnInterruptWaitsForTheStateInWhichTheNodesAre) {
  train(2);
  applied_by_all(0);
  coordinator_->interrupt("Ctrl-C", &actions_);
  ASSERT_THAT(receivers<SnapshotEvent>(), ElementsAre(kFirst));
  EXPECT_EQ(events<SnapshotEvent>()[0].second.step, 0);  // as soon as may be
  EXPECT_THAT(taken<JobFailed>(), IsEmpty());
  stored(state(1));
  commit_durable();
  ASSERT_EQ(taken<JobFailed>().size(), 1u);
  EXPECT_EQ(taken<JobFailed>()[0].reason, "Ctrl-C");
  EXPECT_EQ(taken<CheckpointDone>()[0].step, 1);
}

TEST_F(CoordinatorDecisionsTest, AnInterruptWithNothingNewIsTheEnd) {
  train(1);
  finish_epoch(0);
  make_durable(2);
  coordinator_->interrupt("Ctrl-C", &actions_);
  EXPECT_EQ(taken<JobFailed>().size(), 1u);
}

// An older state that becomes durable meanwhile is not the one that was asked for.
TEST_F(CoordinatorDecisionsTest, AnInterruptIsNotContentWithAnOlderState) {
  facts_.train_rows = 32 * 6;
  train(1);
  for (int64_t step = 0; step < 2; ++step) applied_by_all(step);
  stored(state(2));
  for (int64_t step = 2; step < 5; ++step) applied_by_all(step);
  coordinator_->interrupt("Ctrl-C", &actions_);
  commit_durable();
  EXPECT_THAT(taken<JobFailed>(), IsEmpty());
  actions_.clear();
  stored(state(5));
  commit_durable();
  EXPECT_EQ(taken<JobFailed>().size(), 1u);
}

TEST_F(CoordinatorDecisionsTest, AnEpochMayEndBeforeItsLastStep) {
  decisions_[0].stop = true;
  train(2);
  applied_by_all(0);
  EpochReport report = epoch_report(kFirst, 0);
  for (const int64_t nowhere : {0, 3}) {
    report.step = nowhere;
    EXPECT_FALSE(measured(report).ok()) << nowhere;
  }
  report.step = 1;
  ASSERT_TRUE(measured(report).ok());
  ASSERT_EQ(taken<EpochRecord>().size(), 1u);
  EXPECT_EQ(taken<EpochRecord>()[0].done.cut_at, 1);
  EXPECT_EQ(coordinator_->phase(), Phase::finishing);
  ASSERT_FALSE(events<SnapshotEvent>().empty());
  EXPECT_EQ(events<SnapshotEvent>().back().second.step, 1);
  stored(state(1));
  commit_durable();
  ASSERT_EQ(taken<JobCompleted>().size(), 1u);
  EXPECT_EQ(taken<JobCompleted>()[0].state, state(1));
}

TEST_F(CoordinatorDecisionsTest, EpochsWithoutValidationAreMeasuredWithoutIt) {
  facts_.validation_rows = 32;
  facts_.validates = [](int64_t epoch) { return epoch % 2 == 1; };
  train(2);
  applied_by_all(0);
  applied_by_all(1);
  EpochReport report = epoch_report(kFirst, 0);
  report.validation = {{0, 0, {1, 2, 4}}};
  EXPECT_FALSE(measured(report).ok());
  report.validation.clear();
  ASSERT_TRUE(measured(report).ok());
  ASSERT_EQ(taken<EpochRecord>().size(), 1u);
  EXPECT_THAT(taken<EpochRecord>()[0].done.validation, IsEmpty());
  applied_by_all(2);
  applied_by_all(3);
  ASSERT_TRUE(measured(epoch_report(kFirst, 1)).ok());
  EXPECT_EQ(taken<EpochRecord>().size(), 1u);  // its validation is to come
}

TEST_F(CoordinatorDecisionsTest, ACoordinatorThatComesBackKeepsToADecisionToStop) {
  RecoveredJob recovered;
  View view;
  view.number = 3;
  view.first_step = 2;
  view.members = {{kFirst, "a", "", {0, 8}, {}, 2}};
  view.slice_owners = {0, 0, 0, 0};
  recovered.view = view;
  recovered.epochs = {{{0, {128, 32, 64}, {}, 0}, {}}};
  recovered.epochs[0].decision.stop = true;
  recovered.checkpoints.resize(1);
  recovered.checkpoints[0].state = state(2);
  recovered.checkpoints[0].samples_consumed = 64;
  facts_.epochs = 50;
  begin(recovered, true, 2);
  ASSERT_TRUE(coordinator_->attach(kFirst, {3, 2, false, 0, 0}, now_, &actions_).ok());
  held(kFirst, {3, 2, false, 0, 0});
  ASSERT_THAT(receivers<EpochEvent>(), ElementsAre(kFirst));
  EXPECT_FALSE(events<EpochEvent>()[0].second.go_on);
  EXPECT_EQ(coordinator_->phase(), Phase::completed);
}

}  // namespace
}  // namespace lockstep
