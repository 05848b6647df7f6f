#include "host/cpu/memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "host/core/check.h"

namespace lockstep::cpu {
namespace {

constexpr int64_t kHugePage = int64_t{2} << 20;
constexpr int64_t kCacheLine = 64;

}  // namespace

void FreeMemory::operator()(float* memory) const {
  if (mapped_bytes > 0) {
    munmap(memory, static_cast<size_t>(mapped_bytes));
  } else {
    std::free(memory);
  }
}

int64_t allocated_bytes(int64_t bytes) {
  LOCKSTEP_CHECK(bytes >= 0);
  const int64_t alignment = bytes >= kHugePage ? kHugePage : kCacheLine;
  return std::max(kCacheLine, (bytes + alignment - 1) / alignment * alignment);
}

namespace {

// Whole huge pages of our own: weights and gradients are streamed through, small pages would cost a
// TLB miss every 4 KB, and the heap would keep what is freed.
Memory map_huge(int64_t bytes) {
  const auto wanted = static_cast<size_t>(bytes + kHugePage);
  void* address = mmap(nullptr, wanted, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (address == MAP_FAILED) return nullptr;
  const auto begin = reinterpret_cast<uintptr_t>(address);
  const auto page = static_cast<uintptr_t>(kHugePage);
  const uintptr_t aligned = (begin + page - 1) / page * page;
  const size_t before = aligned - begin;
  const size_t after = wanted - before - static_cast<size_t>(bytes);
  if (before > 0) munmap(address, before);
  if (after > 0) munmap(reinterpret_cast<void*>(aligned + static_cast<size_t>(bytes)), after);
  void* memory = reinterpret_cast<void*>(aligned);
  madvise(memory, static_cast<size_t>(bytes), MADV_HUGEPAGE);
  return Memory(static_cast<float*>(memory), FreeMemory{bytes});
}

}  // namespace

Memory try_allocate(int64_t bytes) {
  const int64_t rounded = allocated_bytes(bytes);
  if (rounded >= kHugePage) return map_huge(rounded);
  void* memory = std::aligned_alloc(kCacheLine, static_cast<size_t>(rounded));
  if (memory == nullptr) return nullptr;
  std::memset(memory, 0, static_cast<size_t>(rounded));
  return Memory(static_cast<float*>(memory));
}

Memory allocate_floats(int64_t count) {
  Memory memory = try_allocate(count * static_cast<int64_t>(sizeof(float)));
  LOCKSTEP_CHECK(memory != nullptr);
  return memory;
}

}  // namespace lockstep::cpu
