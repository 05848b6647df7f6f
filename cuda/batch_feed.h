// The way of batches into a GPU's memory. Rows are gathered right into pinned memory by the thread
// that loads them (pinned()), and start() lets them cross on a stream of their own while the step
// before is under way. What a Program reads lies at one place, since its launches are recorded:
// Staging, which takes the rows over by a copy within the GPU.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <memory_resource>
#include <mutex>
#include <span>
#include <vector>

#include "cuda/device_info.h"
#include "cuda/handle.h"
#include "cuda/kernels_general.h"
#include "cuda/memory_pool.h"
#include "host/core/result.h"
#include "host/device/device.h"

namespace lockstep {

// A batch in the device's memory.
struct StagedBatch {
  const RunParameters* parameters = nullptr;
  const int32_t* labels = nullptr;
  const uint32_t* positions = nullptr;
  const float* inputs = nullptr;   // rows x features
  const float* targets = nullptr;  // rows x target_features
  const float* weights = nullptr;  // rows x weight_columns
  int64_t features = 0, target_features = 0, weight_columns = 1;
};

// Pinned memory of the host in blocks, which are kept and given out again: pinning takes longer
// than a step. Plain memory where it can't be pinned. Any thread.
class PinnedBlocks final : public std::pmr::memory_resource {
 public:
  explicit PinnedBlocks(int device) : device_(device) {}
  // Whether the address is of a block.
  bool holds(const void* address) const;

 private:
  void* do_allocate(size_t bytes, size_t alignment) override;
  void do_deallocate(void* memory, size_t bytes, size_t alignment) override;
  bool do_is_equal(const std::pmr::memory_resource& other) const noexcept override {
    return this == &other;
  }

  struct Block {
    size_t bytes = 0;
    HostMemoryHandle pinned;
    std::unique_ptr<std::byte[]> plain;  // where it could not be pinned
  };
  Block make(size_t bytes) const;

  const int device_;
  mutable std::mutex mutex_;
  std::map<const std::byte*, Block> blocks_;
  std::multimap<size_t, std::byte*> free_;  // by size
};

// A batch that crosses, or has crossed. Its end waits until the rows have been read.
class FedBatch final : public BatchCopy {
 public:
  explicit FedBatch(cudaStream_t stream) : stream_(stream) {}
  ~FedBatch() override;
  // What its end does, for those who can tell somebody what went wrong: waits, and lets the memory
  // be given back after it has been read. Nothing may take the batch after that.
  Status finish();

 private:
  friend class BatchFeed;
  friend class Staging;
  Status send(const HostBatch& batch, PinnedBlocks* pinned);
  template <class T>
  Status send(const T* to, const T* from, size_t count, PinnedBlocks* pinned);

  const cudaStream_t stream_;                       // the feed's
  std::vector<std::pmr::vector<std::byte>> loose_;  // of rows that were not in pinned memory
  int64_t bytes_ = 0;
  PooledMemory memory_;
  EventHandle crossed_;           // on stream_, once the rows are sent
  EventHandle taken_;             // on another: the last read of memory_, if any
  cudaStream_t taker_ = nullptr;  // that other stream
  bool was_sent_ = false, was_taken_ = false, is_finished_ = false;
};

// Of one GPU. Outlives its batches. Any thread.
class BatchFeed {
 public:
  // The GPU is the calling thread's current one.
  static Result<std::unique_ptr<BatchFeed>> create(const GpuInfo& gpu);
  ~BatchFeed();

  std::pmr::memory_resource* pinned() { return &pinned_; }
  const MemoryPool& pool() const { return pool_; }
  // What the pool doesn't need goes back to the GPU; waits for the batches under way.
  Status give_back() const;
  // Lets the batch cross: the rows of one whose arrays lie in pinned() from there.
  Result<std::unique_ptr<FedBatch>> start(const HostBatch& batch);

 private:
  BatchFeed(const GpuInfo& gpu, MemoryPool pool)
      : gpu_(gpu), pool_(std::move(pool)), pinned_(gpu.index) {}

  const GpuInfo gpu_;
  MemoryPool pool_;
  PinnedBlocks pinned_;
  StreamHandle stream_;
};

// Where the ops of a Program read their batch.
class Staging {
 public:
  // For batches of this one's sizes.
  static Result<std::unique_ptr<Staging>> create(const GpuInfo& gpu, const HostBatch& batch);
  // Takes over, on `stream`, the batch that crosses, with the run's parameters.
  Status take(const RunContext& context, FedBatch* fed, cudaStream_t stream);
  const StagedBatch& on_device() const { return on_device_; }

 private:
  Staging() = default;

  int rows_ = 0;
  int64_t bytes_ = 0;
  HostMemoryHandle parameters_;
  MemoryHandle device_;
  EventHandle sent_;  // the parameters
  StagedBatch on_device_;
};

}  // namespace lockstep
