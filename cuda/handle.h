// Owners of what CUDA hands out.
#pragma once

#include <cuda_runtime_api.h>

#include <utility>

#include "cuda/check.h"
#include "host/core/result.h"

namespace lockstep {

// Owns one handle, or none (T{}). The deleter is called with the handle and returns a status; a
// failure is logged, never thrown. Views of a handle are the plain type, by value.
template <class T, auto Deleter>
class Handle {
 public:
  Handle() = default;
  explicit Handle(T handle) : handle_(handle) {}
  Handle(Handle&& other) noexcept : handle_(std::exchange(other.handle_, T{})) {}
  Handle& operator=(Handle&& other) noexcept {
    std::swap(handle_, other.handle_);
    return *this;
  }
  ~Handle() {
    if (handle_ != T{}) log_cuda_failure(Deleter(handle_), "release of a handle");
  }

  T get() const { return handle_; }
  explicit operator bool() const { return handle_ != T{}; }

 private:
  T handle_{};
};

using StreamHandle = Handle<cudaStream_t, &cudaStreamDestroy>;
using EventHandle = Handle<cudaEvent_t, &cudaEventDestroy>;
using MemoryHandle = Handle<void*, &cudaFree>;
using HostMemoryHandle = Handle<void*, &cudaFreeHost>;
using GraphTemplateHandle = Handle<cudaGraph_t, &cudaGraphDestroy>;
using GraphHandle = Handle<cudaGraphExec_t, &cudaGraphExecDestroy>;

// For order, not for time. On the calling thread's current GPU.
inline Result<EventHandle> make_event() {
  cudaEvent_t event = nullptr;
  LOCKSTEP_CUDA_CHECK(cudaEventCreateWithFlags(&event, cudaEventDisableTiming));
  return EventHandle(event);
}

}  // namespace lockstep
