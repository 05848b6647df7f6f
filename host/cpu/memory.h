// Aligned float memory: device buffers and the kernels' workspaces.
#pragma once

#include <algorithm>
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

// For workspaces of a prepared op.
Memory allocate_floats(int64_t count);

// Scratch that a device's ops share: they run one after another, and none leaves anything in it for
// later.
class Workspace {
 public:
  // Room for `count` floats from the next run on.
  void reserve(int64_t count) { wanted_ = std::max(wanted_, count); }
  // Stays where it is until the next run. Taken when it is first asked for: each op of many asks
  // for a little more.
  float* data();

 private:
  Memory memory_;
  int64_t count_ = 0;
  int64_t wanted_ = 0;
};

}  // namespace lockstep::cpu
