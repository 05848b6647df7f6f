// What files promise, on the machine's file system and on the one that crashes; and that the
// latter does lose what was not synced.
#include "host/core/file_system.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "host/core/files.h"
#include "tests/core/text_of.h"
#include "tests/support/crashing_file_system.h"
#include "tests/support/test_folder.h"

namespace lockstep {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class PosixFiles : public ::testing::Test {
 protected:
  std::string path(const std::string& name) const { return folder_ + "/" + name; }

  PosixFileSystem files_;
  TestFolder temporary_;
  const std::string folder_ = temporary_.path();
};

TEST_F(PosixFiles, AppendsAtTheEnd) {
  ASSERT_TRUE(files_.write_atomically(path("file"), "first ").ok());
  auto file = files_.open_append(path("file"), path("file"));
  ASSERT_TRUE(file.ok()) << file.error().message;
  EXPECT_TRUE((*file)->append("second ").ok());
  EXPECT_TRUE((*file)->append("third").ok());
  EXPECT_TRUE((*file)->sync().ok());
  EXPECT_EQ("first second third", *files_.read(path("file")));
  EXPECT_EQ(18u, files_.size_of(path("file"))->value());
}

TEST_F(PosixFiles, ReadsInPiecesUntilTheSinkHasEnough) {
  ASSERT_TRUE(files_.write_atomically(path("file"), std::string(300000, 'x')).ok());
  size_t bytes = 0;
  size_t pieces = 0;
  const auto count = [&](std::string_view piece) -> Status {
    bytes += piece.size();
    ++pieces;
    return {};
  };
  EXPECT_TRUE(files_.read(path("file"), count).ok());
  EXPECT_EQ(300000u, bytes);
  EXPECT_GT(pieces, 1u);
  const auto refuse = [](std::string_view) -> Status { return Error{"enough"}; };
  EXPECT_EQ("enough", text_of(files_.read(path("file"), refuse)));
}

TEST_F(PosixFiles, TellsWhatIsMissing) {
  EXPECT_FALSE(files_.size_of(path("missing"))->has_value());
  EXPECT_FALSE(files_.size_of(path("missing/file"))->has_value());
  EXPECT_TRUE(files_.remove(path("missing")).ok());
  EXPECT_EQ("cannot read the folder '" + path("missing") + "': No such file or directory",
            files_.list(path("missing")).error().message);
  EXPECT_EQ("cannot sync the folder '" + path("missing") + "': No such file or directory",
            text_of(files_.sync_folder(path("missing"))));
}

TEST_F(PosixFiles, ListsFilesOnlyAndInOrder) {
  ASSERT_TRUE(files_.make_folders(path("folder/below")).ok());
  for (const char* name : {"b", "a", "c"}) {
    ASSERT_TRUE(files_.write_atomically(path("folder/") + name, "").ok());
  }
  EXPECT_THAT(*files_.list(path("folder")), ElementsAre("a", "b", "c"));
}

TEST_F(PosixFiles, ANewFileIsThereWhenItIsCommitted) {
  {
    auto file = files_.create(folder_, path("name"));
    ASSERT_TRUE(file.ok()) << file.error().message;
    EXPECT_TRUE(file->append("some ").ok());
    EXPECT_FALSE(files_.size_of(path("name"))->has_value());
    EXPECT_TRUE(file->append("text").ok());
    EXPECT_TRUE(file->commit("name").ok());
    EXPECT_THAT(*files_.list(folder_), ElementsAre("name"));
  }
  EXPECT_EQ("some text", *files_.read(path("name")));
}

TEST_F(PosixFiles, ANewFileThatIsNotCommittedLeavesNothing) {
  {
    auto file = files_.create(folder_, path("name"));
    ASSERT_TRUE(file.ok() && file->append("text").ok());
    NewFile moved(std::move(file).value());
    EXPECT_EQ(1u, files_.list(folder_)->size());
  }
  EXPECT_THAT(*files_.list(folder_), IsEmpty());
}

TEST_F(PosixFiles, RemovesTheTemporariesOfTheDeadAndNothingElse) {
  ASSERT_TRUE(files_.write_atomically(path("lockstep-1.txt"), "").ok());
  ASSERT_TRUE(files_.write_atomically(path("mine.tmp"), "").ok());
  ASSERT_TRUE(files_.write_atomically(path("lockstep-77-0123456789abcdef.tmp"), "half").ok());
  EXPECT_TRUE(files_.remove_temporaries(folder_).ok());
  EXPECT_THAT(*files_.list(folder_), ElementsAre("lockstep-1.txt", "mine.tmp"));
}

TEST_F(PosixFiles, AFullDiskEndsAFile) {
  auto file = files_.open_append("/dev/full", "/dev/full");
  ASSERT_TRUE(file.ok()) << file.error().message;
  const std::string full =
      "cannot write '/dev/full': No space left on device; free some space on that disk, or choose "
      "another folder";
  EXPECT_EQ(full, text_of((*file)->append("text")));
  EXPECT_EQ(full, text_of((*file)->append("")));
  EXPECT_EQ(full, text_of((*file)->sync()));
}

TEST_F(PosixFiles, FoldersOfRelativePaths) {
  EXPECT_EQ("a/b", folder_of("a/b/c"));
  EXPECT_EQ("/", folder_of("/c"));
  EXPECT_EQ(".", folder_of("c"));
  EXPECT_TRUE(files_.make_folders(folder_ + "/a/./b/").ok());
  EXPECT_TRUE(files_.make_folders(folder_ + "/a/b").ok());
  EXPECT_TRUE(folder_exists(path("a/b")));
}

TEST(FailedSync, OfAFileIsNeverTriedAgain) {
  CrashingFileSystem files(1);
  auto file = files.open_append("file", "file");
  ASSERT_TRUE(file.ok() && (*file)->append("text").ok());
  files.fail_sync_after(0);
  EXPECT_EQ("cannot write 'file': Input/output error", text_of((*file)->sync()));
  const uint64_t syncs = files.syncs();
  EXPECT_EQ("cannot write 'file': Input/output error", text_of((*file)->sync()));
  EXPECT_EQ("cannot write 'file': Input/output error", text_of((*file)->append("more")));
  EXPECT_EQ(syncs, files.syncs());
  EXPECT_EQ("text", files.contents("file"));
}

TEST(FailedSync, OfAFolderIsNeverTriedAgain) {
  CrashingFileSystem files(1);
  ASSERT_TRUE(files.make_folders("folder").ok());
  files.fail_sync_after(1);  // after that of the file
  EXPECT_EQ("cannot sync the folder 'folder': Input/output error",
            text_of(files.write_atomically("folder/file", "text")));
  const uint64_t syncs = files.syncs();
  EXPECT_FALSE(files.sync_folder("folder").ok());
  EXPECT_EQ(syncs, files.syncs());
  EXPECT_FALSE(files.write_atomically("folder/other", "text").ok());
}

// --- the file system that crashes ---

TEST(CrashingFiles, LosesWhatWasNotSynced) {
  std::set<std::string> seen;
  for (uint64_t seed = 0; seed < 500; ++seed) {
    CrashingFileSystem files(seed);
    auto file = files.open_append("file", "file");
    ASSERT_TRUE(file.ok() && (*file)->append("safe").ok() && (*file)->sync().ok());
    ASSERT_TRUE(files.sync_folder(".").ok());
    ASSERT_TRUE((*file)->append("risk").ok());
    files.crash();
    const std::string contents = files.contents("file");
    EXPECT_TRUE(contents.starts_with("safe"));
    seen.insert(contents);
    EXPECT_FALSE((*file)->append("x").ok());  // its process is dead
  }
  EXPECT_TRUE(seen.contains("safe"));
  EXPECT_TRUE(seen.contains("saferi"));
  EXPECT_TRUE(seen.contains("saferisk"));
  EXPECT_TRUE(seen.contains(std::string("saferi\0\0", 8)));
}

TEST(CrashingFiles, LosesNamesThatWereNotSynced) {
  std::set<std::vector<std::string>> seen;
  for (uint64_t seed = 0; seed < 200; ++seed) {
    CrashingFileSystem files(seed);
    files.put("old", "old");
    auto file = files.open_append("new", "new");
    ASSERT_TRUE(file.ok() && (*file)->append("new").ok() && (*file)->sync().ok());
    ASSERT_TRUE(files.rename("new", "old").ok());
    files.crash();
    const std::string contents = files.contents("old");
    EXPECT_TRUE(contents == "old" || contents == "new") << contents;
    seen.insert(files.paths());
  }
  EXPECT_EQ((std::set<std::vector<std::string>>{{"old"}, {"new", "old"}}), seen);
}

TEST(CrashingFiles, AnAtomicWriteSurvivesOnceItHasReturned) {
  for (uint64_t seed = 0; seed < 50; ++seed) {
    CrashingFileSystem files(seed);
    ASSERT_TRUE(files.make_folders("a/b").ok());
    ASSERT_TRUE(files.write_atomically("a/b/file", "text").ok());
    files.crash();
    EXPECT_EQ("text", files.contents("a/b/file"));
  }
}

TEST(CrashingFiles, AFailedFsyncLosesBytesForGood) {
  CrashingFileSystem files(3);
  ASSERT_TRUE(files.write_atomically("file", "safe").ok());
  {
    auto file = files.open_append("file", "file");
    ASSERT_TRUE(file.ok() && (*file)->append("lost").ok());
    files.fail_sync_after(0);
    ASSERT_FALSE((*file)->sync().ok());
  }
  EXPECT_EQ("safelost", files.contents("file"));  // from the kernel's memory
  auto file = files.open_append("file", "file");
  ASSERT_TRUE(file.ok() && (*file)->append("later").ok() && (*file)->sync().ok());
  files.crash();
  EXPECT_EQ(std::string("safe\0\0\0\0later", 13), files.contents("file"));
}

TEST(CrashingFiles, StopsAndIsFull) {
  CrashingFileSystem files(1);
  files.put("file", "text");
  files.stop_after(1);
  EXPECT_TRUE(files.rename("file", "other").ok());
  EXPECT_EQ("cannot remove 'other': the file system has stopped", text_of(files.remove("other")));
  EXPECT_TRUE(files.stopped());
  EXPECT_FALSE(files.read("other").ok());
  files.restart();
  EXPECT_EQ("text", *files.read("other"));
  files.set_capacity(10);
  EXPECT_THAT(text_of(files.write_atomically("third", "1234567")),
              HasSubstr("cannot write 'third': No space left on device"));
  EXPECT_THAT(files.paths(), ElementsAre("other"));
}

TEST(CrashingFiles, OneSeedOneOutcome) {
  const auto outcome = [](uint64_t seed) {
    CrashingFileSystem files(seed);
    auto file = files.open_append("file", "file");
    EXPECT_TRUE(file.ok() && files.sync_folder(".").ok());
    EXPECT_TRUE((*file)->append(std::string(1000, 'x')).ok());
    files.crash();
    return files.contents("file");
  };
  EXPECT_EQ(outcome(5), outcome(5));
  EXPECT_NE(outcome(5), outcome(6));
}

}  // namespace
}  // namespace lockstep
