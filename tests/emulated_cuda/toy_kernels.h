// Small kernels of tests, some of them wrong on purpose.
#pragma once

#include "tests/emulated_cuda/launch.h"
//
#include "cuda/bf16.h"
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

// Casts to bfloat16 that are wrong each in a way of its own.
__global__ inline void truncating_cast(const float* in, int64_t count, Bf16* out) {
  for (int64_t i = thread_index(); i < count; i += thread_count()) {
    const bool is_nan = in[i] != in[i];
    out[i].bits = is_nan ? to_bf16(in[i]).bits
                         : static_cast<uint16_t>(__builtin_bit_cast(uint32_t, in[i]) >> 16);
  }
}
__global__ inline void half_up_cast(const float* in, int64_t count, Bf16* out) {
  for (int64_t i = thread_index(); i < count; i += thread_count()) {
    const auto bits = __builtin_bit_cast(uint32_t, in[i]);
    const bool is_nan = in[i] != in[i];
    out[i].bits = is_nan ? to_bf16(in[i]).bits : static_cast<uint16_t>((bits + 0x8000u) >> 16);
  }
}
__global__ inline void nan_losing_cast(const float* in, int64_t count, Bf16* out) {
  for (int64_t i = thread_index(); i < count; i += thread_count()) {
    const auto bits = __builtin_bit_cast(uint32_t, in[i]);
    out[i].bits = static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
  }
}

// Four floats at once.
__global__ inline void vector_kernel(float* out) { store(out + kVector, load<kVector>(out)); }

}  // namespace lockstep::emulated
