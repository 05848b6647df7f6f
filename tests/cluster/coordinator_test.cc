#include "host/cluster/coordinator.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace lockstep {
namespace {

using testing::HasSubstr;

ClusterFacts facts_for(int nodes) {
  ClusterFacts facts;
  facts.job = "{}";
  facts.nodes = nodes;
  facts.partitions = 8;
  facts.batch_size = 32;
  facts.train_rows = 64;  // two steps an epoch
  facts.epochs = 1;
  facts.slices = 4;
  facts.numerics = "cpu-avx2";
  facts.data_digest = "data";
  facts.version = "1";
  return facts;
}

// A coordinator and what it asked for.
class CoordinatorTest : public testing::Test {
 protected:
  void begin(int nodes) { coordinator_.emplace(facts_for(nodes), 1); }

  SessionId hello(const std::string& name) {
    return coordinator_->hello({kWireVersion, "1", name}, now_)->session;
  }
  JoinRequest request(SessionId session) const {
    JoinRequest join;
    join.session = session;
    join.address = "127.0.0.1:1";
    join.numerics = "cpu-avx2";
    join.data_digest = "data";
    join.canary = {{"conv2d", 7}, {"dense", 8}};
    return join;
  }
  Status join(const JoinRequest& join) { return coordinator_->join(join, now_, &actions_); }
  // A coordinator with this many nodes in training; sessions are 1, 2, …
  void train(int nodes) {
    begin(nodes);
    for (int i = 0; i < nodes; ++i) ASSERT_TRUE(join(request(hello("n"))).ok());
    ASSERT_EQ(coordinator_->phase(), Coordinator::Phase::training);
  }
  template <class T>
  std::vector<T> taken() {
    std::vector<T> result;
    for (const CoordinatorAction& action : actions_) {
      if (const T* match = std::get_if<T>(&action)) result.push_back(*match);
    }
    return result;
  }
  template <class T>
  int events() {
    int count = 0;
    for (const SendEvent& sent : taken<SendEvent>()) count += std::holds_alternative<T>(sent.event);
    return count;
  }
  Status step(SessionId session, int64_t number) {
    return coordinator_->step_applied({session, 1, number, 1.0, 2, {}}, &actions_);
  }
  Status epoch(SessionId session, std::vector<ValidationPart> parts = {}) {
    return coordinator_->epoch_measured({session, 0, 64.0, 32, 64, std::move(parts)}, &actions_);
  }

  std::optional<Coordinator> coordinator_;
  CoordinatorActions actions_;
  int64_t now_ = 1000;
};

TEST_F(CoordinatorTest, MakesAViewWhenAllNodesAreThere) {
  begin(3);
  for (int i = 0; i < 2; ++i) ASSERT_TRUE(join(request(hello("n"))).ok());
  EXPECT_EQ(events<ViewEvent>(), 0);
  ASSERT_TRUE(join(request(hello("n"))).ok());
  EXPECT_EQ(events<ViewEvent>(), 3);
  const View& view = coordinator_->view();
  ASSERT_EQ(view.members.size(), 3u);
  EXPECT_EQ(view.members[0].partitions, (PartitionRange{0, 3}));
  EXPECT_EQ(view.members[1].partitions, (PartitionRange{3, 6}));
  EXPECT_EQ(view.members[2].partitions, (PartitionRange{6, 8}));
  EXPECT_EQ(view.slice_owners, (std::vector<int>{0, 1, 2, 0}));
}

TEST_F(CoordinatorTest, RefusesWhatWouldNotGiveTheSameBits) {
  begin(2);
  EXPECT_EQ(coordinator_->hello({kWireVersion, "2", "n"}, 0).error().kind, ErrorKind::refused);
  EXPECT_THAT(coordinator_->hello({kWireVersion + 1, "1", "n"}, 0).error().message,
              HasSubstr("wire"));
  JoinRequest numerics = request(hello("n"));
  numerics.numerics = "cpu-avx512";
  EXPECT_THAT(join(numerics).error().message,
              testing::AllOf(HasSubstr("cpu-avx512"), HasSubstr("cpu-avx2")));
  JoinRequest data = request(hello("n"));
  data.data_digest = "other";
  EXPECT_THAT(join(data).error().message, testing::AllOf(HasSubstr("other"), HasSubstr("'data'")));
  ASSERT_TRUE(join(request(hello("n"))).ok());
  JoinRequest canary = request(hello("n"));
  canary.canary[1].hash = 9;
  const Status refused = join(canary);
  EXPECT_THAT(refused.error().message, testing::AllOf(HasSubstr("dense 0000000000000009"),
                                                      HasSubstr("dense 0000000000000008")));
  EXPECT_EQ(refused.error().kind, ErrorKind::refused);
  EXPECT_EQ(join(request(99)).error().kind, ErrorKind::refused);
}

TEST_F(CoordinatorTest, RunsAJobToItsEnd) {
  train(2);
  for (int64_t number = 0; number < 2; ++number) {
    ASSERT_TRUE(step(1, number).ok());
    ASSERT_TRUE(step(2, number).ok());
  }
  EXPECT_EQ(taken<StepDone>().size(), 2u);  // once a step, not once a node
  ASSERT_TRUE(epoch(1).ok());
  EXPECT_TRUE(taken<EpochDone>().empty());
  ASSERT_TRUE(epoch(2).ok());
  ASSERT_EQ(taken<EpochDone>().size(), 1u);
  EXPECT_EQ(taken<EpochDone>()[0].loss, 1.0);
  EXPECT_EQ(taken<EpochDone>()[0].accuracy, 0.5);
  ASSERT_TRUE(coordinator_->finished({1, "hash"}, &actions_).ok());
  EXPECT_EQ(events<UploadEvent>(), 0);
  ASSERT_TRUE(coordinator_->finished({2, "hash"}, &actions_).ok());
  EXPECT_EQ(events<UploadEvent>(), 1);
  ASSERT_TRUE(coordinator_->uploaded(1, "hash", &actions_).ok());
  EXPECT_EQ(coordinator_->phase(), Coordinator::Phase::completed);
  ASSERT_TRUE(coordinator_->leave(1, &actions_).ok());
  coordinator_->connection_lost(2, &actions_);
  EXPECT_EQ(coordinator_->phase(), Coordinator::Phase::completed);
}

TEST_F(CoordinatorTest, SumsValidationInTheOrderOfTheTree) {
  train(2);
  for (int64_t number = 0; number < 2; ++number) {
    ASSERT_TRUE(step(1, number).ok() && step(2, number).ok());
  }
  ASSERT_TRUE(epoch(2, {{0, 4, 4, 0.3f, 1}, {0, 5, 4, 0.7f, 2}}).ok());
  ASSERT_TRUE(epoch(1, {{0, 0, 4, 0.1f, 4}, {0, 1, 4, 0.2f, 1}}).ok());
  const EpochDone done = taken<EpochDone>().at(0);
  EXPECT_EQ(done.validation_loss, static_cast<double>((0.1f + 0.2f) + (0.3f + 0.7f)) / 16);
  EXPECT_EQ(done.validation_accuracy, 0.5);
}

TEST_F(CoordinatorTest, ADeadNodeEndsTheJobAndIsNamed) {
  train(2);
  ASSERT_TRUE(step(2, 0).ok());
  coordinator_->connection_lost(2, &actions_);
  EXPECT_EQ(coordinator_->phase(), Coordinator::Phase::failed);
  EXPECT_THAT(coordinator_->failure(), HasSubstr("node 'n' (session 2) failed at step 1"));
  EXPECT_EQ(events<StopEvent>(), 1);  // to the survivor
  EXPECT_FALSE(step(2, 1).ok());      // a dead session is fenced
}

TEST_F(CoordinatorTest, ASilentNodeEndsTheJobWhenItsLeaseIsOver) {
  train(2);
  ASSERT_TRUE(coordinator_->renew(1, 5000).ok());
  coordinator_->tick(5999, &actions_);
  EXPECT_EQ(coordinator_->phase(), Coordinator::Phase::training);
  coordinator_->tick(6000, &actions_);
  EXPECT_THAT(coordinator_->failure(), HasSubstr("session 2"));
}

TEST_F(CoordinatorTest, ANodeThatDiesBeforeTheStartFreesItsPlace) {
  begin(2);
  ASSERT_TRUE(join(request(hello("a"))).ok());
  coordinator_->connection_lost(1, &actions_);
  EXPECT_EQ(coordinator_->phase(), Coordinator::Phase::gathering);
  ASSERT_TRUE(join(request(hello("b"))).ok());
  ASSERT_TRUE(join(request(hello("c"))).ok());
  EXPECT_EQ(coordinator_->view().members[0].name, "b");
}

TEST_F(CoordinatorTest, DifferentFinalWeightsHaltTheJob) {
  train(2);
  for (int64_t number = 0; number < 2; ++number) {
    ASSERT_TRUE(step(1, number).ok() && step(2, number).ok());
  }
  ASSERT_TRUE(epoch(1).ok() && epoch(2).ok());
  ASSERT_TRUE(coordinator_->finished({1, "hash"}, &actions_).ok());
  ASSERT_TRUE(coordinator_->finished({2, "other"}, &actions_).ok());
  ASSERT_EQ(taken<JobFailed>().size(), 1u);
  EXPECT_EQ(taken<JobFailed>()[0].kind, ErrorKind::halted);
}

TEST_F(CoordinatorTest, ReportsThatMakeNoSenseAreErrors) {
  train(1);
  EXPECT_FALSE(step(1, 5).ok());
  EXPECT_FALSE(epoch(1, {{0, 99, 4, 0, 0}}).ok());
  ASSERT_TRUE(step(1, 0).ok());
  EXPECT_TRUE(step(1, 0).ok());  // said twice is said once
  EXPECT_EQ(taken<StepDone>().size(), 1u);
}

}  // namespace
}  // namespace lockstep
