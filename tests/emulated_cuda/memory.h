// A stream and memory of the emulated GPU, for tests that call kernels by themselves.
#pragma once

#include <gtest/gtest.h>

#include <span>
#include <vector>

#include "cuda/handle.h"
#include "host/core/check.h"

namespace lockstep::emulated {

class TestGpu {
 public:
  TestGpu() {
    cudaStream_t stream = nullptr;
    LOCKSTEP_CHECK(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaSuccess);
    stream_ = StreamHandle(stream);
  }

  cudaStream_t stream() const { return stream_.get(); }

  // Memory for `count` elements that lies `offset` elements behind a boundary of 256 bytes.
  template <class T>
  T* allocate(size_t count, size_t offset = 0) {
    void* memory = nullptr;
    LOCKSTEP_CHECK(cudaMalloc(&memory, (count + offset) * sizeof(T)) == cudaSuccess);
    memory_.emplace_back(memory);
    return static_cast<T*>(memory) + offset;
  }
  template <class T>
  T* upload(const std::vector<T>& values, size_t offset = 0) {
    T* memory = allocate<T>(values.size() + 1, offset);
    copy(memory, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice);
    return memory;
  }
  // Waits.
  template <class T>
  std::vector<T> download(const T* memory, size_t count) {
    std::vector<T> values(count);
    copy(values.data(), memory, count * sizeof(T), cudaMemcpyDeviceToHost);
    return values;
  }
  void release() { memory_.clear(); }

 private:
  void copy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
    LOCKSTEP_CHECK(cudaMemcpyAsync(to, from, bytes, kind, stream()) == cudaSuccess);
    LOCKSTEP_CHECK(cudaStreamSynchronize(stream()) == cudaSuccess);
  }

  StreamHandle stream_;
  std::vector<MemoryHandle> memory_;
};

}  // namespace lockstep::emulated
