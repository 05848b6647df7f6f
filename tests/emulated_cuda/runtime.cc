#include "tests/emulated_cuda/runtime.h"

#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>

#include <algorithm>
#include <utility>

#include "host/core/check.h"
#include "host/core/rng.h"
#include "tests/emulated_cuda/state.h"

namespace lockstep::emulated {
namespace {

State* machine = nullptr;
struct sigaction earlier_action;  // of SIGSEGV, before the machine
std::string running;              // the piece of work under way, for the message

thread_local int thread_device = 0;
thread_local cudaError_t thread_error = cudaSuccess;

// A fault in an arena is named; others are passed on.
void on_fault(int signal, siginfo_t* info, void* context) {
  if (machine != nullptr) {
    for (size_t i = 0; i < machine->arenas.size(); ++i) {
      const Arena& arena = *machine->arenas[i];
      if (!arena.contains(info->si_addr)) continue;
      const std::string who = running.empty() ? "the host" : running;
      violation(who + " touched " + arena.describe(info->si_addr) + " (GPU " + std::to_string(i) +
                (running.empty() || arena.is_open() ? ")" : ", another one's)"));
    }
  }
  if ((earlier_action.sa_flags & SA_SIGINFO) != 0) {
    earlier_action.sa_sigaction(signal, info, context);
    return;
  }
  sigaction(SIGSEGV, &earlier_action, nullptr);  // the instruction faults again
}

void install_fault_handler() {
  struct sigaction action = {};
  action.sa_sigaction = &on_fault;
  action.sa_flags = SA_SIGINFO;
  LOCKSTEP_CHECK(sigaction(SIGSEGV, &action, &earlier_action) == 0);
}

}  // namespace

void violation(const std::string& what) {
  check_failed(("emulated CUDA: " + what).c_str(), __FILE__, __LINE__);
}

State& state() {
  if (machine == nullptr) violation("a call without a machine (tests/emulated_cuda/runtime.h)");
  return *machine;
}
bool has_state() { return machine != nullptr; }

int current_device() { return thread_device; }
void set_current_device(int device) { thread_device = device; }
void remember_error(cudaError_t error) {
  if (error != cudaSuccess) thread_error = error;
}
cudaError_t take_error() { return std::exchange(thread_error, cudaSuccess); }

State::State(const Options& chosen) : options(chosen) {
  for (int i = 0; i < options.devices; ++i) {
    arenas.push_back(std::make_unique<Arena>(options.memory_bytes));
    broken.push_back(false);
  }
}

State::~State() {
  for (const auto& [begin, block] : host) munmap(block.data, block.bytes);
}

uint64_t State::draw() { return random = mix64(random + 1); }

bool State::shows(Bug bug) { return planted.bug == bug && --planted.left == 0; }

NodePtr State::enqueue(Work work, uint64_t lane, const std::vector<NodePtr>& before) {
  auto node = std::make_shared<Node>();
  node->work = std::move(work);
  node->lane = lane;
  for (const NodePtr& earlier : before) {
    if (earlier == nullptr || earlier->done) continue;
    earlier->after.push_back(node);
    node->before.push_back(earlier);
    ++node->missing;
  }
  if (node->missing == 0) ready.push_back(node);
  if (eager && draw() % 4 == 0 && !ready.empty()) {
    run_one();
    close_arenas();
  }
  return node;
}

void State::run_one() {
  if (draw() % 16 == 0) priority = draw();
  size_t best = 0;
  const auto rank = [&](size_t i) {
    const uint64_t lane = ready[i]->lane;
    return std::pair(ready[i]->wanted, by_lane ? lane : mix64(priority ^ mix64(lane)));
  };
  for (size_t i = 1; i < ready.size(); ++i) {
    if (rank(i) > rank(best)) best = i;
  }
  const NodePtr node = std::move(ready[best]);
  ready.erase(ready.begin() + static_cast<std::ptrdiff_t>(best));
  execute(*node);
  node->done = true;
  node->wanted = false;
  node->work.run = {};
  node->before.clear();
  for (const NodePtr& next : node->after) {
    if (--next->missing == 0) ready.push_back(next);
  }
  node->after.clear();
}

void State::execute(Node& node) {
  if (!node.work.run) return;
  const std::vector<int>& devices = node.work.devices;
  ++work_count;
  if (work_count == failing_work) {
    for (const int device : devices) broken[static_cast<size_t>(device)] = true;
  }
  for (const int device : devices) {
    if (broken[static_cast<size_t>(device)]) return;
  }
  for (size_t i = 0; i < arenas.size(); ++i) {
    const bool wanted =
        std::find(devices.begin(), devices.end(), static_cast<int>(i)) != devices.end();
    if (wanted) {
      arenas[i]->open();
    } else {
      arenas[i]->close();
    }
  }
  running = node.work.name;
  node.work.run();
  for (const int device : devices) {
    const Allocation* allocation = arenas[static_cast<size_t>(device)]->broken_guard();
    if (allocation == nullptr) continue;
    violation(running + " wrote beside device allocation " + std::to_string(allocation->number) +
              " of " + std::to_string(allocation->bytes) + " bytes");
  }
  running.clear();
}

void State::close_arenas() {
  for (const auto& arena : arenas) arena->close();
}

void State::want(const NodePtr& node) {
  std::vector<NodePtr> left = {node};
  while (!left.empty()) {
    const NodePtr next = std::move(left.back());
    left.pop_back();
    if (next->done || std::exchange(next->wanted, true)) continue;
    left.insert(left.end(), next->before.begin(), next->before.end());
  }
}

void State::run_until_done(const NodePtr& node) {
  priority = draw();
  if (node != nullptr && static_cast<int>(draw() % 4) < lazy) want(node);
  by_lane = static_cast<int>(draw() % 4) < ahead;
  while (node != nullptr && !node->done) {
    if (ready.empty()) violation("work waits for itself");
    run_one();
  }
  close_arenas();
}

void State::run_device(int device) {
  for (const auto& [handle, stream] : streams) {
    if (stream->device == device) run_until_done(stream->tail);
  }
}

int State::device_of(const void* address) const {
  for (size_t i = 0; i < arenas.size(); ++i) {
    if (arenas[i]->contains(address)) return static_cast<int>(i);
  }
  return -1;
}

Call::Call(const char* name) : lock_(state().mutex) {
  State& s = state();
  ++s.call_count;
  ++s.call_counts[name];
  const auto device = static_cast<size_t>(current_device());
  broken_ = device < s.broken.size() && s.broken[device];
  const bool counts = s.failing_name.empty() || s.failing_name == name;
  const int64_t count = s.failing_name.empty() ? s.call_count : s.call_counts[name];
  if (!counts || count != s.failing_call) return;
  s.failed_call = name;
  fails_ = true;
}

cudaError_t Call::failure(cudaError_t error) const {
  return result(fails_ ? error : cudaErrorIllegalAddress);
}

cudaError_t Call::result(cudaError_t error) const {
  remember_error(error);
  return error;
}

Machine::Machine(const Options& options) {
  LOCKSTEP_CHECK(machine == nullptr && options.devices >= 0);
  state_ = std::make_unique<State>(options);
  machine = state_.get();
  thread_device = 0;
  thread_error = cudaSuccess;
  install_fault_handler();
  set_seed(options.seed);
  setenv("LOCKSTEP_CACHE", "off", 0);  // nothing that a test made is kept for others
}

Machine::~Machine() {
  sigaction(SIGSEGV, &earlier_action, nullptr);
  machine = nullptr;
}

void Machine::set_seed(uint64_t seed) {
  const std::lock_guard lock(state_->mutex);
  state_->random = mix64(seed * 0x9e3779b97f4a7c15u + 1);
  constexpr int kLazy[] = {0, 4, 0, 2};
  state_->eager = seed % 4 == 0;
  state_->lazy = kLazy[seed % 4];
  state_->ahead = seed % 4 == 2 ? 2 : 0;
}

void Machine::fail_call(int64_t n) {
  const std::lock_guard lock(state_->mutex);
  state_->call_count = 0;
  state_->call_counts.clear();
  state_->failing_call = n;
  state_->failing_name.clear();
  state_->failed_call.clear();
  // What was queued on a device that has failed is lost with it.
  const bool lost =
      std::find(state_->broken.begin(), state_->broken.end(), true) != state_->broken.end();
  while (lost && !state_->ready.empty()) state_->run_one();
  state_->close_arenas();
  std::fill(state_->broken.begin(), state_->broken.end(), false);
}

void Machine::fail_call(const std::string& name, int64_t n) {
  fail_call(n);
  const std::lock_guard lock(state_->mutex);
  state_->failing_name = name;
}

void Machine::fail_work(int64_t n) {
  const std::lock_guard lock(state_->mutex);
  state_->work_count = 0;
  state_->failing_work = n;
}

void Machine::plant(Bug bug, int64_t n) {
  const std::lock_guard lock(state_->mutex);
  state_->planted = {bug, n};
  state_->grid.skip_barrier(bug == Bug::skip_barrier ? n : 0);
  for (const auto& arena : state_->arenas) {
    if (bug == Bug::skip_fill) arena->fill_with_zeros();
  }
}

std::string Machine::failed_call() const { return state_->failed_call; }
int64_t Machine::calls() const { return state_->call_count; }
int64_t Machine::calls(const std::string& name) const {
  const auto found = state_->call_counts.find(name);
  return found == state_->call_counts.end() ? 0 : found->second;
}
int64_t Machine::executed() const { return state_->work_count; }

void Machine::drain() {
  const std::lock_guard lock(state_->mutex);
  for (int i = 0; i < state_->options.devices; ++i) state_->run_device(i);
}

std::string Machine::leaks() const {
  std::string text;
  const auto add = [&](int64_t count, const std::string& what) {
    if (count == 0) return;
    text += (text.empty() ? "" : ", ") + std::to_string(count) + " " + what;
  };
  const auto living = [](const auto& objects) {
    return std::count_if(objects.begin(), objects.end(),
                         [](const auto& entry) { return !entry.second->destroyed; });
  };
  for (const auto& arena : state_->arenas) add(arena->living(), "of device memory");
  add(std::count_if(state_->host.begin(), state_->host.end(),
                    [](const auto& entry) { return !entry.second.freed; }),
      "of pinned memory");
  add(living(state_->streams), "streams");
  add(living(state_->events), "events");
  add(living(state_->graphs), "graphs");
  add(living(state_->executables), "executable graphs");
  add(living(state_->pools), "memory pools");
  for (const auto& [name, count] : state_->vendor_objects) add(count, name);
  return text;
}

}  // namespace lockstep::emulated
