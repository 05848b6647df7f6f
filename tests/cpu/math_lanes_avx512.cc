// The functions of host/core/math*.h in the vectors of simd_avx512.h.
#include <immintrin.h>

#include <bit>
#include <cstdint>

#include "host/cpu/kernels.h"

// The flags for these headers alone: whatever else is inline here may end up in any test.
#ifdef __clang__
#pragma clang attribute push( \
    __attribute__((target("avx512f,avx512vl,avx512dq,avx512bw,avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512vl,avx512dq,avx512bw,avx2,fma")
#endif
#define LOCKSTEP_ISA avx512
#include "host/cpu/simd_avx512.h"
//
#include "host/cpu/kernels_elementwise.h"
#include "tests/cpu/math_functions.h"

namespace lockstep::cpu_test {

void apply_avx512(MathFunction function, const float* a, const float* b, float* out,
                  int64_t count) {
  namespace simd = cpu::avx512;
  for (int64_t i = 0; i < count; i += simd::kLanes) {
    simd::store(out + i, apply<simd::VectorOps>(function, simd::load(a + i), simd::load(b + i)));
  }
}

}  // namespace lockstep::cpu_test
#ifdef __clang__
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
