#include "cuda/memory_pool.h"

#include <fmt/format.h>

namespace lockstep {

PooledMemory::~PooledMemory() {
  if (memory_ == nullptr) return;
  if (stream_ == nullptr) {
    log_cuda_failure(cudaFree(memory_), "cudaFree(memory)");
  } else {
    log_cuda_failure(cudaFreeAsync(memory_, stream_), "cudaFreeAsync(memory, stream)");
  }
}

Result<MemoryPool> MemoryPool::create(const GpuInfo& gpu) {
  MemoryPool result(gpu);
  int supported = 0;
  LOCKSTEP_CUDA_CHECK(
      cudaDeviceGetAttribute(&supported, cudaDevAttrMemoryPoolsSupported, gpu.index));
  if (supported == 0) return result;
  cudaMemPoolProps properties{};
  properties.allocType = cudaMemAllocationTypePinned;  // of the device: memory that stays in place
  properties.location.type = cudaMemLocationTypeDevice;
  properties.location.id = gpu.index;
  cudaMemPool_t pool = nullptr;
  LOCKSTEP_CUDA_CHECK(cudaMemPoolCreate(&pool, &properties));
  result.pool_ = PoolHandle(pool);
  // Else every wait for a stream would give back what the next step takes again.
  uint64_t threshold = UINT64_MAX;
  LOCKSTEP_CUDA_CHECK(cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &threshold));
  return result;
}

Result<PooledMemory> MemoryPool::allocate(int64_t bytes, cudaStream_t stream) const {
  void* memory = nullptr;
  const auto size = static_cast<size_t>(bytes);
  const Status status =
      pool_ ? LOCKSTEP_CUDA_STATUS(cudaMallocFromPoolAsync(&memory, size, pool_.get(), stream))
            : LOCKSTEP_CUDA_STATUS(cudaMalloc(&memory, size));
  if (!status.ok()) return out_of_memory(gpu_, bytes, unused_bytes(), status.error());
  return PooledMemory(memory, pool_ ? stream : nullptr);
}

int64_t MemoryPool::unused_bytes() const {
  if (!pool_) return 0;
  uint64_t reserved = 0;
  uint64_t used = 0;
  const auto ask = [&](cudaMemPoolAttr attribute, uint64_t* bytes) {
    return LOCKSTEP_CUDA_STATUS(cudaMemPoolGetAttribute(pool_.get(), attribute, bytes)).ok();
  };
  const bool asked = ask(cudaMemPoolAttrReservedMemCurrent, &reserved) &&
                     ask(cudaMemPoolAttrUsedMemCurrent, &used);
  return asked && used <= reserved ? static_cast<int64_t>(reserved - used) : 0;
}

Status MemoryPool::trim() const {
  if (!pool_) return {};
  return LOCKSTEP_CUDA_STATUS(cudaMemPoolTrimTo(pool_.get(), 0));
}

Error out_of_memory(const GpuInfo& gpu, int64_t bytes, int64_t unused_bytes, const Error& error) {
  size_t free_bytes = 0;
  size_t total_bytes = 0;
  log_cuda_failure(cudaMemGetInfo(&free_bytes, &total_bytes), "cudaMemGetInfo");
  constexpr double kMib = 1 << 20;
  return {fmt::format("cannot allocate {:.1f} MiB on {}: {:.1f} of {:.1f} MiB are free; use a "
                      "smaller batch, more GPUs, or end what else runs there ({})",
                      static_cast<double>(bytes) / kMib, describe_gpu(gpu),
                      (static_cast<double>(free_bytes) + static_cast<double>(unused_bytes)) / kMib,
                      static_cast<double>(total_bytes) / kMib, error.message),
          error.kind};
}

}  // namespace lockstep
