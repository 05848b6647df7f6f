// Objects: there whole or not at all, and damage is always found.
#include "host/checkpoint/object_store.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/crashing_file_system.h"

namespace lockstep {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// SHA-256 of "abc" (FIPS 180-2, appendix B).
constexpr char kAbc[] = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

class Objects : public ::testing::Test {
 protected:
  void SetUp() override { ASSERT_TRUE(ObjectStore::open(files_, "state/objects").ok()); }
  std::string path(const std::string& id) const { return "state/objects/" + id; }

  CrashingFileSystem files_{1};
  ObjectStore objects_{files_, "state/objects"};
};

TEST_F(Objects, AreNamedByTheirContents) {
  EXPECT_EQ(kAbc, *objects_.put("abc"));
  EXPECT_EQ("abc", files_.contents(path(kAbc)));
  EXPECT_EQ("abc", *objects_.read(kAbc));
  EXPECT_EQ(3u, objects_.size_of(kAbc)->value());
  EXPECT_EQ(kAbc, *objects_.put("abc"));
  EXPECT_THAT(*objects_.list(), ElementsAre(kAbc));
}

TEST_F(Objects, AreWrittenAndReadInPieces) {
  std::string text;
  for (int i = 0; i < 1000; ++i) text += fmt::format("{} ", i);
  auto writer = objects_.create();
  ASSERT_TRUE(writer.ok()) << writer.error().message;
  for (size_t begin = 0; begin < text.size(); begin += 17) {
    ASSERT_TRUE(writer->append(std::string_view(text).substr(begin, 17)).ok());
  }
  EXPECT_EQ(text.size(), writer->bytes());
  EXPECT_THAT(*objects_.list(), IsEmpty());
  const auto id = writer->finish();
  ASSERT_TRUE(id.ok()) << id.error().message;
  EXPECT_EQ(sha256_hex(text), *id);
  std::string read;
  EXPECT_TRUE(objects_
                  .read(*id,
                        [&](std::string_view piece) -> Status {
                          read += piece;
                          return {};
                        })
                  .ok());
  EXPECT_EQ(text, read);
}

TEST_F(Objects, WithoutFinishNothingIsLeft) {
  {
    auto writer = objects_.create();
    ASSERT_TRUE(writer.ok() && writer->append("half").ok());
    EXPECT_EQ(1u, files_.paths().size());
  }
  EXPECT_THAT(files_.paths(), IsEmpty());
}

TEST_F(Objects, LeftoversOfTheDeadAreRemovedAtOpen) {
  {
    auto writer = objects_.create();
    ASSERT_TRUE(writer.ok() && writer->append("half").ok());
    files_.stop_after(0);  // even the destructor comes too late
  }
  files_.restart();
  EXPECT_EQ(1u, files_.paths().size());
  ASSERT_TRUE(ObjectStore::open(files_, "state/objects").ok());
  EXPECT_THAT(files_.paths(), IsEmpty());
}

TEST_F(Objects, EveryBit) {
  const std::string text = "an object of a few bytes";
  const auto id = objects_.put(text);
  ASSERT_TRUE(id.ok());
  for (size_t at = 0; at < text.size(); ++at) {
    for (int bit = 0; bit < 8; ++bit) {
      const auto mask = static_cast<uint8_t>(1 << bit);
      files_.flip(path(*id), at, mask);
      const auto read = objects_.read(*id);
      ASSERT_FALSE(read.ok());
      EXPECT_THAT(read.error().message, HasSubstr("the object '" + path(*id) + "' is damaged"));
      EXPECT_FALSE(objects_.verify(*id).ok());
      files_.flip(path(*id), at, mask);
    }
  }
  EXPECT_TRUE(objects_.verify(*id).ok());
}

TEST_F(Objects, EveryLength) {
  const std::string text = "an object of a few bytes";
  const auto id = objects_.put(text);
  for (size_t size = 0; size < text.size(); ++size) {
    files_.put(path(*id), text.substr(0, size));
    EXPECT_FALSE(objects_.verify(*id).ok());
  }
  files_.put(path(*id), text + '\0');
  EXPECT_FALSE(objects_.verify(*id).ok());
}

TEST_F(Objects, WritingAgainHeals) {
  ASSERT_TRUE(objects_.put("abc").ok());
  files_.flip(path(kAbc), 1, 1);
  EXPECT_EQ(kAbc, *objects_.put("abc"));
  EXPECT_EQ("abc", *objects_.read(kAbc));
}

TEST_F(Objects, MissingOnesAndStrangeNames) {
  EXPECT_FALSE(objects_.size_of(kAbc)->has_value());
  EXPECT_EQ("cannot read '" + path(kAbc) + "': No such file or directory",
            objects_.read(kAbc).error().message);
  EXPECT_TRUE(objects_.remove({kAbc}).ok());
  files_.put("state/objects/readme", "not an object");
  EXPECT_THAT(*objects_.list(), IsEmpty());
  for (const std::string id : {"", "../log", "ABC", "readme"}) {
    EXPECT_THAT(objects_.read(id).error().message, HasSubstr("is not the id of an object"));
    EXPECT_FALSE(objects_.remove({id}).ok());
    EXPECT_FALSE(objects_.size_of(id).ok());
  }
}

TEST_F(Objects, AFullDiskLeavesTheOthers) {
  ASSERT_TRUE(objects_.put("abc").ok());
  files_.set_capacity(10);
  EXPECT_EQ("cannot write 'state/objects': No space left on device",
            objects_.put("longer than that").error().message);
  EXPECT_EQ("abc", *objects_.read(kAbc));
  EXPECT_THAT(files_.paths(), ElementsAre(path(kAbc)));
}

TEST_F(Objects, AFailedFsyncMeansNoObject) {
  files_.fail_sync_after(0);
  EXPECT_FALSE(objects_.put("abc").ok());
  EXPECT_THAT(files_.paths(), IsEmpty());
  EXPECT_TRUE(objects_.put("abc").ok());  // another file, from its first byte
  files_.fail_sync_after(1);              // the folder's
  EXPECT_FALSE(objects_.put("second").ok());
  EXPECT_FALSE(objects_.put("third").ok());
}

}  // namespace
}  // namespace lockstep
