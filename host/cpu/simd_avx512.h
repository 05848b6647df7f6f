// Sixteen floats in a register: as simd_avx2.h, with the same bits in each lane.
#pragma once

#include <immintrin.h>

#include <cstdint>

#define LOCKSTEP_SIMD __attribute__((always_inline)) inline

namespace lockstep::cpu::LOCKSTEP_ISA {

inline constexpr int kLanes = 16;
inline constexpr int kDenseTilePair = 12;
inline constexpr int kDenseTileSingle = 12;
// And of the tiles of a convolution\'s weight gradient: taps at four channels.
inline constexpr int kConvTaps = 6;

struct Vec {
  __m512 v;
};
struct Mask {
  __mmask16 v;
};
struct IVec {
  __m512i v;
};

LOCKSTEP_SIMD void prefetch(const float* p) {
  _mm_prefetch(reinterpret_cast<const char*>(p), _MM_HINT_T0);
}
LOCKSTEP_SIMD Vec load(const float* p) { return {_mm512_loadu_ps(p)}; }
LOCKSTEP_SIMD void store(float* p, Vec a) { _mm512_storeu_ps(p, a.v); }
LOCKSTEP_SIMD Vec broadcast(const float* p) { return {_mm512_set1_ps(*p)}; }
LOCKSTEP_SIMD Vec set(float x) { return {_mm512_set1_ps(x)}; }
LOCKSTEP_SIMD Vec add(Vec a, Vec b) { return {_mm512_add_ps(a.v, b.v)}; }
LOCKSTEP_SIMD Vec sub(Vec a, Vec b) { return {_mm512_sub_ps(a.v, b.v)}; }
LOCKSTEP_SIMD Vec mul(Vec a, Vec b) { return {_mm512_mul_ps(a.v, b.v)}; }
LOCKSTEP_SIMD Vec div(Vec a, Vec b) { return {_mm512_div_ps(a.v, b.v)}; }
// With a zeroing mask, because GCC 12 warns of its own headers' undefined registers without.
LOCKSTEP_SIMD Vec sqrt(Vec a) { return {_mm512_maskz_sqrt_ps(0xffff, a.v)}; }
LOCKSTEP_SIMD Vec floor(Vec a) {
  return {_mm512_maskz_roundscale_ps(0xffff, a.v, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC)};
}
LOCKSTEP_SIMD Vec fma(Vec a, Vec b, Vec c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
LOCKSTEP_SIMD Vec max(Vec a, Vec b) { return {_mm512_maskz_max_ps(0xffff, a.v, b.v)}; }
LOCKSTEP_SIMD Vec min(Vec a, Vec b) { return {_mm512_maskz_min_ps(0xffff, a.v, b.v)}; }
LOCKSTEP_SIMD Mask greater(Vec a, Vec b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_GT_OQ)}; }
LOCKSTEP_SIMD Mask greater_equal(Vec a, Vec b) {
  return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_GE_OQ)};
}
LOCKSTEP_SIMD Mask less(Vec a, Vec b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ)}; }
LOCKSTEP_SIMD Mask equal(Vec a, Vec b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_EQ_OQ)}; }
LOCKSTEP_SIMD Mask no_lanes() { return {0}; }
LOCKSTEP_SIMD Mask both(Mask a, Mask b) { return {_kand_mask16(a.v, b.v)}; }
LOCKSTEP_SIMD Mask either(Mask a, Mask b) { return {_kor_mask16(a.v, b.v)}; }
LOCKSTEP_SIMD Mask without(Mask a, Mask b) { return {_kandn_mask16(b.v, a.v)}; }
LOCKSTEP_SIMD Vec select(Mask m, Vec a, Vec b) { return {_mm512_mask_blend_ps(m.v, b.v, a.v)}; }
LOCKSTEP_SIMD Vec keep(Mask m, Vec a) { return {_mm512_maskz_mov_ps(m.v, a.v)}; }

LOCKSTEP_SIMD IVec load_int(const void* p) { return {_mm512_loadu_si512(p)}; }
LOCKSTEP_SIMD void store_int(void* p, IVec a) { _mm512_storeu_si512(p, a.v); }
LOCKSTEP_SIMD IVec set_int(int32_t x) { return {_mm512_set1_epi32(x)}; }
LOCKSTEP_SIMD IVec add_int(IVec a, IVec b) { return {_mm512_add_epi32(a.v, b.v)}; }
LOCKSTEP_SIMD IVec sub_int(IVec a, IVec b) { return {_mm512_sub_epi32(a.v, b.v)}; }
LOCKSTEP_SIMD IVec mul_int(IVec a, IVec b) { return {_mm512_mullo_epi32(a.v, b.v)}; }
LOCKSTEP_SIMD IVec bit_and(IVec a, IVec b) { return {_mm512_and_si512(a.v, b.v)}; }
LOCKSTEP_SIMD IVec bit_or(IVec a, IVec b) { return {_mm512_or_si512(a.v, b.v)}; }
LOCKSTEP_SIMD IVec exclusive_or(IVec a, IVec b) { return {_mm512_xor_si512(a.v, b.v)}; }
LOCKSTEP_SIMD Mask equal_int(IVec a, IVec b) { return {_mm512_cmpeq_epi32_mask(a.v, b.v)}; }
template <int kBits>
LOCKSTEP_SIMD IVec shift_left(IVec a) {
  return {_mm512_maskz_slli_epi32(0xffff, a.v, kBits)};
}
template <int kBits>
LOCKSTEP_SIMD IVec shift_right(IVec a) {
  return {_mm512_maskz_srai_epi32(0xffff, a.v, kBits)};
}
template <int kBits>
LOCKSTEP_SIMD IVec shift_right_unsigned(IVec a) {
  return {_mm512_maskz_srli_epi32(0xffff, a.v, kBits)};
}
template <int kBits>
LOCKSTEP_SIMD IVec rotate_left(IVec a) {
  return {_mm512_maskz_rol_epi32(0xffff, a.v, kBits)};
}
LOCKSTEP_SIMD Vec to_float(IVec a) { return {_mm512_maskz_cvtepi32_ps(0xffff, a.v)}; }
LOCKSTEP_SIMD IVec bits(Vec a) { return {_mm512_castps_si512(a.v)}; }
LOCKSTEP_SIMD Vec from_bits(IVec a) { return {_mm512_castsi512_ps(a.v)}; }

LOCKSTEP_SIMD void multiply_wide(IVec a, IVec b, IVec* low, IVec* high) {
  const __m512i even = _mm512_maskz_mul_epu32(0xff, a.v, b.v);
  const __m512i upper = _mm512_maskz_srli_epi64(0xff, a.v, 32);
  const __m512i odd = _mm512_maskz_mul_epu32(0xff, upper, b.v);
  low->v = _mm512_mask_blend_epi32(0xaaaa, even, _mm512_maskz_slli_epi64(0xff, odd, 32));
  high->v = _mm512_mask_blend_epi32(0xaaaa, _mm512_maskz_srli_epi64(0xff, even, 32), odd);
}

}  // namespace lockstep::cpu::LOCKSTEP_ISA
