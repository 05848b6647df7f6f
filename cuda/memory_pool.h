// Device memory that comes and goes with the work: taken and given back in the order of a stream,
// so that neither waits for the GPU.
//
// What lives as long as a Program or a device is of cudaMalloc: it is taken once, and NCCL, which
// reads the memory of the other GPUs of its process directly, can't do that with a pool's unless
// the pool is opened to each of them.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <utility>

#include "cuda/device_info.h"
#include "cuda/handle.h"
#include "host/core/result.h"

namespace lockstep {

// Owns memory of a pool; gives it back in the order of its stream. Where the GPU has no pools, of
// cudaMalloc.
class PooledMemory {
 public:
  PooledMemory() = default;
  // `stream`: nullptr where `memory` is of cudaMalloc.
  PooledMemory(void* memory, cudaStream_t stream) : memory_(memory), stream_(stream) {}
  PooledMemory(PooledMemory&& other) noexcept
      : memory_(std::exchange(other.memory_, nullptr)), stream_(other.stream_) {}
  PooledMemory& operator=(PooledMemory&& other) noexcept {
    std::swap(memory_, other.memory_);
    std::swap(stream_, other.stream_);
    return *this;
  }
  ~PooledMemory();

  void* get() const { return memory_; }

 private:
  void* memory_ = nullptr;
  cudaStream_t stream_ = nullptr;
};

using PoolHandle = Handle<cudaMemPool_t, &cudaMemPoolDestroy>;

// One GPU's. It keeps what is given back, and other processes don't get that before trim() or its
// end. Outlives its memory. Any thread.
class MemoryPool {
 public:
  // `gpu` is the calling thread's current one.
  static Result<MemoryPool> create(const GpuInfo& gpu);

  // To be used on `stream`, and on others after an event of it; not while it is captured.
  Result<PooledMemory> allocate(int64_t bytes, cudaStream_t stream) const;
  // Kept, and not in use: an allocation of cudaMalloc gets it after trim().
  int64_t unused_bytes() const;
  // Gives all of that back to the driver.
  Status trim() const;

 private:
  explicit MemoryPool(const GpuInfo& gpu) : gpu_(gpu) {}

  GpuInfo gpu_;
  PoolHandle pool_;  // none where the GPU has no pools
};

// "cannot allocate 200.0 MiB on GPU 0: ...: 91.2 of 600.0 MiB are free; ...". `unused_bytes`: free
// beside what the driver says. `error`: of the call that failed.
Error out_of_memory(const GpuInfo& gpu, int64_t bytes, int64_t unused_bytes, const Error& error);

}  // namespace lockstep
