// Stream-ordered memory pools of the runtime API.
//
// An allocation is there once its stream has come to it, and gone once the stream of cudaFreeAsync
// has come to that: a stream that isn't ordered after the one and before the other finds no memory.
// Not emulated: pools' own captures and graphs, access by other GPUs (NCCL needs it, and is refused
// the memory), sharing between processes.
#include <algorithm>

#include "tests/emulated_cuda/state.h"

namespace lockstep::emulated {
namespace {

Pool& pool_of(cudaMemPool_t handle, const char* call) {
  const auto found = state().pools.find(handle);
  if (found == state().pools.end()) violation(std::string(call) + ": no pool");
  if (found->second->destroyed) violation(std::string(call) + ": the pool is destroyed");
  return *found->second;
}

Arena& arena_of(const Pool& pool) { return *state().arenas[static_cast<size_t>(pool.device)]; }

void shrink(Pool* pool, int64_t keep) {
  const int64_t reserved = std::min(pool->reserved, std::max(pool->used, keep));
  arena_of(*pool).give(pool->reserved - reserved);
  pool->reserved = reserved;
}

// Room for so many bytes more: of what the pool holds unused, else the GPU's.
bool make_room(Pool* pool, int64_t bytes) {
  const int64_t missing = pool->used + bytes - pool->reserved;
  if (missing <= 0) return true;
  if (!arena_of(*pool).take(missing)) return false;
  pool->reserved += missing;
  return true;
}

void refuse_capture(cudaStream_t stream, const char* call) {
  if (stream_of(stream, call).capture == nullptr) return;
  violation(std::string(call) + " in a capture: not emulated");
}

// When the stream comes to it.
void give_back(void* memory, const void* handle) {
  Pool& pool = *state().pools.at(handle);
  Arena& arena = arena_of(pool);
  const Allocation* allocation = arena.find(memory);
  if (allocation == nullptr || !allocation->there) {
    violation("cudaFreeAsync: memory that its stream has not come to yet: " +
              arena.describe(memory));
  }
  pool.used -= static_cast<int64_t>(allocation->bytes);
  arena.free(memory);
  if (pool.destroyed) shrink(&pool, 0);
}

}  // namespace

void shrink_pools(int device) {
  for (const auto& [handle, pool] : state().pools) {
    if (pool->device == device) shrink(pool.get(), pool->threshold);
  }
}

}  // namespace lockstep::emulated

using namespace lockstep::emulated;  // in the functions that CUDA declares

cudaError_t cudaMemPoolCreate(cudaMemPool_t* handle, const cudaMemPoolProps* properties) {
  const Call call("cudaMemPoolCreate");
  if (call.fails()) return call.failure(cudaErrorMemoryAllocation);
  State& s = state();
  if (!s.options.memory_pools) return call.result(cudaErrorNotSupported);
  const int device = properties->location.id;
  if (properties->allocType != cudaMemAllocationTypePinned ||
      properties->location.type != cudaMemLocationTypeDevice || device < 0 ||
      device >= s.options.devices) {
    return call.result(cudaErrorInvalidValue);
  }
  auto pool = std::make_unique<Pool>();
  pool->device = device;
  *handle = reinterpret_cast<cudaMemPool_t>(pool.get());
  s.pools[*handle] = std::move(pool);
  return cudaSuccess;
}

cudaError_t cudaMemPoolDestroy(cudaMemPool_t handle) {
  const Call call("cudaMemPoolDestroy");
  Pool& pool = pool_of(handle, "cudaMemPoolDestroy");
  pool.destroyed = true;
  shrink(&pool, 0);
  return call.chosen() ? call.failure(cudaErrorUnknown) : cudaSuccess;
}

cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t handle, cudaMemPoolAttr attribute, void* value) {
  const Call call("cudaMemPoolSetAttribute");
  if (call.fails()) return call.failure(cudaErrorUnknown);
  Pool& pool = pool_of(handle, "cudaMemPoolSetAttribute");
  if (attribute != cudaMemPoolAttrReleaseThreshold) violation("an attribute that isn't emulated");
  pool.threshold =
      static_cast<int64_t>(std::min<uint64_t>(*static_cast<uint64_t*>(value), INT64_MAX));
  return cudaSuccess;
}

cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t handle, cudaMemPoolAttr attribute, void* value) {
  const Call call("cudaMemPoolGetAttribute");
  if (call.fails()) return call.failure(cudaErrorUnknown);
  const Pool& pool = pool_of(handle, "cudaMemPoolGetAttribute");
  auto* bytes = static_cast<uint64_t*>(value);
  if (attribute == cudaMemPoolAttrReservedMemCurrent) {
    *bytes = static_cast<uint64_t>(pool.reserved);
  } else if (attribute == cudaMemPoolAttrUsedMemCurrent) {
    *bytes = static_cast<uint64_t>(pool.used);
  } else {
    violation("cudaMemPoolGetAttribute: an attribute that isn't emulated");
  }
  return cudaSuccess;
}

cudaError_t cudaMemPoolTrimTo(cudaMemPool_t handle, size_t keep) {
  const Call call("cudaMemPoolTrimTo");
  if (call.fails()) return call.failure(cudaErrorUnknown);
  shrink(&pool_of(handle, "cudaMemPoolTrimTo"), static_cast<int64_t>(keep));
  return cudaSuccess;
}

cudaError_t cudaMallocFromPoolAsync(void** pointer, size_t bytes, cudaMemPool_t handle,
                                    cudaStream_t stream) {
  constexpr const char* kName = "cudaMallocFromPoolAsync";
  const Call call(kName);
  *pointer = nullptr;
  if (call.fails()) return call.failure(cudaErrorMemoryAllocation);
  Pool& pool = pool_of(handle, kName);
  refuse_capture(stream, kName);
  if (bytes == 0 || stream_of(stream, kName).device != pool.device) {
    return call.result(cudaErrorInvalidValue);
  }
  const auto size = static_cast<int64_t>(bytes);
  if (!make_room(&pool, size)) {
    state().run_device(pool.device);  // what is given back on the way, the driver waits for
    if (!make_room(&pool, size)) return call.result(cudaErrorMemoryAllocation);
  }
  pool.used += size;
  Arena& arena = arena_of(pool);
  void* memory = arena.allocate_later(bytes, handle);
  *pointer = memory;
  return call.result(
      submit(stream, {kName, {pool.device}, [&arena, memory] { arena.arrive(memory); }}));
}

cudaError_t cudaFreeAsync(void* memory, cudaStream_t stream) {
  constexpr const char* kName = "cudaFreeAsync";
  const Call call(kName);
  if (memory == nullptr) return cudaSuccess;
  State& s = state();
  const int device = s.device_of(memory);
  check_device_memory(memory, 1, device, kName);
  refuse_capture(stream, kName);
  Arena& arena = *s.arenas[static_cast<size_t>(device)];
  const void* pool = arena.leave(memory);
  if (pool == nullptr) violation(std::string(kName) + ": memory of cudaMalloc: not emulated");
  const auto work = [memory, pool] { give_back(memory, pool); };
  cudaError_t error = cudaSuccess;
  if (s.shows(Bug::early_free)) {
    arena.open();
    work();
    s.close_arenas();
  } else {
    error = submit(stream, {kName, {device}, work});
  }
  return call.chosen() ? call.failure(cudaErrorUnknown) : call.result(error);
}
