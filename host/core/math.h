// exp and log of our own: libm's differ from machine to machine, these are the same bits
// everywhere.
//
// Each function is one template over a set of elementary operations, every one of which IEEE 754
// fixes to the bit: ScalarOps below for plain floats (and CUDA), vector wrappers on the CPU. The
// polynomials are those of Cephes' expf.c and logf.c (Moshier), evaluated by Horner with FMA.
// Errors: at most 2 ulp (tests/cpu/math_test.cc measures them).
// Rounding to nearest is assumed; denormals are honoured.
#pragma once

#include <bit>
#include <cstdint>

#ifdef __CUDACC__
#define LOCKSTEP_MATH __host__ __device__ inline
#else
#define LOCKSTEP_MATH inline
#endif

namespace lockstep::math {

// Raise when a bit of any result changes.
inline constexpr int kMathVersion = 1;

struct ScalarOps {
  using Float = float;
  using Int = int32_t;
  using Mask = bool;
  LOCKSTEP_MATH static Float set(float x) { return x; }
  LOCKSTEP_MATH static Int set_int(int32_t x) { return x; }
  LOCKSTEP_MATH static Float add(Float a, Float b) { return a + b; }
  LOCKSTEP_MATH static Float sub(Float a, Float b) { return a - b; }
  LOCKSTEP_MATH static Float mul(Float a, Float b) { return a * b; }
  LOCKSTEP_MATH static Float fma(Float a, Float b, Float c) { return __builtin_fmaf(a, b, c); }
  // Integers wrap, as they do in vectors.
  LOCKSTEP_MATH static Int add_int(Int a, Int b) {
    return static_cast<Int>(static_cast<uint32_t>(a) + static_cast<uint32_t>(b));
  }
  LOCKSTEP_MATH static Int sub_int(Int a, Int b) {
    return static_cast<Int>(static_cast<uint32_t>(a) - static_cast<uint32_t>(b));
  }
  template <int kBits>
  LOCKSTEP_MATH static Int shift_left(Int a) {
    return static_cast<Int>(static_cast<uint32_t>(a) << kBits);
  }
  template <int kBits>
  LOCKSTEP_MATH static Int shift_right(Int a) {  // keeps the sign
    return a >> kBits;
  }
  LOCKSTEP_MATH static Float to_float(Int a) { return static_cast<Float>(a); }
  LOCKSTEP_MATH static Int bits(Float a) { return __builtin_bit_cast(Int, a); }
  LOCKSTEP_MATH static Float from_bits(Int a) { return __builtin_bit_cast(Float, a); }
  LOCKSTEP_MATH static Mask greater(Float a, Float b) { return a > b; }
  LOCKSTEP_MATH static Mask equal(Float a, Float b) { return a == b; }
  LOCKSTEP_MATH static Float select(Mask mask, Float a, Float b) { return mask ? a : b; }
};

// ln 2 = kLn2High - kLn2Low; the high part has ten bits, so that its product with an exponent is
// exact.
inline constexpr float kLn2High = 0.693359375f;
inline constexpr float kLn2Low = 2.12194440e-4f;

// e^x. Overflows to infinity, underflows through the denormals to 0; NaN stays NaN.
template <class Ops>
LOCKSTEP_MATH typename Ops::Float exp_of(typename Ops::Float x) {
  using Float = typename Ops::Float;
  using Int = typename Ops::Int;
  // Beyond these bounds the result is 0 or infinity anyway.
  const Float low = Ops::set(-105.0f);
  const Float high = Ops::set(89.5f);
  Float y = Ops::select(Ops::greater(x, low), x, low);
  y = Ops::select(Ops::greater(high, y), y, high);
  // Adding 1.5 * 2^23 leaves the nearest integer in the low bits of the sum.
  const Float magic = Ops::set(12582912.0f);
  const Float shifted = Ops::fma(y, Ops::set(1.44269504088896341f), magic);
  const Float n = Ops::sub(shifted, magic);
  const Int exponent = Ops::sub_int(Ops::bits(shifted), Ops::bits(magic));
  Float r = Ops::fma(n, Ops::set(-kLn2High), y);
  r = Ops::fma(n, Ops::set(kLn2Low), r);
  Float p = Ops::set(1.9875691500e-4f);
  p = Ops::fma(p, r, Ops::set(1.3981999507e-3f));
  p = Ops::fma(p, r, Ops::set(8.3334519073e-3f));
  p = Ops::fma(p, r, Ops::set(4.1665795894e-2f));
  p = Ops::fma(p, r, Ops::set(1.6666665459e-1f));
  p = Ops::fma(p, r, Ops::set(5.0000001201e-1f));
  p = Ops::fma(p, Ops::mul(r, r), r);
  p = Ops::add(p, Ops::set(1.0f));
  // In two steps, because 2^exponent itself may lie outside of the normal numbers.
  const Int half = Ops::template shift_right<1>(exponent);
  const Int rest = Ops::sub_int(exponent, half);
  const Int bias = Ops::set_int(127);
  p = Ops::mul(p, Ops::from_bits(Ops::template shift_left<23>(Ops::add_int(half, bias))));
  p = Ops::mul(p, Ops::from_bits(Ops::template shift_left<23>(Ops::add_int(rest, bias))));
  return Ops::select(Ops::equal(x, x), p, x);
}

// The natural logarithm; log(0) = -infinity, NaN below 0.
template <class Ops>
LOCKSTEP_MATH typename Ops::Float log_of(typename Ops::Float x) {
  using Float = typename Ops::Float;
  using Int = typename Ops::Int;
  const auto denormal = Ops::greater(Ops::set(1.17549435e-38f), x);
  const Float scaled = Ops::select(denormal, Ops::mul(x, Ops::set(33554432.0f)), x);
  // x = 2^exponent * m with m in [sqrt(1/2), sqrt(2)).
  const Int bits = Ops::bits(scaled);
  const Int exponent = Ops::template shift_right<23>(Ops::sub_int(bits, Ops::set_int(0x3f3504f3)));
  const Float m = Ops::from_bits(Ops::sub_int(bits, Ops::template shift_left<23>(exponent)));
  Float e = Ops::to_float(exponent);
  e = Ops::select(denormal, Ops::sub(e, Ops::set(25.0f)), e);
  const Float f = Ops::sub(m, Ops::set(1.0f));
  const Float z = Ops::mul(f, f);
  Float p = Ops::set(7.0376836292e-2f);
  p = Ops::fma(p, f, Ops::set(-1.1514610310e-1f));
  p = Ops::fma(p, f, Ops::set(1.1676998740e-1f));
  p = Ops::fma(p, f, Ops::set(-1.2420140846e-1f));
  p = Ops::fma(p, f, Ops::set(1.4249322787e-1f));
  p = Ops::fma(p, f, Ops::set(-1.6668057665e-1f));
  p = Ops::fma(p, f, Ops::set(2.0000714765e-1f));
  p = Ops::fma(p, f, Ops::set(-2.4999993993e-1f));
  p = Ops::fma(p, f, Ops::set(3.3333331174e-1f));
  p = Ops::mul(Ops::mul(p, f), z);
  p = Ops::fma(e, Ops::set(-kLn2Low), p);
  p = Ops::fma(z, Ops::set(-0.5f), p);
  p = Ops::add(f, p);
  p = Ops::fma(e, Ops::set(kLn2High), p);
  const Float infinity = Ops::set(__builtin_inff());
  const Float zero = Ops::set(0.0f);
  p = Ops::select(Ops::equal(x, infinity), x, p);
  p = Ops::select(Ops::equal(x, zero), Ops::set(-__builtin_inff()), p);
  p = Ops::select(Ops::greater(zero, x), Ops::set(__builtin_nanf("")), p);
  return Ops::select(Ops::equal(x, x), p, x);
}

LOCKSTEP_MATH float exp(float x) { return exp_of<ScalarOps>(x); }
LOCKSTEP_MATH float log(float x) { return log_of<ScalarOps>(x); }

}  // namespace lockstep::math
