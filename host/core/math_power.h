// a^b, as the functions of math.h: the same bits everywhere.
//
// The logarithm is carried in two floats, because its error is multiplied by b. Errors: at most 1
// ulp in results that are normal numbers; powers that a float can hold are exact.
#pragma once

#include "host/core/math.h"

namespace lockstep::math {

// log2(x) for finite x > 0, with a relative error below 2^-33.
template <class Ops>
LOCKSTEP_MATH Pair<Ops> log2_pair(typename Ops::Float x) {
  const auto one = Ops::set(1.0f);
  const auto parts = split<Ops>(x);
  // log2(m) = (2 / ln 2) atanh(s) with s = (m - 1) / (m + 1); |s| < 0.172.
  const auto numerator = Ops::sub(parts.mantissa, one);
  const auto denominator = exact_sum<Ops>(one, parts.mantissa);
  const auto s = Ops::div(numerator, denominator.high);
  const auto minus_s = negate_of<Ops>(s);
  auto s_low = Ops::fma(minus_s, denominator.high, numerator);
  s_low = Ops::fma(minus_s, denominator.low, s_low);
  s_low = Ops::div(s_low, denominator.high);
  // (2 / ln 2) s
  const auto factor = Ops::set(2.885390043e+00f);
  auto first = exact_product<Ops>(s, factor);
  first.low = Ops::fma(s, Ops::set(3.851926067e-08f), first.low);
  first.low = Ops::fma(s_low, factor, first.low);
  // h = atanh(s) / s - 1 = z / 3 + z^2 / 5 + … with z = s^2
  auto z = exact_product<Ops>(s, s);
  z.low = Ops::fma(Ops::add(s, s), s_low, z.low);
  auto p = Ops::set(1.171557456e-01f);
  p = Ops::fma(p, z.high, Ops::set(1.427331269e-01f));
  p = Ops::fma(p, z.high, Ops::set(2.000007778e-01f));
  const auto third = Ops::set(3.333333433e-01f);
  auto h = exact_product<Ops>(z.high, third);
  h.low = Ops::fma(z.high, Ops::set(-9.934107759e-09f), h.low);
  h.low = Ops::fma(z.low, third, h.low);
  h.low = Ops::fma(Ops::mul(z.high, z.high), p, h.low);
  // exponent + first + first h
  auto rest = exact_product<Ops>(first.high, h.high);
  rest.low = Ops::fma(first.low, h.high, rest.low);
  rest.low = Ops::fma(first.high, h.low, rest.low);
  const auto inner = exact_sum<Ops>(first.high, rest.high);
  const auto outer = exact_sum<Ops>(parts.exponent, inner.high);
  const auto low = Ops::add(inner.low, Ops::add(first.low, rest.low));
  return exact_sum<Ops>(outer.high, Ops::add(outer.low, low));
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
  // e^r for r = rest * ln 2.
  const auto ln2 = Ops::set(6.931471825e-01f);
  auto r = exact_product<Ops>(rest.high, ln2);
  r.low = Ops::fma(rest.high, Ops::set(-1.904654212e-09f), r.low);
  r.low = Ops::fma(rest.low, ln2, r.low);
  const auto sum = exact_sum<Ops>(Ops::set(1.0f), r.high);
  const auto small = Ops::fma(exp_polynomial<Ops>(r.high), Ops::mul(r.high, r.high), r.low);
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
  auto product = exact_product<Ops>(b, high);
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
