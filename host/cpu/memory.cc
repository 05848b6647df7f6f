#include "host/cpu/memory.h"

#include <sys/mman.h>

#include <cstdlib>
#include <cstring>

#include "host/core/check.h"

namespace lockstep::cpu {
namespace {

constexpr int64_t kHugePage = int64_t{2} << 20;

}  // namespace

void FreeMemory::operator()(float* memory) const { std::free(memory); }

Memory try_allocate(int64_t bytes) {
  LOCKSTEP_CHECK(bytes >= 0);
  const int64_t alignment = bytes >= kHugePage ? kHugePage : 64;
  const int64_t rounded = (bytes / alignment + 1) * alignment;
  void* memory = std::aligned_alloc(static_cast<size_t>(alignment), static_cast<size_t>(rounded));
  if (memory == nullptr) return nullptr;
  // Weights and gradients are streamed through: small pages would cost a TLB miss every 4 KB.
  if (alignment == kHugePage) madvise(memory, static_cast<size_t>(rounded), MADV_HUGEPAGE);
  std::memset(memory, 0, static_cast<size_t>(rounded));
  return Memory(static_cast<float*>(memory));
}

Memory allocate_floats(int64_t count) {
  Memory memory = try_allocate(count * static_cast<int64_t>(sizeof(float)));
  LOCKSTEP_CHECK(memory != nullptr);
  return memory;
}

}  // namespace lockstep::cpu
