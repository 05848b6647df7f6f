// Memory and copies of the runtime API.
#include <sys/mman.h>

#include <cstring>
#include <utility>

#include "tests/emulated_cuda/state.h"

namespace lockstep::emulated {
namespace {

const char* kind_name(cudaMemcpyKind kind) {
  switch (kind) {
    case cudaMemcpyHostToHost:
      return "host to host";
    case cudaMemcpyHostToDevice:
      return "host to device";
    case cudaMemcpyDeviceToHost:
      return "device to host";
    case cudaMemcpyDeviceToDevice:
      return "device to device";
    default:
      return "default";
  }
}

// The pinned block that holds the address, perhaps freed; nullptr: none.
const HostBlock* pinned_block(const void* address) {
  const auto* at = static_cast<const std::byte*>(address);
  auto found = state().host.upper_bound(at);
  if (found == state().host.begin()) return nullptr;
  --found;
  return at < found->second.data + found->second.bytes ? &found->second : nullptr;
}

void check_pinned(const void* address, size_t bytes, const std::string& what) {
  const HostBlock* block = pinned_block(address);
  if (block == nullptr) return;
  if (block->freed) violation(what + ": pinned memory that was freed while the work was queued");
  const auto* at = static_cast<const std::byte*>(address);
  if (at + bytes > block->data + block->bytes) violation(what + ": past the end of pinned memory");
}

// The side's device, -1: the host. Names what doesn't fit the kind.
int side_of(const void* address, size_t bytes, bool on_device, const std::string& what) {
  const int device = state().device_of(address);
  if (on_device && device < 0) violation(what + ": a host pointer where the device's belongs");
  if (!on_device && device >= 0) violation(what + ": a device pointer where the host's belongs");
  if (device >= 0) {
    check_device_memory(address, bytes, device, what);
  } else {
    check_pinned(address, bytes, what);
  }
  return device;
}

struct Copy {
  void* to = nullptr;
  const void* from = nullptr;
  size_t bytes = 0;
  cudaMemcpyKind kind = cudaMemcpyDefault;

  std::string name(const char* call) const {
    return std::string(call) + " (" + kind_name(kind) + ", " + std::to_string(bytes) + " bytes)";
  }
  // Also at the time of the copy: memory may be gone by then.
  std::vector<int> check(const std::string& what) const {
    std::vector<int> devices;
    const bool to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
    const bool from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
    const int target = side_of(to, bytes, to_device, what);
    const int source = side_of(from, bytes, from_device, what);
    if (target >= 0) devices.push_back(target);
    if (source >= 0 && source != target) devices.push_back(source);
    const auto* a = static_cast<const std::byte*>(from);
    const auto* b = static_cast<const std::byte*>(to);
    if (a < b + bytes && b < a + bytes) violation(what + ": the two sides overlap");
    return devices;
  }
  void run(const std::string& what) const {
    check(what);
    std::memcpy(to, from, bytes);
  }
};

cudaError_t submit_copy(const char* call, const Copy& copy, cudaStream_t stream) {
  if (copy.bytes == 0) return cudaSuccess;
  const std::string name = copy.name(call);
  if (copy.kind == cudaMemcpyDefault) violation(name + ": say which kind");
  const std::vector<int> devices = copy.check(name);
  const bool on_host = copy.kind != cudaMemcpyDeviceToDevice;
  const void* host = copy.kind == cudaMemcpyHostToDevice ? copy.from : copy.to;
  if (on_host && stream_of(stream, call).capture != nullptr && pinned_block(host) == nullptr) {
    violation(name + ": pageable memory in a capture");
  }
  return submit(stream, {name, devices, [copy, name] { copy.run(name); }});
}

cudaError_t allocate(void** pointer, size_t bytes) {
  *pointer = nullptr;
  if (bytes == 0) return cudaSuccess;
  Arena& arena = *state().arenas[static_cast<size_t>(current_device())];
  *pointer = arena.allocate(bytes);
  return *pointer == nullptr ? cudaErrorMemoryAllocation : cudaSuccess;
}

void free_device_memory(void* pointer, const char* call) {
  const int device = state().device_of(pointer);
  if (device < 0) violation(std::string(call) + ": a host pointer where the device's belongs");
  Arena& arena = *state().arenas[static_cast<size_t>(device)];
  const Allocation* allocation = arena.find(pointer);
  if (allocation != nullptr && allocation->pool != nullptr) {
    violation(std::string(call) + ": memory of a pool: not emulated");
  }
  if (!arena.free(pointer)) violation(std::string(call) + ": " + arena.describe(pointer));
}

// Whether a capture that forbids it is under way.
bool capture_forbids(const char*) {
  for (const auto& [handle, stream] : state().streams) {
    if (stream->capture == nullptr) continue;
    if (stream->capture->mode == cudaStreamCaptureModeRelaxed) continue;
    stream->capture->invalid = true;
    return true;
  }
  return false;
}

}  // namespace

void check_device_memory(const void* address, size_t bytes, int device, const std::string& what) {
  const int found = state().device_of(address);
  if (found < 0) violation(what + ": a host pointer where the device's belongs");
  const Arena& arena = *state().arenas[static_cast<size_t>(found)];
  if (found != device) {
    violation(what + " on GPU " + std::to_string(device) + ": memory of GPU " +
              std::to_string(found));
  }
  if (arena.holds(address, bytes)) return;
  const auto* last = static_cast<const std::byte*>(address) + bytes - 1;
  violation(what + ": " + std::to_string(bytes) + " bytes from " + arena.describe(address) +
            " to " + arena.describe(last));
}

}  // namespace lockstep::emulated

using namespace lockstep::emulated;  // in the functions that CUDA declares

cudaError_t cudaMalloc(void** pointer, size_t bytes) {
  const Call call("cudaMalloc");
  if (call.fails()) return call.failure(cudaErrorMemoryAllocation);
  if (capture_forbids("cudaMalloc")) return call.result(cudaErrorStreamCaptureUnsupported);
  return call.result(allocate(pointer, bytes));
}

cudaError_t cudaFree(void* pointer) {
  const Call call("cudaFree");
  if (pointer == nullptr) return cudaSuccess;
  if (capture_forbids("cudaFree")) return call.result(cudaErrorStreamCaptureUnsupported);
  State& s = state();
  if (s.options.free_waits && s.device_of(pointer) >= 0) s.run_device(s.device_of(pointer));
  free_device_memory(pointer, "cudaFree");
  return call.chosen() ? call.failure(cudaErrorUnknown) : cudaSuccess;
}

cudaError_t cudaMallocHost(void** pointer, size_t bytes) {
  const Call call("cudaMallocHost");
  *pointer = nullptr;
  if (call.fails()) return call.failure(cudaErrorMemoryAllocation);
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return call.result(cudaErrorMemoryAllocation);
  std::memset(memory, 0xFF, bytes);
  const auto* key = static_cast<std::byte*>(memory);
  state().host[key] = {static_cast<std::byte*>(memory), bytes, false};
  *pointer = memory;
  return cudaSuccess;
}

cudaError_t cudaHostAlloc(void** pointer, size_t bytes, unsigned int) {
  return cudaMallocHost(pointer, bytes);
}

cudaError_t cudaFreeHost(void* pointer) {
  const Call call("cudaFreeHost");
  if (pointer == nullptr) return cudaSuccess;
  State& s = state();
  const auto found = s.host.find(static_cast<std::byte*>(pointer));
  if (found == s.host.end() || found->second.freed) {
    violation("cudaFreeHost: no pinned memory begins there");
  }
  if (s.options.free_waits) {
    for (int device = 0; device < s.options.devices; ++device) s.run_device(device);
  }
  found->second.freed = true;
  mprotect(pointer, found->second.bytes, PROT_NONE);  // the address stays known as freed
  return call.chosen() ? call.failure(cudaErrorUnknown) : cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t* free_bytes, size_t* total_bytes) {
  const Call call("cudaMemGetInfo");
  if (call.fails()) return call.failure(cudaErrorUnknown);
  const auto device = static_cast<size_t>(current_device());
  *free_bytes = static_cast<size_t>(state().arenas[device]->free_bytes());
  *total_bytes = static_cast<size_t>(state().options.memory_bytes);
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream) {
  const Call call("cudaMemcpyAsync");
  if (call.fails()) return call.failure(cudaErrorUnknown);
  return call.result(submit_copy("cudaMemcpyAsync", {to, from, bytes, kind}, stream));
}

cudaError_t cudaMemcpyPeerAsync(void* to, int to_device, const void* from, int from_device,
                                size_t bytes, cudaStream_t stream) {
  const Call call("cudaMemcpyPeerAsync");
  if (call.fails()) return call.failure(cudaErrorUnknown);
  if (bytes == 0) return cudaSuccess;
  check_device_memory(to, bytes, to_device, "cudaMemcpyPeerAsync");
  check_device_memory(from, bytes, from_device, "cudaMemcpyPeerAsync");
  return call.result(
      submit_copy("cudaMemcpyPeerAsync", {to, from, bytes, cudaMemcpyDeviceToDevice}, stream));
}

cudaError_t cudaMemsetAsync(void* memory, int value, size_t bytes, cudaStream_t stream) {
  const Call call("cudaMemsetAsync");
  if (call.fails()) return call.failure(cudaErrorUnknown);
  if (bytes == 0) return cudaSuccess;
  const int device = stream_of(stream, "cudaMemsetAsync").device;
  check_device_memory(memory, bytes, device, "cudaMemsetAsync");
  return call.result(submit(stream, {"cudaMemsetAsync", {device}, [=] {
                                       check_device_memory(memory, bytes, device,
                                                           "cudaMemsetAsync");
                                       std::memset(memory, value, bytes);
                                     }}));
}

// Of the legacy stream, for which streams that don't block it don't wait.
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  const Call call("cudaMemcpy");
  if (call.fails()) return call.failure(cudaErrorUnknown);
  if (bytes == 0) return cudaSuccess;
  const Copy copy{to, from, bytes, kind};
  const std::string name = copy.name("cudaMemcpy");
  const std::vector<int> devices = copy.check(name);
  State& s = state();
  const NodePtr node = s.enqueue({name, devices, [copy, name] { copy.run(name); }}, 0, {});
  s.run_until_done(node);
  return cudaSuccess;
}
