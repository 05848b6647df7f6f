// Choices of plans on disk.
#include "cuda/plan_store.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <vector>

#include "host/core/files.h"
#include "tests/support/test_folder.h"

namespace lockstep {
namespace {

namespace fs = std::filesystem;

const PlanChoice kChoice{12, {{2, 13}, {27, 1}}, true, false, 4096, "heuristic A, 2 of 5"};

class PlanStoreTest : public testing::Test {
 protected:
  std::string path(const std::string& name) const { return folder_.path() + "/" + name; }
  std::string file() const {
    for (const auto& entry : fs::directory_iterator(path("cache/plans"))) {
      return entry.path().string();
    }
    return "";
  }
  // What is read from a file with `from` in place of `to`; and what is said of it.
  std::optional<PlanChoice> read_changed(const std::string& from, const std::string& to) {
    store_.keep("a key", kChoice);
    std::string text = read_file(file()).value();
    const size_t at = text.find(from);
    EXPECT_NE(at, std::string::npos) << text;
    EXPECT_TRUE(write_file_atomically(file(), text.replace(at, from.size(), to)).ok());
    testing::internal::CaptureStderr();
    auto found = store_.find("a key");
    said_ = testing::internal::GetCapturedStderr();
    return found;
  }

  TestFolder folder_;
  PlanStore store_ = PlanStore(path("cache"));
  std::string said_;
};

TEST_F(PlanStoreTest, FindsWhatWasKept) {
  EXPECT_EQ(store_.find("a key"), std::nullopt);
  store_.keep("a key", kChoice);
  EXPECT_EQ(store_.find("a key"), kChoice);
  EXPECT_EQ(store_.find("another key"), std::nullopt);
  EXPECT_EQ(PlanStore(path("cache")).find("a key"), kChoice);
  const PlanChoice other{3, {}, false, false, 0, "heuristic B, 1 of 1"};
  store_.keep("a key", other);
  EXPECT_EQ(store_.find("a key"), other);
}

TEST_F(PlanStoreTest, DamagedFilesAreToldOfAndNotUsed) {
  for (const auto& [from, to] :
       std::vector<std::pair<std::string, std::string>>{{"12", "13"},       // another engine
                                                        {"13", "14"},       // another knob
                                                        {"true", "false"},  // another graph
                                                        {"\"sum\"", "\"some\""},
                                                        {"{", "["},
                                                        {"4096", "\"x\""},
                                                        {"a key", "b key"}}) {
    EXPECT_EQ(read_changed(from, to), std::nullopt) << from;
    EXPECT_NE(said_.find(file()), std::string::npos) << said_;
    EXPECT_NE(said_.find("made again"), std::string::npos) << said_;
  }
  const std::string whole = (store_.keep("a key", kChoice), read_file(file()).value());
  for (size_t size = 0; size + 1 < whole.size(); ++size) {
    ASSERT_TRUE(write_file_atomically(file(), whole.substr(0, size)).ok());
    ASSERT_EQ(store_.find("a key"), std::nullopt) << size;
  }
  store_.keep("a key", kChoice);
  EXPECT_EQ(store_.find("a key"), kChoice);
}

// The file of one key under the name of another's.
TEST_F(PlanStoreTest, FilesOfOtherKeysAreNotUsed) {
  store_.keep("a key", kChoice);
  const std::string first = file();
  const std::string text = read_file(first).value();
  fs::remove(first);
  store_.keep("b key", kChoice);
  ASSERT_TRUE(write_file_atomically(file(), text).ok());
  testing::internal::CaptureStderr();
  EXPECT_EQ(store_.find("b key"), std::nullopt);
  EXPECT_NE(testing::internal::GetCapturedStderr().find("another plan"), std::string::npos);
}

TEST_F(PlanStoreTest, AFolderThatCannotBeWrittenIsToldOfOnce) {
  ASSERT_TRUE(write_file_atomically(path("cache"), "a file").ok());
  testing::internal::CaptureStderr();
  store_.keep("a key", kChoice);
  store_.keep("b key", kChoice);
  const std::string said = testing::internal::GetCapturedStderr();
  EXPECT_NE(said.find("LOCKSTEP_CACHE"), std::string::npos) << said;
  EXPECT_EQ(said.find("not kept"), said.rfind("not kept"));
  EXPECT_FALSE(store_.is_on());
  EXPECT_EQ(store_.find("a key"), std::nullopt);
}

TEST_F(PlanStoreTest, TheEnvironmentMovesItAndSwitchesItOff) {
  const auto kept_in = [&](const std::string& place) {
    PlanStore::from_environment().keep("a key", kChoice);
    return fs::exists(path(place + "/plans"));
  };
  ASSERT_EQ(setenv("HOME", path("home").c_str(), 1), 0);
  ASSERT_EQ(unsetenv("XDG_CACHE_HOME"), 0);
  ASSERT_EQ(unsetenv("LOCKSTEP_CACHE"), 0);
  EXPECT_TRUE(kept_in("home/.cache/lockstep"));
  ASSERT_EQ(setenv("XDG_CACHE_HOME", path("xdg").c_str(), 1), 0);
  EXPECT_TRUE(kept_in("xdg/lockstep"));
  ASSERT_EQ(setenv("LOCKSTEP_CACHE", path("own").c_str(), 1), 0);
  EXPECT_TRUE(kept_in("own"));
  ASSERT_EQ(setenv("LOCKSTEP_CACHE", "off", 1), 0);
  EXPECT_FALSE(PlanStore::from_environment().is_on());
}

}  // namespace
}  // namespace lockstep
