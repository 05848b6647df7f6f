// Eight floats in a register. Everything lives in the instruction set's own namespace: no two
// files with different flags may share an inline function.
#pragma once

#include <immintrin.h>

#include <cstdint>

#define LOCKSTEP_SIMD __attribute__((always_inline)) inline

namespace lockstep::cpu::LOCKSTEP_ISA {

inline constexpr int kLanes = 8;
// Accumulators of the dense tiles: output features at two and at one vector of rows.
inline constexpr int kDenseTilePair = 6;
inline constexpr int kDenseTileSingle = 12;
// And of the tiles of a convolution\'s weight gradient: taps at four channels.
inline constexpr int kConvTaps = 3;

struct Vec {
  __m256 v;
};
struct Mask {
  __m256 v;
};
struct IVec {
  __m256i v;
};

LOCKSTEP_SIMD void prefetch(const float* p) {
  _mm_prefetch(reinterpret_cast<const char*>(p), _MM_HINT_T0);
}
LOCKSTEP_SIMD Vec load(const float* p) { return {_mm256_loadu_ps(p)}; }
LOCKSTEP_SIMD void store(float* p, Vec a) { _mm256_storeu_ps(p, a.v); }
LOCKSTEP_SIMD Vec broadcast(const float* p) { return {_mm256_broadcast_ss(p)}; }
LOCKSTEP_SIMD Vec set(float x) { return {_mm256_set1_ps(x)}; }
LOCKSTEP_SIMD Vec add(Vec a, Vec b) { return {_mm256_add_ps(a.v, b.v)}; }
LOCKSTEP_SIMD Vec sub(Vec a, Vec b) { return {_mm256_sub_ps(a.v, b.v)}; }
LOCKSTEP_SIMD Vec mul(Vec a, Vec b) { return {_mm256_mul_ps(a.v, b.v)}; }
LOCKSTEP_SIMD Vec div(Vec a, Vec b) { return {_mm256_div_ps(a.v, b.v)}; }
LOCKSTEP_SIMD Vec sqrt(Vec a) { return {_mm256_sqrt_ps(a.v)}; }
LOCKSTEP_SIMD Vec floor(Vec a) { return {_mm256_floor_ps(a.v)}; }
LOCKSTEP_SIMD Vec fma(Vec a, Vec b, Vec c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
// a > b ? a : b, in NaN and signed zeros too.
LOCKSTEP_SIMD Vec max(Vec a, Vec b) { return {_mm256_max_ps(a.v, b.v)}; }
// a < b ? a : b, likewise.
LOCKSTEP_SIMD Vec min(Vec a, Vec b) { return {_mm256_min_ps(a.v, b.v)}; }
LOCKSTEP_SIMD Mask greater(Vec a, Vec b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_GT_OQ)}; }
LOCKSTEP_SIMD Mask greater_equal(Vec a, Vec b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_GE_OQ)}; }
LOCKSTEP_SIMD Mask less(Vec a, Vec b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_LT_OQ)}; }
LOCKSTEP_SIMD Mask equal(Vec a, Vec b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_EQ_OQ)}; }
LOCKSTEP_SIMD Mask no_lanes() { return {_mm256_setzero_ps()}; }
LOCKSTEP_SIMD Mask both(Mask a, Mask b) { return {_mm256_and_ps(a.v, b.v)}; }
LOCKSTEP_SIMD Mask either(Mask a, Mask b) { return {_mm256_or_ps(a.v, b.v)}; }
LOCKSTEP_SIMD Mask without(Mask a, Mask b) { return {_mm256_andnot_ps(b.v, a.v)}; }
LOCKSTEP_SIMD Vec select(Mask m, Vec a, Vec b) { return {_mm256_blendv_ps(b.v, a.v, m.v)}; }
LOCKSTEP_SIMD Vec keep(Mask m, Vec a) { return {_mm256_and_ps(a.v, m.v)}; }

LOCKSTEP_SIMD IVec load_int(const void* p) {
  return {_mm256_loadu_si256(static_cast<const __m256i*>(p))};
}
LOCKSTEP_SIMD void store_int(void* p, IVec a) {
  _mm256_storeu_si256(static_cast<__m256i*>(p), a.v);
}
LOCKSTEP_SIMD IVec set_int(int32_t x) { return {_mm256_set1_epi32(x)}; }
LOCKSTEP_SIMD IVec add_int(IVec a, IVec b) { return {_mm256_add_epi32(a.v, b.v)}; }
LOCKSTEP_SIMD IVec sub_int(IVec a, IVec b) { return {_mm256_sub_epi32(a.v, b.v)}; }
LOCKSTEP_SIMD IVec mul_int(IVec a, IVec b) { return {_mm256_mullo_epi32(a.v, b.v)}; }
LOCKSTEP_SIMD IVec bit_and(IVec a, IVec b) { return {_mm256_and_si256(a.v, b.v)}; }
LOCKSTEP_SIMD IVec bit_or(IVec a, IVec b) { return {_mm256_or_si256(a.v, b.v)}; }
LOCKSTEP_SIMD IVec exclusive_or(IVec a, IVec b) { return {_mm256_xor_si256(a.v, b.v)}; }
LOCKSTEP_SIMD Mask equal_int(IVec a, IVec b) {
  return {_mm256_castsi256_ps(_mm256_cmpeq_epi32(a.v, b.v))};
}
template <int kBits>
LOCKSTEP_SIMD IVec shift_left(IVec a) {
  return {_mm256_slli_epi32(a.v, kBits)};
}
template <int kBits>
LOCKSTEP_SIMD IVec shift_right(IVec a) {  // keeps the sign
  return {_mm256_srai_epi32(a.v, kBits)};
}
template <int kBits>
LOCKSTEP_SIMD IVec shift_right_unsigned(IVec a) {
  return {_mm256_srli_epi32(a.v, kBits)};
}
// Each lane's bits, by whole bytes.
template <int kBits>
LOCKSTEP_SIMD IVec rotate_left(IVec a) {
  static_assert(kBits == 8 || kBits == 16);
  const int64_t low = kBits == 8 ? 0x0605040702010003 : 0x0504070601000302;
  const int64_t high = low + 0x0808080808080808;
  return {_mm256_shuffle_epi8(a.v, _mm256_set_epi64x(high, low, high, low))};
}
LOCKSTEP_SIMD Vec to_float(IVec a) { return {_mm256_cvtepi32_ps(a.v)}; }
LOCKSTEP_SIMD IVec bits(Vec a) { return {_mm256_castps_si256(a.v)}; }
LOCKSTEP_SIMD Vec from_bits(IVec a) { return {_mm256_castsi256_ps(a.v)}; }

// The 64-bit products of each lane of a with b, the same in all lanes, in two words.
LOCKSTEP_SIMD void multiply_wide(IVec a, IVec b, IVec* low, IVec* high) {
  const __m256i even = _mm256_mul_epu32(a.v, b.v);
  const __m256i odd = _mm256_mul_epu32(_mm256_srli_epi64(a.v, 32), b.v);
  low->v = _mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xaa);
  high->v = _mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xaa);
}

}  // namespace lockstep::cpu::LOCKSTEP_ISA
