#include "tests/emulated_cuda/grid.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <numeric>
#include <utility>

#include "host/core/check.h"
#include "host/core/rng.h"
#include "tests/emulated_cuda/indices.h"
#include "tests/emulated_cuda/state.h"

#ifdef LOCKSTEP_SANITIZED
#include <sanitizer/common_interface_defs.h>
#endif

extern "C" {
// The linker's, of launch.h's __shared__; absent where no kernel has any.
extern __attribute__((weak)) char __start_emulated_shared[];
extern __attribute__((weak)) char __stop_emulated_shared[];
}

namespace lockstep::emulated {
namespace {

constexpr size_t kStackBytes = size_t{256} << 10;
constexpr size_t kGuardPage = 4096;

template <class T>
void shuffle(std::vector<T>& values, uint64_t* random) {
  for (size_t i = values.size(); i > 1; --i) {
    *random = mix64(*random + 1);
    std::swap(values[i - 1], values[*random % i]);
  }
}

}  // namespace

void fill_shared_memory() {
  if (__start_emulated_shared == nullptr) return;
  std::memset(__start_emulated_shared, 0xFF,
              static_cast<size_t>(__stop_emulated_shared - __start_emulated_shared));
}

Grid::~Grid() {
  for (const auto& fiber : fibers_) munmap(fiber->stack - kGuardPage, kStackBytes + kGuardPage);
}

// A pointer to the fiber in two halves, as makecontext wants it.
void Grid::enter(unsigned high, unsigned low) {
  auto* fiber = reinterpret_cast<Fiber*>(uint64_t{high} << 32 | low);
  state().grid.loop(*fiber);
}

void Grid::loop(Fiber& fiber) {
#ifdef LOCKSTEP_SANITIZED
  __sanitizer_finish_switch_fiber(nullptr, &caller_stack_, &caller_stack_bytes_);
#endif
  while (true) {
    while (next_ < order_.size()) {
      fiber.thread = order_[next_++];
      set_thread(fiber.thread);
      (*thread_)();
      ++left_;
    }
    idle_.push_back(&fiber);
    switch_back(fiber);
  }
}

void Grid::switch_to(Fiber& fiber) {
  current_ = &fiber;
#ifdef LOCKSTEP_SANITIZED
  void* fake_stack = nullptr;
  __sanitizer_start_switch_fiber(&fake_stack, fiber.stack, kStackBytes);
  swapcontext(&caller_, &fiber.context);
  __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
#else
  swapcontext(&caller_, &fiber.context);
#endif
}

void Grid::switch_back(Fiber& fiber) {
#ifdef LOCKSTEP_SANITIZED
  __sanitizer_start_switch_fiber(&fiber.fake_stack, caller_stack_, caller_stack_bytes_);
  swapcontext(&fiber.context, &caller_);
  __sanitizer_finish_switch_fiber(fiber.fake_stack, &caller_stack_, &caller_stack_bytes_);
#else
  swapcontext(&fiber.context, &caller_);
#endif
}

Grid::Fiber* Grid::idle_fiber() {
  if (!idle_.empty()) {
    Fiber* fiber = idle_.back();
    idle_.pop_back();
    return fiber;
  }
  auto fiber = std::make_unique<Fiber>();
  void* memory = mmap(nullptr, kStackBytes + kGuardPage, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  LOCKSTEP_CHECK(memory != MAP_FAILED && mprotect(memory, kGuardPage, PROT_NONE) == 0);
  fiber->stack = static_cast<std::byte*>(memory) + kGuardPage;
  LOCKSTEP_CHECK(getcontext(&fiber->context) == 0);
  fiber->context.uc_stack.ss_sp = fiber->stack;
  fiber->context.uc_stack.ss_size = kStackBytes;
  fiber->context.uc_link = nullptr;
  const auto address = reinterpret_cast<uint64_t>(fiber.get());
  makecontext(&fiber->context, reinterpret_cast<void (*)()>(&Grid::enter), 2,
              static_cast<unsigned>(address >> 32), static_cast<unsigned>(address));
  fibers_.push_back(std::move(fiber));
  return fibers_.back().get();
}

void Grid::barrier(const char*, unsigned line) {
  const auto known = std::find(barriers_.begin(), barriers_.end(), line);
  const int64_t place = known - barriers_.begin() + 1;
  if (known == barriers_.end()) barriers_.push_back(line);
  if (place == skipped_) return;
  Fiber& fiber = *current_;
  fiber.line = line;
  waiting_.push_back(&fiber);
  switch_back(fiber);
  fiber.line = 0;
  set_thread(fiber.thread);
}

void Grid::check_barrier(const std::vector<Fiber*>& waiting) const {
  if (left_ > 0) {
    violation(std::to_string(left_) + " threads of a block have ended and " +
              std::to_string(waiting.size()) + " wait at the barrier in line " +
              std::to_string(waiting[0]->line));
  }
  for (const Fiber* fiber : waiting) {
    if (fiber->line == waiting[0]->line) continue;
    violation("threads of a block wait at different barriers: " + std::to_string(fiber->thread) +
              " in line " + std::to_string(fiber->line) + ", " +
              std::to_string(waiting[0]->thread) + " in line " + std::to_string(waiting[0]->line));
  }
}

void Grid::run_block(unsigned block) {
  set_block(block);
  fill_shared_memory();
  shuffle(order_, &random_);
  next_ = 0;
  left_ = 0;
  waiting_.clear();
  while (next_ < order_.size()) switch_to(*idle_fiber());
  while (!waiting_.empty()) {
    check_barrier(waiting_);
    std::vector<Fiber*> resumed = std::exchange(waiting_, {});
    shuffle(resumed, &random_);
    for (Fiber* fiber : resumed) switch_to(*fiber);
  }
  LOCKSTEP_CHECK(left_ == shape_.threads);
}

void Grid::run(LaunchShape shape, const std::function<void()>& thread, uint64_t seed) {
  LOCKSTEP_CHECK(thread_ == nullptr);
  shape_ = shape;
  thread_ = &thread;
  random_ = seed;
  barriers_.clear();
  order_.resize(shape.threads);
  std::iota(order_.begin(), order_.end(), 0u);
  std::vector<unsigned> blocks(shape.blocks);
  std::iota(blocks.begin(), blocks.end(), 0u);
  shuffle(blocks, &random_);
  set_grid(shape.blocks, shape.threads);
  for (const unsigned block : blocks) run_block(block);
  thread_ = nullptr;
}

}  // namespace lockstep::emulated
