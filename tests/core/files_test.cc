// Whole reads, atomic writes, folders and locks.
#include "host/core/files.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <filesystem>
#include <optional>

#include "tests/core/text_of.h"
#include "tests/support/test_folder.h"

namespace lockstep {
namespace {

using ::testing::HasSubstr;

constexpr uid_t kNobody = 65534;

class Files : public ::testing::Test {
 protected:
  std::string path(const std::string& name) const { return folder_ + "/" + name; }
  size_t entries() const {
    const auto begin = std::filesystem::directory_iterator(folder_);
    return static_cast<size_t>(std::distance(begin, std::filesystem::directory_iterator()));
  }

  TestFolder temporary_;
  const std::string folder_ = temporary_.path();
};

// Runs `body` in a child process; what it returns comes back through a pipe. The child then waits
// to be killed.
class Child {
 public:
  template <class Body>
  explicit Child(const Body& body) {
    EXPECT_EQ(0, ::pipe(pipe_.data()));
    process_ = ::fork();
    if (process_ != 0) {
      ::close(pipe_[1]);
      return;
    }
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    // Holds what `body` made until the process dies.
    const auto result = body();
    const std::string& text = result.first;
    if (::write(pipe_[1], text.data(), text.size()) < 0) ::_exit(1);
    ::close(pipe_[1]);
    while (true) ::pause();
  }
  ~Child() {
    kill();
    ::close(pipe_[0]);
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  std::string answer() {
    std::string text;
    std::array<char, 256> buffer{};
    ssize_t count = 0;
    while ((count = ::read(pipe_[0], buffer.data(), buffer.size())) > 0) {
      text.append(buffer.data(), static_cast<size_t>(count));
    }
    return text;
  }
  void kill() {
    if (process_ <= 0) return;
    ::kill(process_, SIGKILL);
    ::waitpid(process_, nullptr, 0);
    process_ = 0;
  }

 private:
  std::array<int, 2> pipe_{};
  pid_t process_ = 0;
};

TEST_F(Files, WritesAndReadsWholeFiles) {
  std::string contents;
  for (int i = 0; i < 300000; ++i) contents += static_cast<char>(i * 31);
  ASSERT_TRUE(write_file_atomically(path("file"), contents).ok());
  const auto read = read_file(path("file"));
  ASSERT_TRUE(read.ok()) << read.error().message;
  EXPECT_EQ(contents, *read);
}

TEST_F(Files, WritingReplacesAndLeavesNothingBehind) {
  ASSERT_TRUE(write_file_atomically(path("file"), "a longer first text").ok());
  ASSERT_TRUE(write_file_atomically(path("file"), "second").ok());
  EXPECT_EQ("second", *read_file(path("file")));
  ASSERT_TRUE(write_file_atomically(path("file"), "").ok());
  EXPECT_EQ("", *read_file(path("file")));
  EXPECT_EQ(1u, entries());
}

TEST_F(Files, AFailedWriteLeavesTheOldFile) {
  std::filesystem::create_directory(path("taken"));
  const Status status = write_file_atomically(path("taken"), "text");
  EXPECT_THAT(text_of(status), HasSubstr("cannot write '" + path("taken") + "': "));
  EXPECT_EQ(1u, entries());  // the temporary file is gone
  EXPECT_TRUE(folder_exists(path("taken")));
}

TEST_F(Files, WritingIntoAMissingFolder) {
  EXPECT_EQ("cannot write '" + path("missing/file") + "': No such file or directory",
            text_of(write_file_atomically(path("missing/file"), "text")));
}

TEST_F(Files, ReadingWhatCannotBeRead) {
  EXPECT_EQ("cannot read '" + path("missing") + "': No such file or directory",
            read_file(path("missing")).error().message);
  EXPECT_EQ("cannot read '" + folder_ + "': Is a directory", read_file(folder_).error().message);
}

TEST_F(Files, TellsFilesFromFolders) {
  ASSERT_TRUE(write_file_atomically(path("file"), "text").ok());
  EXPECT_TRUE(file_exists(path("file")));
  EXPECT_FALSE(folder_exists(path("file")));
  EXPECT_FALSE(file_exists(folder_));
  EXPECT_TRUE(folder_exists(folder_));
  EXPECT_FALSE(file_exists(path("missing")));
  EXPECT_FALSE(folder_exists(path("missing")));
}

TEST_F(Files, MakesFoldersAndTheirParents) {
  EXPECT_TRUE(make_writable_folder(path("a/b/c")).ok());
  EXPECT_TRUE(folder_exists(path("a/b/c")));
  EXPECT_TRUE(make_writable_folder(path("a/b/c")).ok());
}

TEST_F(Files, AFileInTheWayOfAFolder) {
  ASSERT_TRUE(write_file_atomically(path("file"), "text").ok());
  EXPECT_THAT(text_of(make_writable_folder(path("file/below"))),
              HasSubstr(fmt::format("cannot make the folder '{}': ", path("file/below"))));
  EXPECT_THAT(text_of(make_writable_folder(path("file"))), HasSubstr(path("file")));
}

TEST_F(Files, UnwritableFolder) {
  ASSERT_TRUE(make_writable_folder(path("closed")).ok());
  std::filesystem::permissions(folder_, std::filesystem::perms(0755));
  std::filesystem::permissions(path("closed"), std::filesystem::perms(0555));
  // Root may write everywhere, so somebody else tries.
  Child child([&] {
    const bool is_nobody = ::geteuid() != 0 || ::setuid(kNobody) == 0;
    const std::string folder = text_of(make_writable_folder(path("closed")));
    const std::string file = text_of(write_file_atomically(path("closed/file"), "text"));
    return std::pair(is_nobody ? folder + "\n" + file : "cannot become nobody", 0);
  });
  EXPECT_EQ("cannot write to the folder '" + path("closed") +
                "': Permission denied; choose a folder that this user may write\n"
                "cannot write '" +
                path("closed/file") +
                "': Permission denied; choose a folder that this user may write",
            child.answer());
}

TEST_F(Files, ASecondProcessIsRefusedTheLock) {
  const auto lock = FileLock::acquire(path("lock"), "the output folder");
  ASSERT_TRUE(lock.ok()) << lock.error().message;
  Child child([&] {
    auto second = FileLock::acquire(path("lock"), "the output folder");
    return std::pair(second.ok() ? "taken" : second.error().message, std::move(second));
  });
  EXPECT_EQ("the output folder is in use by another process (it holds '" + path("lock") +
                "'); wait for it or choose another",
            child.answer());
}

TEST_F(Files, AKilledProcessFreesItsLock) {
  Child child([&] {
    auto first = FileLock::acquire(path("lock"), "the output folder");
    return std::pair(std::string(first.ok() ? "taken" : "refused"), std::move(first));
  });
  ASSERT_EQ("taken", child.answer());
  EXPECT_FALSE(FileLock::acquire(path("lock"), "the output folder").ok());
  child.kill();
  EXPECT_TRUE(FileLock::acquire(path("lock"), "the output folder").ok());
}

TEST_F(Files, ALockEndsWithItsOwner) {
  {
    auto lock = FileLock::acquire(path("lock"), "it");
    ASSERT_TRUE(lock.ok());
    std::optional<FileLock> moved(std::move(lock).value());
    EXPECT_FALSE(FileLock::acquire(path("lock"), "it").ok());
    moved.reset();
    EXPECT_TRUE(FileLock::acquire(path("lock"), "it").ok());
  }
  EXPECT_TRUE(FileLock::acquire(path("lock"), "it").ok());
  EXPECT_THAT(FileLock::acquire(path("missing/lock"), "it").error().message,
              HasSubstr("cannot open the lock '" + path("missing/lock") + "'"));
}

}  // namespace
}  // namespace lockstep
