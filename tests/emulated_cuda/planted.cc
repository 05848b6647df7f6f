#include "tests/emulated_cuda/planted.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "host/core/check.h"

namespace lockstep::emulated {
namespace {

constexpr int kRight = 0, kWrong = 77;  // exit codes; sanitizers end with 1
constexpr int kMaxSeeds = 32, kEnough = 3;

std::string read_all(int descriptor) {
  std::string text;
  std::array<char, 4096> buffer{};
  ssize_t count = 0;
  while ((count = read(descriptor, buffer.data(), buffer.size())) > 0) {
    text.append(buffer.data(), static_cast<size_t>(count));
  }
  return text;
}

// Of what a process said before its end: the emulation's words, or the sanitizer's.
std::string last_words(const std::string& text) {
  for (const char* start : {"emulated CUDA: ", "broken invariant: ", "ERROR: AddressSanitizer: "}) {
    const size_t begin = text.rfind(start);
    if (begin == std::string::npos) continue;
    std::string line = text.substr(begin, text.find('\n', begin) - begin);
    const size_t place = line.rfind(" (/");
    return place == std::string::npos ? line : line.substr(0, place);
  }
  return "";
}

}  // namespace

Verdict watch(const std::function<bool()>& scenario) {
  std::array<int, 2> ends{};
  LOCKSTEP_CHECK(pipe(ends.data()) == 0);
  const pid_t child = fork();
  LOCKSTEP_CHECK(child >= 0);
  if (child == 0) {
    close(ends[0]);
    LOCKSTEP_CHECK(dup2(ends[1], STDERR_FILENO) >= 0);
    _exit(scenario() ? kRight : kWrong);
  }
  close(ends[1]);
  const std::string text = read_all(ends[0]);
  close(ends[0]);
  int status = 0;
  LOCKSTEP_CHECK(waitpid(child, &status, 0) == child);
  if (WIFEXITED(status) && WEXITSTATUS(status) == kRight) return {};
  if (WIFEXITED(status) && WEXITSTATUS(status) == kWrong)
    return {true, "wrong results, or an error"};
  const std::string words = last_words(text);
  if (!words.empty()) return {true, words};
  return {true, std::string("ended by ") +
                    (WIFSIGNALED(status) ? strsignal(WTERMSIG(status)) : "another exit code")};
}

Tally watch_seeds(const std::function<bool(uint64_t)>& scenario) {
  Tally tally;
  for (int seed = 1; seed <= kMaxSeeds && tally.found < kEnough; ++seed) {
    const Verdict verdict = watch([&] { return scenario(static_cast<uint64_t>(seed)); });
    ++tally.tried;
    if (verdict.found && tally.found++ == 0) tally.how = verdict.how;
  }
  return tally;
}

}  // namespace lockstep::emulated
