// What the kernels share: one-dimensional grids, and four floats at a time where memory allows.
#pragma once

#include <cuda_runtime.h>
#include <device_launch_parameters.h>

#include <algorithm>
#include <cstdint>
#include <initializer_list>

#include "cuda/launch.h"
#include "host/core/check.h"

// Before a loop whose length is not known; short loops of known length the compiler unrolls itself
// (the build fails where one is not: its arrays would lie in local memory).
#ifdef __CUDACC__
#define LOCKSTEP_PRAGMA(text) _Pragma(#text)
#define LOCKSTEP_UNROLL(times) LOCKSTEP_PRAGMA(unroll times)
#else
#define LOCKSTEP_UNROLL(times)
#endif

namespace lockstep {

// Small blocks spread the small values of a partition over more multiprocessors.
inline constexpr unsigned kThreads = 128;
// Several times what any GPU holds at once; loops take what is left.
inline constexpr int64_t kMaxBlocks = 8192;
// Elements of a launch whose index is divided: 64-bit division is many times slower.
inline constexpr int64_t kMaxIndexed = int64_t{1} << 30;

inline constexpr int kVector = 4;  // floats of the widest load

// kWidth floats that are loaded and stored as one.
template <int kWidth>
struct alignas(kWidth * sizeof(float)) Floats {
  float at[kWidth];
};

template <int kWidth>
__device__ inline Floats<kWidth> load(const float* p) {
  return *reinterpret_cast<const Floats<kWidth>*>(p);
}

template <int kWidth>
__device__ inline void store(float* p, const Floats<kWidth>& values) {
  *reinterpret_cast<Floats<kWidth>*>(p) = values;
}

__device__ inline int64_t thread_index() {
  return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}

__device__ inline int64_t thread_count() { return static_cast<int64_t>(gridDim.x) * blockDim.x; }

template <class T>
__device__ constexpr T lesser(T a, T b) {
  return b < a ? b : a;
}

template <class T>
__device__ constexpr T greater(T a, T b) {
  return a < b ? b : a;
}

// x where it is kept, else +0, as the CPU's masks do.
__device__ inline float keep(bool kept, float x) { return kept ? x : 0.0f; }

inline LaunchShape loop_shape(int64_t threads) {
  const int64_t blocks = std::min((threads + kThreads - 1) / kThreads, kMaxBlocks);
  return {static_cast<unsigned>(blocks), kThreads};
}

// Whether vectors of floats can be loaded from all of them; nullptr can stand for "none".
inline bool vector_aligned(std::initializer_list<const void*> pointers) {
  return std::all_of(pointers.begin(), pointers.end(), [](const void* pointer) {
    return reinterpret_cast<uintptr_t>(pointer) % (kVector * sizeof(float)) == 0;
  });
}

// Calls launch_rows(first row, rows) for pieces whose elements can be numbered in 32 bits.
template <class LaunchRows>
Status for_row_pieces(int64_t rows, int64_t elements_a_row, LaunchRows launch_rows) {
  LOCKSTEP_CHECK(rows >= 0 && elements_a_row >= 0 && elements_a_row <= kMaxIndexed);
  if (elements_a_row == 0) return {};
  const int64_t most = kMaxIndexed / elements_a_row;
  for (int64_t first = 0; first < rows; first += most) {
    LOCKSTEP_RETURN_IF_ERROR(launch_rows(first, std::min(most, rows - first)));
  }
  return {};
}

// Calls op.apply<width>(i) for each piece [i, i + width) of `count` elements: first `vectors` of
// kVector, then single ones.
template <class Op>
__global__ void map_kernel(Op op, int64_t vectors, int64_t count) {
  for (int64_t i = thread_index(); i < vectors; i += thread_count()) {
    op.template apply<kVector>(kVector * i);
  }
  for (int64_t i = kVector * vectors + thread_index(); i < count; i += thread_count()) {
    op.template apply<1>(i);
  }
}

template <class Op>
Status launch_map(const char* name, const Op& op, int64_t count, bool aligned,
                  cudaStream_t stream) {
  LOCKSTEP_CHECK(count >= 0);
  if (count == 0) return {};
  const int64_t vectors = aligned ? count / kVector : 0;
  const int64_t singles = count - kVector * vectors;
  return launch(name, map_kernel<Op>, loop_shape(std::max(vectors, singles)), stream, op, vectors,
                count);
}

}  // namespace lockstep
