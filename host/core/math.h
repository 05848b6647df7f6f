// exp, log and their kin of our own: libm's differ from machine to machine, these are the same bits
// everywhere. math_power.h and math_normal.h hold the rest.
//
// Each function is one template over a set of elementary operations, every one of which IEEE 754
// fixes to the bit: ScalarOps below for plain floats (and CUDA), vector wrappers on the CPU. The
// polynomials of exp and log are those of Cephes' expf.c and logf.c (Moshier), the others minimax
// fits of our own; all are evaluated by Horner with FMA.
// Errors: at most 2 ulp (tests/cpu/math_test.cc measures them).
// A NaN comes back as it went in; every NaN that is made here is the one of kNan.
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
  LOCKSTEP_MATH static Float div(Float a, Float b) { return a / b; }
  LOCKSTEP_MATH static Float sqrt(Float a) { return __builtin_sqrtf(a); }
  LOCKSTEP_MATH static Float floor(Float a) { return __builtin_floorf(a); }
  LOCKSTEP_MATH static Float fma(Float a, Float b, Float c) { return __builtin_fmaf(a, b, c); }
  // Integers wrap, as they do in vectors.
  LOCKSTEP_MATH static Int add_int(Int a, Int b) {
    return static_cast<Int>(static_cast<uint32_t>(a) + static_cast<uint32_t>(b));
  }
  LOCKSTEP_MATH static Int sub_int(Int a, Int b) {
    return static_cast<Int>(static_cast<uint32_t>(a) - static_cast<uint32_t>(b));
  }
  LOCKSTEP_MATH static Int bit_and(Int a, Int b) { return a & b; }
  LOCKSTEP_MATH static Int bit_or(Int a, Int b) { return a | b; }
  LOCKSTEP_MATH static Int exclusive_or(Int a, Int b) { return a ^ b; }
  template <int kBits>
  LOCKSTEP_MATH static Int shift_left(Int a) {
    return static_cast<Int>(static_cast<uint32_t>(a) << kBits);
  }
  template <int kBits>
  LOCKSTEP_MATH static Int shift_right(Int a) {  // keeps the sign
    return a >> kBits;
  }
  template <int kBits>
  LOCKSTEP_MATH static Int shift_right_unsigned(Int a) {
    return static_cast<Int>(static_cast<uint32_t>(a) >> kBits);
  }
  LOCKSTEP_MATH static Float to_float(Int a) { return static_cast<Float>(a); }
  LOCKSTEP_MATH static Int bits(Float a) { return __builtin_bit_cast(Int, a); }
  LOCKSTEP_MATH static Float from_bits(Int a) { return __builtin_bit_cast(Float, a); }
  LOCKSTEP_MATH static Mask greater(Float a, Float b) { return a > b; }
  LOCKSTEP_MATH static Mask greater_equal(Float a, Float b) { return a >= b; }
  LOCKSTEP_MATH static Mask less(Float a, Float b) { return a < b; }
  LOCKSTEP_MATH static Mask equal(Float a, Float b) { return a == b; }
  LOCKSTEP_MATH static Mask equal_int(Int a, Int b) { return a == b; }
  LOCKSTEP_MATH static Mask both(Mask a, Mask b) { return a && b; }
  LOCKSTEP_MATH static Mask either(Mask a, Mask b) { return a || b; }
  LOCKSTEP_MATH static Mask without(Mask a, Mask b) { return a && !b; }
  LOCKSTEP_MATH static Float select(Mask mask, Float a, Float b) { return mask ? a : b; }
};

inline constexpr float kInfinity = __builtin_inff();
inline constexpr float kNan = __builtin_nanf("");
inline constexpr int32_t kSignBit = INT32_MIN;

// ln 2 = kLn2High - kLn2Low; the high part has ten bits, so that its product with an exponent is
// exact.
inline constexpr float kLn2High = 0.693359375f;
inline constexpr float kLn2Low = 2.12194440e-4f;

// y if x is a number, x itself if it is NaN.
template <class Ops>
LOCKSTEP_MATH typename Ops::Float unless_nan(typename Ops::Float x, typename Ops::Float y) {
  return Ops::select(Ops::equal(x, x), y, x);
}

// |x|, of NaN too.
template <class Ops>
LOCKSTEP_MATH typename Ops::Float absolute_of(typename Ops::Float x) {
  return Ops::from_bits(Ops::bit_and(Ops::bits(x), Ops::set_int(~kSignBit)));
}

// -x, of NaN too.
template <class Ops>
LOCKSTEP_MATH typename Ops::Float negate_of(typename Ops::Float x) {
  return Ops::from_bits(Ops::exclusive_or(Ops::bits(x), Ops::set_int(kSignBit)));
}

// y with the sign of x; its own is plus or the same.
template <class Ops>
LOCKSTEP_MATH typename Ops::Float with_sign_of(typename Ops::Float x, typename Ops::Float y) {
  const auto sign = Ops::bit_and(Ops::bits(x), Ops::set_int(kSignBit));
  return Ops::from_bits(Ops::bit_or(Ops::bits(y), sign));
}

// -1, 0 (for -0 too) or 1.
template <class Ops>
LOCKSTEP_MATH typename Ops::Float sign_of(typename Ops::Float x) {
  const auto zero = Ops::set(0.0f);
  auto y = Ops::select(Ops::greater(x, zero), Ops::set(1.0f), zero);
  y = Ops::select(Ops::less(x, zero), Ops::set(-1.0f), y);
  return unless_nan<Ops>(x, y);
}

template <class Ops>
LOCKSTEP_MATH typename Ops::Float floor_of(typename Ops::Float x) {
  return unless_nan<Ops>(x, Ops::floor(x));
}

// Correctly rounded; NaN below 0, -0 for -0.
template <class Ops>
LOCKSTEP_MATH typename Ops::Float square_root_of(typename Ops::Float x) {
  const auto y = Ops::select(Ops::less(x, Ops::set(0.0f)), Ops::set(kNan), Ops::sqrt(x));
  return unless_nan<Ops>(x, y);
}

// The number high + low; low is what high lacks.
template <class Ops>
struct Pair {
  typename Ops::Float high, low;
};

// Exactly a + b, for |a| >= |b| or a = 0 (Dekker 1971).
template <class Ops>
LOCKSTEP_MATH Pair<Ops> exact_sum(typename Ops::Float a, typename Ops::Float b) {
  const auto sum = Ops::add(a, b);
  return {sum, Ops::sub(b, Ops::sub(sum, a))};
}

// Exactly a * b, unless it overflows or its low part is denormal.
template <class Ops>
LOCKSTEP_MATH Pair<Ops> exact_product(typename Ops::Float a, typename Ops::Float b) {
  const auto product = Ops::mul(a, b);
  return {product, Ops::fma(a, b, negate_of<Ops>(product))};
}

// x = exponent * unit + remainder, with the remainder at most half a unit.
template <class Ops>
struct Reduced {
  typename Ops::Int exponent;
  typename Ops::Float remainder;
};

// By ln 2, for |x| < 2^21.
template <class Ops>
LOCKSTEP_MATH Reduced<Ops> reduce_by_ln2(typename Ops::Float x) {
  // Adding 1.5 * 2^23 leaves the nearest integer in the low bits of the sum.
  const auto magic = Ops::set(12582912.0f);
  const auto shifted = Ops::fma(x, Ops::set(1.44269504088896341f), magic);
  const auto n = Ops::sub(shifted, magic);
  const auto r = Ops::fma(n, Ops::set(-kLn2High), x);
  return {Ops::sub_int(Ops::bits(shifted), Ops::bits(magic)), Ops::fma(n, Ops::set(kLn2Low), r)};
}

// (e^r - 1 - r) / r^2 for |r| <= ln(2) / 2.
template <class Ops>
LOCKSTEP_MATH typename Ops::Float exp_polynomial(typename Ops::Float r) {
  auto p = Ops::set(1.9875691500e-4f);
  p = Ops::fma(p, r, Ops::set(1.3981999507e-3f));
  p = Ops::fma(p, r, Ops::set(8.3334519073e-3f));
  p = Ops::fma(p, r, Ops::set(4.1665795894e-2f));
  p = Ops::fma(p, r, Ops::set(1.6666665459e-1f));
  return Ops::fma(p, r, Ops::set(5.0000001201e-1f));
}

// 2^exponent, which must be a normal number.
template <class Ops>
LOCKSTEP_MATH typename Ops::Float power_of_two(typename Ops::Int exponent) {
  return Ops::from_bits(Ops::template shift_left<23>(Ops::add_int(exponent, Ops::set_int(127))));
}

// x * 2^exponent in two steps, because 2^exponent itself may lie outside of the normal numbers.
template <class Ops>
LOCKSTEP_MATH typename Ops::Float scale(typename Ops::Float x, typename Ops::Int exponent) {
  const auto half = Ops::template shift_right<1>(exponent);
  const auto rest = Ops::sub_int(exponent, half);
  return Ops::mul(Ops::mul(x, power_of_two<Ops>(half)), power_of_two<Ops>(rest));
}

// x, or the bound that it lies beyond; `low` for NaN.
template <class Ops>
LOCKSTEP_MATH typename Ops::Float clamp(typename Ops::Float x, float low, float high) {
  const auto y = Ops::select(Ops::greater(x, Ops::set(low)), x, Ops::set(low));
  return Ops::select(Ops::greater(Ops::set(high), y), y, Ops::set(high));
}

// e^x. Overflows to infinity, underflows through the denormals to 0; NaN stays NaN.
template <class Ops>
LOCKSTEP_MATH typename Ops::Float exp_of(typename Ops::Float x) {
  // Beyond these bounds the result is 0 or infinity anyway.
  const auto reduced = reduce_by_ln2<Ops>(clamp<Ops>(x, -105.0f, 89.5f));
  const auto r = reduced.remainder;
  auto p = Ops::fma(exp_polynomial<Ops>(r), Ops::mul(r, r), r);
  p = Ops::add(p, Ops::set(1.0f));
  return unless_nan<Ops>(x, scale<Ops>(p, reduced.exponent));
}

// e^x - 1, without cancellation where x is small.
template <class Ops>
LOCKSTEP_MATH typename Ops::Float expm1_of(typename Ops::Float x) {
  // Beyond these bounds the result is -1 or infinity.
  const auto reduced = reduce_by_ln2<Ops>(clamp<Ops>(x, -30.0f, 88.8f));
  const auto r = reduced.remainder;
  const auto p = Ops::fma(exp_polynomial<Ops>(r), Ops::mul(r, r), r);
  // 2^n - 1 + 2^n p in halves: 2^128 is no number.
  const auto half = power_of_two<Ops>(Ops::sub_int(reduced.exponent, Ops::set_int(1)));
  auto y = Ops::fma(half, p, Ops::sub(half, Ops::set(0.5f)));
  y = Ops::add(y, y);
  y = Ops::select(Ops::equal_int(reduced.exponent, Ops::set_int(0)), p, y);
  y = Ops::select(Ops::equal(x, Ops::set(0.0f)), x, y);  // -0
  return unless_nan<Ops>(x, y);
}

// x = 2^exponent * mantissa with the mantissa in [sqrt(1/2), sqrt(2)), for finite x > 0.
template <class Ops>
struct Split {
  typename Ops::Float mantissa, exponent;
};

template <class Ops>
LOCKSTEP_MATH Split<Ops> split(typename Ops::Float x) {
  const auto denormal = Ops::greater(Ops::set(1.17549435e-38f), x);
  const auto bits = Ops::bits(Ops::select(denormal, Ops::mul(x, Ops::set(33554432.0f)), x));
  const auto exponent = Ops::template shift_right<23>(Ops::sub_int(bits, Ops::set_int(0x3f3504f3)));
  const auto e = Ops::to_float(exponent);
  return {Ops::from_bits(Ops::sub_int(bits, Ops::template shift_left<23>(exponent))),
          Ops::select(denormal, Ops::sub(e, Ops::set(25.0f)), e)};
}

// log(2^e * (1 + f)) for f in [sqrt(1/2) - 1, sqrt(2) - 1].
template <class Ops>
LOCKSTEP_MATH typename Ops::Float log_of_parts(typename Ops::Float f, typename Ops::Float e) {
  const auto z = Ops::mul(f, f);
  auto p = Ops::set(7.0376836292e-2f);
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
  return Ops::fma(e, Ops::set(kLn2High), p);
}

// The natural logarithm; log(0) = -infinity, NaN below 0.
template <class Ops>
LOCKSTEP_MATH typename Ops::Float log_of(typename Ops::Float x) {
  const auto parts = split<Ops>(x);
  const auto zero = Ops::set(0.0f);
  auto y = log_of_parts<Ops>(Ops::sub(parts.mantissa, Ops::set(1.0f)), parts.exponent);
  y = Ops::select(Ops::equal(x, Ops::set(kInfinity)), x, y);
  y = Ops::select(Ops::equal(x, zero), Ops::set(-kInfinity), y);
  y = Ops::select(Ops::less(x, zero), Ops::set(kNan), y);
  return unless_nan<Ops>(x, y);
}

// log(1 + x), without cancellation where x is small; -infinity at -1, NaN below.
template <class Ops>
LOCKSTEP_MATH typename Ops::Float log1p_of(typename Ops::Float x) {
  const auto minus_one = Ops::set(-1.0f);
  // 1 + x = 2^e * (1 + f), the exponent taken from the rounded sum, f from x itself:
  // f = x 2^-e + (2^-e - 1). Where e is not 0, x is large enough to be scaled by its bits.
  const auto bits = Ops::bits(Ops::sub(x, minus_one));
  const auto e = Ops::template shift_right<23>(Ops::sub_int(bits, Ops::set_int(0x3f3504f3)));
  const auto scaled = Ops::from_bits(Ops::sub_int(Ops::bits(x), Ops::template shift_left<23>(e)));
  // 2^(2 - e), because e may be 128.
  const auto four = power_of_two<Ops>(Ops::sub_int(Ops::set_int(2), e));
  const auto f = Ops::add(scaled, Ops::fma(four, Ops::set(0.25f), minus_one));
  auto y = log_of_parts<Ops>(f, Ops::to_float(e));
  const auto itself = Ops::either(Ops::equal(x, Ops::set(0.0f)),  // -0
                                  Ops::equal(x, Ops::set(kInfinity)));
  y = Ops::select(itself, x, y);
  y = Ops::select(Ops::equal(x, minus_one), Ops::set(-kInfinity), y);
  y = Ops::select(Ops::less(x, minus_one), Ops::set(kNan), y);
  return unless_nan<Ops>(x, y);
}

// The hyperbolic tangent, in [-1, 1].
template <class Ops>
LOCKSTEP_MATH typename Ops::Float tanh_of(typename Ops::Float x) {
  const auto one = Ops::set(1.0f);
  const auto magnitude = absolute_of<Ops>(x);
  const auto s = Ops::mul(x, x);
  auto p = Ops::set(-5.704785232e-03f);
  p = Ops::fma(p, s, Ops::set(2.063888870e-02f));
  p = Ops::fma(p, s, Ops::set(-5.373964831e-02f));
  p = Ops::fma(p, s, Ops::set(1.333144158e-01f));
  p = Ops::fma(p, s, Ops::set(-3.333328068e-01f));
  const auto small = Ops::fma(Ops::mul(p, s), x, x);
  const auto e = exp_of<Ops>(Ops::add(magnitude, magnitude));
  const auto large = Ops::sub(one, Ops::div(Ops::set(2.0f), Ops::add(e, one)));
  const auto y = Ops::select(Ops::less(magnitude, Ops::set(0.625f)), small, large);
  return unless_nan<Ops>(x, with_sign_of<Ops>(x, y));
}

// 1 / (1 + e^-x), in [0, 1]; e^x / (1 + e^x) below 0, where e^-x might overflow.
template <class Ops>
LOCKSTEP_MATH typename Ops::Float sigmoid_of(typename Ops::Float x) {
  const auto zero = Ops::set(0.0f);
  const auto one = Ops::set(1.0f);
  // e^-|x| = e + e_low
  const auto reduced =
      reduce_by_ln2<Ops>(clamp<Ops>(negate_of<Ops>(absolute_of<Ops>(x)), -105.0f, 0.0f));
  const auto r = reduced.remainder;
  const auto p = Ops::fma(exp_polynomial<Ops>(r), Ops::mul(r, r), r);
  const auto sum = exact_sum<Ops>(one, p);
  const auto e = scale<Ops>(sum.high, reduced.exponent);
  const auto e_low = scale<Ops>(sum.low, reduced.exponent);
  // The quotient, then a step of Newton's for what its two roundings lost.
  const auto negative = Ops::less(x, zero);
  const auto numerator = Ops::select(negative, e, one);
  const auto denominator = exact_sum<Ops>(one, e);
  const auto y = Ops::div(numerator, denominator.high);
  const auto minus_y = negate_of<Ops>(y);
  auto rest = Ops::fma(minus_y, denominator.high, numerator);
  rest = Ops::add(rest, Ops::select(negative, e_low, zero));
  rest = Ops::fma(minus_y, Ops::add(denominator.low, e_low), rest);
  const auto inverse = Ops::select(negative, Ops::sub(one, y), y);  // 1 / (1 + e^-|x|)
  return unless_nan<Ops>(x, Ops::fma(rest, inverse, y));
}

// The error function, in [-1, 1].
template <class Ops>
LOCKSTEP_MATH typename Ops::Float erf_of(typename Ops::Float x) {
  const auto magnitude = absolute_of<Ops>(x);
  const auto s = Ops::mul(x, x);
  auto p = Ops::set(8.267392695e-05f);
  p = Ops::fma(p, s, Ops::set(-8.118057158e-04f));
  p = Ops::fma(p, s, Ops::set(5.198827945e-03f));
  p = Ops::fma(p, s, Ops::set(-2.685849555e-02f));
  p = Ops::fma(p, s, Ops::set(1.128367931e-01f));
  p = Ops::fma(p, s, Ops::set(-3.761263192e-01f));
  p = Ops::fma(p, s, Ops::set(1.283791661e-01f));
  const auto small = Ops::fma(p, x, x);
  // log(erfc(t)); from 4 on the result is 1.
  const auto t = clamp<Ops>(magnitude, 0.0f, 4.0f);
  auto q = Ops::set(1.938329806e-04f);
  q = Ops::fma(q, t, Ops::set(-3.022680758e-03f));
  q = Ops::fma(q, t, Ops::set(2.214552276e-02f));
  q = Ops::fma(q, t, Ops::set(-1.037637964e-01f));
  q = Ops::fma(q, t, Ops::set(-6.373721361e-01f));
  q = Ops::fma(q, t, Ops::set(-1.127563715e+00f));
  q = Ops::fma(q, t, Ops::set(-2.225703065e-04f));
  const auto large = Ops::sub(Ops::set(1.0f), exp_of<Ops>(q));
  const auto y = Ops::select(Ops::less(magnitude, Ops::set(0.9375f)), small, large);
  return unless_nan<Ops>(x, with_sign_of<Ops>(x, y));
}

LOCKSTEP_MATH float absolute(float x) { return absolute_of<ScalarOps>(x); }
LOCKSTEP_MATH float negate(float x) { return negate_of<ScalarOps>(x); }
LOCKSTEP_MATH float sign(float x) { return sign_of<ScalarOps>(x); }
LOCKSTEP_MATH float floor(float x) { return floor_of<ScalarOps>(x); }
LOCKSTEP_MATH float square_root(float x) { return square_root_of<ScalarOps>(x); }
LOCKSTEP_MATH float exp(float x) { return exp_of<ScalarOps>(x); }
LOCKSTEP_MATH float expm1(float x) { return expm1_of<ScalarOps>(x); }
LOCKSTEP_MATH float log(float x) { return log_of<ScalarOps>(x); }
LOCKSTEP_MATH float log1p(float x) { return log1p_of<ScalarOps>(x); }
LOCKSTEP_MATH float tanh(float x) { return tanh_of<ScalarOps>(x); }
LOCKSTEP_MATH float sigmoid(float x) { return sigmoid_of<ScalarOps>(x); }
LOCKSTEP_MATH float erf(float x) { return erf_of<ScalarOps>(x); }

}  // namespace lockstep::math
