// Small kernels of tests, some of them wrong on purpose.
#pragma once

#include "tests/emulated_cuda/launch.h"
//
#include "cuda/grid.h"

namespace lockstep::emulated {

inline constexpr unsigned kToyThreads = 64;

// out[b] = the sum of the block's 64 values, by a tree in shared memory.
template <bool kForgetsBarrier>
__global__ void tree_kernel(const float* in, float* out) {
  __shared__ float sums[kToyThreads];
  sums[threadIdx.x] = in[blockIdx.x * kToyThreads + threadIdx.x];
  for (unsigned half = kToyThreads / 2; half > 0; half /= 2) {
    if (!kForgetsBarrier || half != 8) __syncthreads();
    if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
  }
  if (threadIdx.x == 0) out[blockIdx.x] = sums[0];
}

// Half of the threads wait at another barrier.
__global__ inline void diverging_kernel(float* out) {
  if (threadIdx.x % 2 == 0) {
    __syncthreads();
  } else {
    __syncthreads();
  }
  out[threadIdx.x] = 1;
}

// Half of the threads don't wait.
__global__ inline void leaving_kernel(float* out) {
  if (threadIdx.x % 2 == 0) return;
  __syncthreads();
  out[threadIdx.x] = 1;
}

// Every thread writes the same element.
__global__ inline void racing_kernel(float* out) { *out = static_cast<float>(threadIdx.x); }

__global__ inline void store_kernel(float* out, int64_t at) { out[at] = 1; }

// Four floats at once.
__global__ inline void vector_kernel(float* out) { store(out + kVector, load<kVector>(out)); }

}  // namespace lockstep::emulated
