// The same on the machine's own files: a state folder lives through a process that ends anywhere.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "host/checkpoint/inspect.h"
#include "host/checkpoint/lineage.h"
#include "host/checkpoint/object_store.h"
#include "host/checkpoint/record_log.h"
#include "tests/support/test_folder.h"

namespace lockstep {
namespace {

using ::testing::HasSubstr;
using ::testing::SizeIs;

class StateFolder : public ::testing::Test {
 protected:
  PosixFileSystem files_;
  TestFolder temporary_;
  const std::string folder_ = temporary_.path();
};

TEST_F(StateFolder, IsFoundAgain) {
  const std::string state(3 << 20, 's');
  std::string id;
  {
    const auto objects = ObjectStore::open(files_, folder_ + "/objects");
    ASSERT_TRUE(objects.ok()) << objects.error().message;
    auto opened = RecordLog::open(files_, folder_ + "/log");
    ASSERT_TRUE(opened.ok()) << opened.error().message;
    Checkpoint checkpoint;
    checkpoint.recipe_sha256 = std::string(64, 'e');
    checkpoint.state_bytes = state.size();
    checkpoint.state = objects->put(state).value();
    id = Lineage(*objects, {}).commit(checkpoint).value();
    ASSERT_TRUE(opened->log.append(1, id).ok());
    ASSERT_TRUE(opened->log.append(1, "torn").ok());
  }
  std::filesystem::resize_file(folder_ + "/log", std::filesystem::file_size(folder_ + "/log") - 1);
  ASSERT_TRUE(files_.write_atomically(folder_ + "/objects/lockstep-1-2.tmp", "half").ok());

  const auto text = inspect_lineage(files_, folder_, nullptr);
  ASSERT_TRUE(text.ok()) << text.error().message;
  EXPECT_THAT(*text, HasSubstr("1 of them whole"));
  EXPECT_THAT(*text, HasSubstr("3.0 MiB  whole"));
  EXPECT_THAT(*text, HasSubstr("an append that a crash cut short"));

  const auto objects = ObjectStore::open(files_, folder_ + "/objects");
  auto opened = RecordLog::open(files_, folder_ + "/log");
  ASSERT_TRUE(opened.ok()) << opened.error().message;
  ASSERT_THAT(opened->records, SizeIs(1));
  EXPECT_THAT(opened->notes, SizeIs(1));
  const auto newest = Lineage(*objects, {opened->records[0].body}).newest_whole();
  ASSERT_TRUE(newest.ok() && newest->found.has_value());
  EXPECT_EQ(id, newest->found->id);
  EXPECT_EQ(state, *objects->read(newest->found->checkpoint.state));
  EXPECT_THAT(*files_.list(folder_ + "/objects"), SizeIs(2));
  EXPECT_THAT(*files_.list(folder_), SizeIs(1));
}

}  // namespace
}  // namespace lockstep
