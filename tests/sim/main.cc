// lockstep_sim: runs simulated clusters, each from one seed. See README.md.
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <optional>
#include <string>

#include "host/core/planted.h"
#include "tests/sim/world.h"

namespace lockstep::sim {
namespace {

struct Options {
  uint64_t first = 1;
  uint64_t end = 301;
  int workers = 2;
  bool trace = false;
  bool quiet = false;  // no traces of failing seeds
  std::string planted = "none";
  bool planted_table = false;
  bool check_repeat = false;
};

struct Tally {
  int64_t passed = 0;
  int64_t failed = 0;
  Counters counters;
  std::string first_reason;
  uint64_t first_seed = 0;
};

// One worker process, with the seeds that are left to it. It says what it does on a pipe; when it
// dies of a broken invariant, another goes on behind that seed.
struct Worker {
  pid_t pid = 0;
  int pipe = -1;
  uint64_t next = 0;
  std::optional<uint64_t> under_way;
  std::string text;
  std::string last_words;
};

void write_line(int pipe, const std::string& line) {
  const std::string text = line + "\n";
  if (write(pipe, text.data(), text.size()) < 0) _exit(9);
}

std::string one_line(std::string text) {
  for (char& c : text) c = c == '\n' ? '\t' : c;
  return text;
}

[[noreturn]] void work(int pipe, uint64_t first, uint64_t end, uint64_t stride) {
  dup2(pipe, 2);
  for (uint64_t seed = first; seed < end; seed += stride) {
    write_line(pipe, fmt::format("begin {}", seed));
    World world(seed, false);
    const std::string failure = world.run();
    for (const auto& [what, times] : world.counters) {
      write_line(pipe, fmt::format("count {} {}", times, what));
    }
    write_line(pipe, fmt::format("end {} {}", seed, one_line(failure)));
  }
  _exit(0);
}

void start(Worker* worker, const Options& options, uint64_t stride) {
  std::array<int, 2> ends{};
  if (pipe(ends.data()) != 0) return;
  std::fflush(nullptr);
  worker->pid = fork();
  if (worker->pid == 0) {
    close(ends[0]);
    alarm(600);
    work(ends[1], worker->next, options.end, stride);
  }
  close(ends[1]);
  worker->pipe = ends[0];
  worker->text.clear();
  worker->last_words.clear();
}

void seed_failed(Tally* tally, uint64_t seed, const std::string& reason) {
  ++tally->failed;
  if (tally->first_seed == 0 || seed < tally->first_seed) {
    tally->first_seed = seed;
    tally->first_reason = reason;
  }
}

void report_failure(const Options& options, uint64_t seed, const std::string& reason);

void take_line(Worker* worker, const std::string& line, const Options& options, Tally* tally) {
  std::array<char, 200> what{};
  uint64_t seed = 0;
  long long times = 0;
  if (std::sscanf(line.c_str(), "begin %lu", &seed) == 1) {
    worker->under_way = seed;
  } else if (std::sscanf(line.c_str(), "count %lld %199[^\n]", &times, what.data()) == 2) {
    tally->counters[what.data()] += times;
  } else if (std::sscanf(line.c_str(), "end %lu", &seed) == 1) {
    worker->under_way.reset();
    const std::string reason = line.substr(line.find(' ', 4) + 1);
    if (reason.empty()) {
      ++tally->passed;
    } else {
      seed_failed(tally, seed, reason);
      report_failure(options, seed, reason);
    }
  } else {
    worker->last_words = line;
  }
}

// False when the worker has ended and has no more to do.
bool read_some(Worker* worker, const Options& options, uint64_t stride, Tally* tally) {
  std::array<char, 4096> buffer;
  const ssize_t count = read(worker->pipe, buffer.data(), buffer.size());
  if (count > 0) {
    worker->text.append(buffer.data(), static_cast<size_t>(count));
    for (size_t end = worker->text.find('\n'); end != std::string::npos;
         end = worker->text.find('\n')) {
      take_line(worker, worker->text.substr(0, end), options, tally);
      worker->text.erase(0, end + 1);
    }
    return true;
  }
  close(worker->pipe);
  int status = 0;
  waitpid(worker->pid, &status, 0);
  if (!worker->under_way) return false;
  const uint64_t seed = *worker->under_way;
  worker->under_way.reset();
  const std::string reason = "the process died: " + worker->last_words;
  seed_failed(tally, seed, reason);
  report_failure(options, seed, reason);
  worker->next = seed + stride;
  if (worker->next >= options.end) return false;
  start(worker, options, stride);
  return true;
}

// `limit`: stop after this many failures; 0: never.
Tally run_seeds(const Options& options, int64_t limit) {
  Tally tally;
  std::vector<Worker> workers(static_cast<size_t>(options.workers));
  const auto stride = static_cast<uint64_t>(options.workers);
  std::vector<bool> open(workers.size());
  for (size_t i = 0; i < workers.size(); ++i) {
    workers[i].next = options.first + i;
    if (workers[i].next >= options.end) continue;
    start(&workers[i], options, stride);
    open[i] = true;
  }
  for (bool any = true; any;) {
    any = false;
    for (size_t i = 0; i < workers.size(); ++i) {
      if (!open[i]) continue;
      if (limit > 0 && tally.failed >= limit) {
        kill(workers[i].pid, SIGKILL);
        waitpid(workers[i].pid, nullptr, 0);
        close(workers[i].pipe);
        open[i] = false;
        continue;
      }
      open[i] = read_some(&workers[i], options, stride, &tally);
      any = any || open[i];
    }
  }
  return tally;
}

std::string rerun_line(const Options& options, uint64_t seed) {
  std::string line = fmt::format("lockstep_sim --seeds {}:{} --trace", seed, seed + 1);
  if (options.planted != "none") line += " --planted " + options.planted;
  return line;
}

void report_failure(const Options& options, uint64_t seed, const std::string& reason) {
  if (options.quiet) return;
  std::string text = reason;
  for (char& c : text) c = c == '\t' ? '\n' : c;
  std::printf("FAILED seed %lu: %s\n    %s\n", seed, text.c_str(),
              rerun_line(options, seed).c_str());
  std::fflush(stdout);
}

// The last lines of a seed's trace.
void print_trace_end(uint64_t seed) {
  std::array<int, 2> ends{};
  if (pipe(ends.data()) != 0) return;
  std::fflush(nullptr);
  const pid_t pid = fork();
  if (pid == 0) {
    close(ends[0]);
    dup2(ends[1], 1);
    setvbuf(stdout, nullptr, _IOLBF, 0);
    World world(seed, true);
    world.run();
    std::fflush(stdout);
    _exit(0);
  }
  close(ends[1]);
  std::string text;
  std::array<char, 4096> buffer;
  for (ssize_t count = 0; (count = read(ends[0], buffer.data(), buffer.size())) > 0;) {
    text.append(buffer.data(), static_cast<size_t>(count));
    if (text.size() > 40'000) text.erase(0, text.size() - 20'000);
  }
  close(ends[0]);
  waitpid(pid, nullptr, 0);
  size_t begin = text.size();
  for (int lines = 0; begin > 0 && lines < 120; --begin) lines += text[begin - 1] == '\n' ? 1 : 0;
  std::printf("--- the end of the trace of seed %lu ---\n%s---\n", seed, text.c_str() + begin);
}

int run_traced(const Options& options) {
  int64_t failed = 0;
  for (uint64_t seed = options.first; seed < options.end; ++seed) {
    setvbuf(stdout, nullptr, _IOLBF, 0);
    World world(seed, true);
    const std::string failure = world.run();
    std::printf("seed %lu: %s, trace %016lx\n", seed, failure.empty() ? "ok" : failure.c_str(),
                world.trace_hash());
    if (!failure.empty()) ++failed;
  }
  std::printf("%ld passed, %ld failed\n",
              static_cast<int64_t>(options.end - options.first) - failed, failed);
  return failed == 0 ? 0 : 1;
}

// The same seed twice: the same trace.
int64_t check_repeats(const Options& options) {
  int64_t different = 0;
  for (uint64_t seed = options.first; seed < std::min(options.end, options.first + 20); ++seed) {
    World one(seed, false);
    one.run();
    World two(seed, false);
    two.run();
    if (one.trace_hash() == two.trace_hash()) continue;
    std::printf("FAILED seed %lu: two runs, two traces\n", seed);
    ++different;
  }
  return different;
}

bool choose_bug([[maybe_unused]] const std::string& name) {
#ifdef LOCKSTEP_PLANTED_BUGS
  for (size_t i = 0; i < kBugNames.size(); ++i) {
    if (kBugNames[i] == name) {
      planted_bug = static_cast<Bug>(i);
      return true;
    }
  }
  return false;
#else
  return name == "none";
#endif
}

int run_planted_table(Options options) {
  options.quiet = true;
  int survived = 0;
  std::printf("%-26s %10s  %s\n", "bug", "seed", "noticed by");
  constexpr auto kEnd = static_cast<size_t>(kFirstDiskBug);
  for (size_t i = 1; i < kEnd; ++i) {
    options.planted = kBugNames[i];
    if (!choose_bug(options.planted)) return 2;
    const Tally tally = run_seeds(options, 1);
    if (tally.failed == 0) ++survived;
    const std::string first = tally.first_reason.substr(0, tally.first_reason.find('\t'));
    if (tally.failed == 0) {
      std::printf("%-26s %10s  SURVIVED\n", options.planted.c_str(), "-");
    } else {
      std::printf("%-26s %10lu  %.120s\n", options.planted.c_str(), tally.first_seed,
                  first.c_str());
    }
    std::fflush(stdout);
  }
  std::printf("%zu planted, %d survived\n", kEnd - 1, survived);
  return survived == 0 ? 0 : 1;
}

std::optional<Options> parse(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string flag = argv[i];
    const std::string value = i + 1 < argc ? argv[i + 1] : "";
    if (flag == "--trace") {
      options.trace = true;
    } else if (flag == "--quiet") {
      options.quiet = true;
    } else if (flag == "--planted-table") {
      options.planted_table = true;
    } else if (flag == "--check-repeat") {
      options.check_repeat = true;
    } else if (flag == "--seeds" &&
               std::sscanf(value.c_str(), "%lu:%lu", &options.first, &options.end) == 2) {
      ++i;
    } else if (flag == "--new" && !value.empty()) {  // seeds that nobody has run yet
      options.first = mix64(static_cast<uint64_t>(std::time(nullptr))) % 1'000'000'000'000u;
      options.end = options.first + std::strtoul(value.c_str(), nullptr, 10);
      ++i;
    } else if (flag == "--workers" && std::atoi(value.c_str()) > 0) {
      options.workers = std::atoi(value.c_str());
      ++i;
    } else if (flag == "--planted" && choose_bug(value)) {
      options.planted = value;
      ++i;
    } else {
      std::fprintf(stderr, "lockstep_sim: do not know '%s' '%s'\n", flag.c_str(), value.c_str());
      return std::nullopt;
    }
  }
  return options;
}

int run(const Options& options) {
  if (options.planted_table) return run_planted_table(options);
  if (options.trace) return run_traced(options);
  std::printf("seeds %lu to %lu\n", options.first, options.end - 1);
  int64_t different = options.check_repeat ? check_repeats(options) : 0;
  const Tally tally = run_seeds(options, 0);
  if (tally.first_seed != 0 && !options.quiet) print_trace_end(tally.first_seed);
  for (const auto& [what, times] : tally.counters) {
    std::printf("%10ld  %s\n", times, what.c_str());
  }
  std::printf("%ld passed, %ld failed\n", tally.passed, tally.failed + different);
  return tally.failed + different == 0 ? 0 : 1;
}

}  // namespace
}  // namespace lockstep::sim

int main(int argc, char** argv) {
  const auto options = lockstep::sim::parse(argc, argv);
  return options ? lockstep::sim::run(*options) : 2;
}
