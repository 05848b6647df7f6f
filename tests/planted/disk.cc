// The tests of checkpoint/ once for each planted bug of the disk: prints which test notices it. The
// simulator has the table of the others (tests/sim/main.cc).
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <string>

#include "host/core/planted.h"

namespace lockstep {
namespace {

// Writes the name of the first test that fails to a pipe, and ends the process.
class FirstFailure : public testing::EmptyTestEventListener {
 public:
  explicit FirstFailure(int pipe) : pipe_(pipe) {}

 private:
  void OnTestEnd(const testing::TestInfo& info) override {
    if (info.result()->Passed()) return;
    const std::string name = fmt::format("{}.{}", info.test_suite_name(), info.name());
    _exit(write(pipe_, name.data(), name.size()) < 0 ? 9 : 1);
  }

  const int pipe_;
};

[[noreturn]] void run_with(Bug bug, int pipe) {
  planted_bug = bug;
  testing::TestEventListeners& listeners = testing::UnitTest::GetInstance()->listeners();
  delete listeners.Release(listeners.default_result_printer());
  listeners.Append(new FirstFailure(pipe));
  alarm(120);
  _exit(RUN_ALL_TESTS());
}

// "" where all tests pass.
std::string noticed_by(Bug bug) {
  std::array<int, 2> ends{};
  if (pipe(ends.data()) != 0) return "no pipe";
  std::fflush(nullptr);
  const pid_t pid = fork();
  if (pid == 0) run_with(bug, ends[1]);
  close(ends[1]);
  std::string name;
  std::array<char, 256> buffer;
  for (ssize_t count = 0; (count = read(ends[0], buffer.data(), buffer.size())) > 0;) {
    name.append(buffer.data(), static_cast<size_t>(count));
  }
  close(ends[0]);
  int status = 0;
  waitpid(pid, &status, 0);
  return name.empty() && status != 0 ? "the process died" : name;
}

int print_table() {
  const std::string without = noticed_by(Bug::none);
  if (!without.empty()) {
    fmt::print("{} fails without any bug\n", without);
    return 1;
  }
  int survived = 0;
  for (auto i = static_cast<size_t>(kFirstDiskBug); i < kBugNames.size(); ++i) {
    const std::string name = noticed_by(static_cast<Bug>(i));
    fmt::print("{:<26} {:>10}  {}\n", kBugNames[i], "", name.empty() ? "SURVIVED" : name);
    if (name.empty()) ++survived;
  }
  fmt::print("{} planted, {} survived\n", kBugNames.size() - static_cast<size_t>(kFirstDiskBug),
             survived);
  return survived == 0 ? 0 : 1;
}

}  // namespace
}  // namespace lockstep

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  return lockstep::print_table();
}
