#include "host/observe/progress.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>

namespace lockstep {
namespace {

using testing::HasSubstr;
using testing::Not;

class ProgressTest : public testing::Test {
 protected:
  ProgressTest() : file_(std::tmpfile()), progress_(small_job(), file_, {}) {}
  ~ProgressTest() override { std::fclose(file_); }

  static Job small_job() {
    Job job;
    job.batch_size = 8;
    job.train_rows = 40;
    job.partitions = 4;
    job.outputs[0].metrics = {"accuracy"};
    return job;
  }
  static View view_of(int64_t first_step, std::vector<SessionId> sessions) {
    View view;
    view.first_step = first_step;
    for (const SessionId session : sessions) {
      view.members.push_back({session, "node-" + std::to_string(session), "", {0, 2}, {}, -1});
    }
    return view;
  }

  // What was written since the last call.
  std::string text() {
    std::string text(static_cast<size_t>(std::ftell(file_) - read_), '\0');
    std::fseek(file_, read_, SEEK_SET);
    const size_t count = std::fread(text.data(), 1, text.size(), file_);
    EXPECT_EQ(count, text.size());
    read_ += static_cast<long>(count);
    std::fseek(file_, 0, SEEK_END);
    return text;
  }

  std::FILE* const file_;
  Progress progress_;
  long read_ = 0;
};

TEST_F(ProgressTest, ADeathAndWhatFollows) {
  progress_.observe(ViewMade{view_of(0, {1, 2, 3})});
  progress_.observe(NodeLeft{2, 120, "it gave no sign of life"});
  EXPECT_EQ(text(), "node 'node-2' died at step 120: it gave no sign of life; 2 nodes go on\n");
  progress_.observe(ViewMade{view_of(120, {1, 3})});
  progress_.observe(Recovered{2, "node-2", "it gave no sign of life", 120, 0.04, 3});
  EXPECT_EQ(text(), "steps go on 0.04 s after node 'node-2' died (3 partitions computed again)\n");
  progress_.observe(NodeJoined{{4, "node-2", "", {}, {}, -1}, "cpu", 1});
  EXPECT_EQ(text(), "node 'node-2' joined: session 4, cpu, 1 device\n");
  progress_.observe(NodeLeft{4, 130, "left"});
  EXPECT_EQ(text(), "node 'node-2' handed over at step 130 and left; 2 nodes go on\n");
  progress_.observe(NodeLeft{1, 130, "x"});
  progress_.observe(NodeLeft{3, 130, "x"});
  EXPECT_THAT(text(), HasSubstr("no node is left"));
  progress_.observe(Restored{100, 800, "no node holds the state"});
  EXPECT_EQ(text(), "back to step 100: no node holds the state\n");
}

TEST_F(ProgressTest, NothingIsSaidOfNodesThatEndWithTheJob) {
  progress_.observe(ViewMade{view_of(0, {1, 2})});
  progress_.observe(NodeLeft{1, 10, "done"});
  progress_.observe(JobFailed{ErrorKind::failed, "a full disk"});
  progress_.observe(NodeLeft{2, 10, "it gave no sign of life"});
  progress_.observe(CheckpointDone{10});
  EXPECT_EQ(text(), "");
}

TEST_F(ProgressTest, AResumedJobSaysFromWhere) {
  progress_.resumed(3, view_of(90, {1, 2}));
  progress_.observe(NodeLeft{2, 0, "it gave no sign of life"});
  EXPECT_EQ(text(), "node 'node-2' did not come back: it gave no sign of life\n");
  progress_.observe(ViewMade{view_of(100, {1})});
  progress_.observe(Restored{100, 800, "no node holds the state"});
  EXPECT_EQ(text(), "resumed from step 100 (term 3)\n");
  progress_.observe(StepDone{100, 8, {1, 1, 8}, 1});
  EXPECT_THAT(text(), HasSubstr("first step done"));
  progress_.observe(Restored{100, 800, "silent corruption"});
  EXPECT_EQ(text(), "back to step 100: silent corruption\n");
  progress_.observe(StepDone{100, 8, {1, 1, 8}, 1});
  EXPECT_EQ(text(), "");
}

TEST_F(ProgressTest, AnEpochIsToldInTheOrderOfKeras) {
  progress_.observe(EpochRecord{{0, {5, 30, 40}, {}, 0}, {}});
  EXPECT_THAT(text(), HasSubstr("s - loss: 0.1250 - accuracy: 0.7500\n"));
  progress_.observe(EpochRecord{{0, {5, 30, 40}, {4, 4, 8}, 0}, {}});
  EXPECT_THAT(text(), HasSubstr("s - loss: 0.1250 - accuracy: 0.7500 - val_loss: 0.5000 - "
                                "val_accuracy: 0.5000\n"));
}

TEST_F(ProgressTest, ANodeThatHandsOverIsNoSpare) {
  View view = view_of(0, {1, 2});
  view.members[1].partitions = {};
  progress_.observe(ViewMade{view});
  EXPECT_EQ(text(), "");
}

TEST_F(ProgressTest, ASpareIsNamedOnce) {
  View view = view_of(0, {1, 2, 3, 4, 5});
  view.members[4].partitions = {};
  progress_.observe(ViewMade{view});
  EXPECT_THAT(text(), HasSubstr("'node-5' is a spare"));
  progress_.observe(ViewMade{view});
  EXPECT_THAT(text(), Not(HasSubstr("spare")));
}

}  // namespace
}  // namespace lockstep
