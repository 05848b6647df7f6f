#include "host/runtime/journal.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/crashing_file_system.h"

namespace lockstep {
namespace {

using testing::HasSubstr;

class JournalTest : public testing::Test {
 protected:
  static JournalOptions of(const std::string& state, const std::string& checkpoints) {
    return {.state = state,
            .checkpoints = checkpoints,
            .keep_checkpoints = 3,
            .recipe_sha256 = std::string(64, 'a'),
            .steps_per_epoch = 1,
            .metrics = MetricTable(Job{})};
  }
  Status open(const std::string& state, const std::string& checkpoints) {
    const auto journal = Journal::open(files_, of(state, checkpoints));
    return journal.ok() ? Status{} : Status{journal.error()};
  }

  CrashingFileSystem files_{1};
};

TEST_F(JournalTest, AFolderOfCheckpointsIsOfOneJob) {
  ASSERT_TRUE(open("one", "shared").ok());
  EXPECT_TRUE(open("one", "shared").ok());  // goes on
  const Status refused = open("two", "shared");
  ASSERT_FALSE(refused.ok());
  EXPECT_THAT(refused.error().message, HasSubstr("--checkpoints shared: it holds"));
  EXPECT_EQ(files_.contents("two/log"), "");  // nothing has begun
  EXPECT_TRUE(open("two", "other").ok());
  EXPECT_TRUE(open("one", "shared").ok());
}

TEST_F(JournalTest, TheStateFolderOfAnotherJobIsNoFolderOfCheckpoints) {
  ASSERT_TRUE(open("one", "").ok());
  EXPECT_FALSE(open("two", "one").ok());
  EXPECT_TRUE(open("one", "").ok());
}

TEST_F(JournalTest, AJobOfBeforeTakesItsFolderAndNobodyElseDoes) {
  ASSERT_TRUE(open("one", "").ok());
  ASSERT_TRUE(files_.make_folders("old/objects").ok());
  ASSERT_TRUE(files_.write_atomically("old/objects/" + std::string(64, 'f'), "state").ok());
  EXPECT_FALSE(open("new", "old").ok());
  EXPECT_TRUE(open("one", "old").ok());
}

}  // namespace
}  // namespace lockstep
