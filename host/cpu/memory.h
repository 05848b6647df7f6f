// Aligned float memory: device buffers and the kernels' workspaces.
#pragma once

#include <cstdint>
#include <memory>

namespace lockstep::cpu {

struct FreeMemory {
  int64_t mapped_bytes = 0;  // 0: from the heap
  void operator()(float* memory) const;
};
using Memory = std::unique_ptr<float[], FreeMemory>;

// What an allocation really takes: large ones are whole huge pages.
int64_t allocated_bytes(int64_t bytes);

// Zeroed, on huge pages where large, aligned to 64 bytes; null where there is none left.
Memory try_allocate(int64_t bytes);

// What a prepared op keeps for itself. What it needs only while it runs is `RunContext::work`.
Memory allocate_floats(int64_t count);

}  // namespace lockstep::cpu
