// a^b, as the functions of math.h: the same bits everywhere.
//
// The logarithm is carried in two floats, because its error is multiplied by b. Errors: below 1 ulp
// for results between 2^-16 and 2^16, at most 2 ulp for all normal ones; a result that a float can
// hold is exact in that first range.
#pragma once

#include "host/core/math.h"

namespace lockstep::math {

// high + low, where low is at most half a unit in high's last place.
template <class Ops>
struct Pair {
  typename Ops::Float high, low;
};

// The exact sum of a and b, for |a| >= |b| or a = 0 (Dekker 1971).
template <class Ops>
LOCKSTEP_MATH Pair<Ops> exact_sum(typename Ops::Float a, typename Ops::Float b) {
  const auto sum = Ops::add(a, b);
  return {sum, Ops::sub(b, Ops::sub(sum, a))};
}

// log2(x) for finite x > 0, with a relative error below 2^-29.
template <class Ops>
LOCKSTEP_MATH Pair<Ops> log2_pair(typename Ops::Float x) {
  const auto one = Ops::set(1.0f);
  const auto minus_zero = Ops::set(-0.0f);
  const auto parts = split<Ops>(x);
  // log(m) = 2 atanh(s), s = (m - 1) / (m + 1) in two floats; |s| < 0.172.
  const auto numerator = Ops::sub(parts.mantissa, one);
  const auto denominator = exact_sum<Ops>(one, parts.mantissa);
  const auto s = Ops::div(numerator, denominator.high);
  const auto minus_s = Ops::sub(minus_zero, s);
  auto s_low = Ops::fma(minus_s, denominator.high, numerator);
  s_low = Ops::fma(minus_s, denominator.low, s_low);
  s_low = Ops::div(s_low, denominator.high);
  // (2 / ln 2) (s + s^3 / 3 + …)
  const auto z = Ops::mul(s, s);
  auto p = Ops::set(3.404240608e-01f);
  p = Ops::fma(p, z, Ops::set(4.116961062e-01f));
  p = Ops::fma(p, z, Ops::set(5.770829916e-01f));
  p = Ops::fma(p, z, Ops::set(9.617967010e-01f));
  const auto factor = Ops::set(2.885390043e+00f);
  const auto first = Ops::mul(s, factor);
  auto low = Ops::fma(s, factor, Ops::sub(minus_zero, first));
  low = Ops::fma(s, Ops::set(3.851926067e-08f), low);
  low = Ops::fma(s_low, factor, low);
  low = Ops::fma(Ops::mul(z, s), p, low);
  const auto sum = exact_sum<Ops>(parts.exponent, first);
  return exact_sum<Ops>(sum.high, Ops::add(sum.low, low));
}

// 2^y.
template <class Ops>
LOCKSTEP_MATH typename Ops::Float exp2_of_pair(Pair<Ops> y) {
  // Beyond these bounds the result is 0 or infinity anyway, and y may be infinite.
  const auto inside = Ops::less(absolute_of<Ops>(y.high), Ops::set(160.0f));
  const auto high = clamp<Ops>(y.high, -160.0f, 160.0f);
  const auto low = Ops::select(inside, y.low, Ops::set(0.0f));
  const auto magic = Ops::set(12582912.0f);
  const auto shifted = Ops::add(high, magic);
  const auto exponent = Ops::sub_int(Ops::bits(shifted), Ops::bits(magic));
  // A remainder of high is 0 or at least a unit in high's last place.
  const auto rest = exact_sum<Ops>(Ops::sub(high, Ops::sub(shifted, magic)), low);
  // e^r for r + r_low = rest * ln 2.
  const auto ln2 = Ops::set(6.931471825e-01f);
  const auto r = Ops::mul(rest.high, ln2);
  auto r_low = Ops::fma(rest.high, ln2, Ops::sub(Ops::set(-0.0f), r));
  r_low = Ops::fma(rest.high, Ops::set(-1.904654212e-09f), r_low);
  r_low = Ops::fma(rest.low, ln2, r_low);
  const auto sum = exact_sum<Ops>(Ops::set(1.0f), r);
  const auto small = Ops::fma(exp_polynomial<Ops>(r), Ops::mul(r, r), r_low);
  return scale<Ops>(Ops::add(sum.high, Ops::add(sum.low, small)), exponent);
}

// a^b with C's conventions, which are Keras' too: 1 for b = 0 and for a = 1, whatever the other is;
// a zero or an infinity of a^b has the sign of a where b is odd; NaN for finite a < 0 where b is no
// integer.
template <class Ops>
LOCKSTEP_MATH typename Ops::Float power_of(typename Ops::Float a, typename Ops::Float b) {
  const auto zero = Ops::set(0.0f);
  const auto one = Ops::set(1.0f);
  const auto infinity = Ops::set(kInfinity);
  const auto magnitude = absolute_of<Ops>(a);
  const auto logarithm = log2_pair<Ops>(magnitude);
  auto high = logarithm.high;
  high = Ops::select(Ops::equal(magnitude, zero), Ops::set(-kInfinity), high);
  high = Ops::select(Ops::equal(magnitude, infinity), infinity, high);
  Pair<Ops> product;
  product.high = Ops::mul(b, high);
  product.low = Ops::fma(b, high, Ops::sub(Ops::set(-0.0f), product.high));
  product.low = Ops::fma(b, logarithm.low, product.low);
  auto y = exp2_of_pair<Ops>(product);
  y = Ops::select(Ops::equal(magnitude, one), one, y);  // with b infinite too
  // Every float beyond 2^24 is even, and so are the infinities.
  const auto half = Ops::mul(b, Ops::set(0.5f));
  const auto integral = Ops::equal(Ops::floor(b), b);
  const auto odd = Ops::without(integral, Ops::equal(Ops::floor(half), half));
  y = Ops::select(odd, with_sign_of<Ops>(a, y), y);
  const auto negative = Ops::both(Ops::less(a, zero), Ops::less(magnitude, infinity));
  y = Ops::select(Ops::without(negative, integral), Ops::set(kNan), y);
  y = unless_nan<Ops>(a, unless_nan<Ops>(b, y));
  return Ops::select(Ops::either(Ops::equal(a, one), Ops::equal(b, zero)), one, y);
}

LOCKSTEP_MATH float power(float a, float b) { return power_of<ScalarOps>(a, b); }

}  // namespace lockstep::math
