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
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

extern "C" {
// The linker's, of launch.h's __shared__; absent where no kernel has any.
extern __attribute__((weak)) char __start_emulated_shared[];
extern __attribute__((weak)) char __stop_emulated_shared[];
}

// Keeps what a call preserves on this stack, whose end goes to *from, and goes on where the other
// stack was left. swapcontext would ask the kernel for the signals' mask each time, and the address
// sanitizer's clears what it knows of the whole stack.
extern "C" void lockstep_switch_stack(void** from, void* to);
asm(R"(
.text
.type lockstep_switch_stack, @function
lockstep_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size lockstep_switch_stack, . - lockstep_switch_stack
)");

namespace lockstep::emulated {
namespace {

constexpr size_t kStackBytes = size_t{256} << 10;
constexpr size_t kKeptWords = 6;  // by lockstep_switch_stack, below the address to return to
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
  for (const auto& fiber : fibers_) {
#ifdef LOCKSTEP_SANITIZED  // its threads have not returned
    ASAN_UNPOISON_MEMORY_REGION(fiber->stack, kStackBytes);
#endif
    munmap(fiber->stack - kGuardPage, kStackBytes + kGuardPage);
  }
}

void Grid::enter() {
  Grid& grid = state().grid;
  grid.loop(*grid.current_);
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
  lockstep_switch_stack(&caller_, fiber.top);
  __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
#else
  lockstep_switch_stack(&caller_, fiber.top);
#endif
}

void Grid::switch_back(Fiber& fiber) {
#ifdef LOCKSTEP_SANITIZED
  __sanitizer_start_switch_fiber(&fiber.fake_stack, caller_stack_, caller_stack_bytes_);
  lockstep_switch_stack(&fiber.top, caller_);
  __sanitizer_finish_switch_fiber(fiber.fake_stack, &caller_stack_, &caller_stack_bytes_);
#else
  lockstep_switch_stack(&fiber.top, caller_);
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
  // As if `enter` had been called from where nothing is, and had been left at once.
  auto* top = reinterpret_cast<void**>(fiber->stack + kStackBytes) - 2;
  *top = reinterpret_cast<void*>(&Grid::enter);
  fiber->top = top - kKeptWords;
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
