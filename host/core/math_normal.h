// Normally distributed numbers, as the functions of math.h: the same bits everywhere.
#pragma once

#include "host/core/math.h"

namespace lockstep::math {

// u turns, in [0, 1), as quadrants and a rest of at most an eighth.
template <class Ops>
LOCKSTEP_MATH Reduced<Ops> reduce_by_quadrant(typename Ops::Float u) {
  const auto magic = Ops::set(12582912.0f);
  const auto shifted = Ops::fma(u, Ops::set(4.0f), magic);
  return {Ops::sub_int(Ops::bits(shifted), Ops::bits(magic)),
          Ops::fma(Ops::sub(shifted, magic), Ops::set(-0.25f), u)};
}

// sin(2 pi (exponent / 4 + remainder)).
template <class Ops>
LOCKSTEP_MATH typename Ops::Float sin_of_reduced(Reduced<Ops> u) {
  const auto r = u.remainder;
  const auto z = Ops::mul(r, r);
  // sin(2 pi r)
  auto p = Ops::set(4.148464203e+01f);
  p = Ops::fma(p, z, Ops::set(-7.669828796e+01f));
  p = Ops::fma(p, z, Ops::set(8.160520935e+01f));
  p = Ops::fma(p, z, Ops::set(-4.134170151e+01f));
  p = Ops::fma(p, z, Ops::set(-1.748455531e-07f));
  const auto sine = Ops::fma(r, Ops::set(6.283185482e+00f), Ops::mul(p, r));
  // cos(2 pi r)
  auto q = Ops::set(5.922918701e+01f);
  q = Ops::fma(q, z, Ops::set(-8.544323730e+01f));
  q = Ops::fma(q, z, Ops::set(6.493932343e+01f));
  q = Ops::fma(q, z, Ops::set(-1.973920822e+01f));
  const auto cosine = Ops::fma(q, z, Ops::set(1.0f));
  const auto even = Ops::equal_int(Ops::bit_and(u.exponent, Ops::set_int(1)), Ops::set_int(0));
  const auto minus = Ops::template shift_left<30>(Ops::bit_and(u.exponent, Ops::set_int(2)));
  const auto y = Ops::select(even, sine, cosine);
  return Ops::from_bits(Ops::exclusive_or(Ops::bits(y), minus));
}

// sin(2 pi u) and cos(2 pi u) for u in [0, 1).
template <class Ops>
LOCKSTEP_MATH typename Ops::Float sin_of_turn(typename Ops::Float u) {
  return sin_of_reduced<Ops>(reduce_by_quadrant<Ops>(u));
}

template <class Ops>
LOCKSTEP_MATH typename Ops::Float cos_of_turn(typename Ops::Float u) {
  auto reduced = reduce_by_quadrant<Ops>(u);
  reduced.exponent = Ops::add_int(reduced.exponent, Ops::set_int(1));
  return sin_of_reduced<Ops>(reduced);
}

// A standard normal number of two random words (Box and Muller 1958):
// sqrt(-2 log(u1)) cos(2 pi u2), with 24 bits in u1, from (0, 1], and in u2, from [0, 1). Its
// magnitude is at most 5.77.
template <class Ops>
LOCKSTEP_MATH typename Ops::Float normal_of(typename Ops::Int word0, typename Ops::Int word1) {
  const auto unit = Ops::set(1.0f / 16777216.0f);
  const auto count = Ops::add_int(Ops::template shift_right_unsigned<8>(word0), Ops::set_int(1));
  const auto u1 = Ops::mul(Ops::to_float(count), unit);
  const auto u2 = Ops::mul(Ops::to_float(Ops::template shift_right_unsigned<8>(word1)), unit);
  const auto radius = Ops::sqrt(Ops::mul(log_of<Ops>(u1), Ops::set(-2.0f)));
  return Ops::mul(radius, cos_of_turn<Ops>(u2));
}

LOCKSTEP_MATH float sin_turn(float u) { return sin_of_turn<ScalarOps>(u); }
LOCKSTEP_MATH float cos_turn(float u) { return cos_of_turn<ScalarOps>(u); }

}  // namespace lockstep::math
