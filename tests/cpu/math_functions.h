// The functions of host/core/math*.h by name, for scalars and for the vectors of each instruction
// set (math_lanes_*.cc).
#pragma once

#include <cstdint>

#include "host/core/math.h"
#include "host/core/math_normal.h"
#include "host/core/math_power.h"

namespace lockstep::cpu_test {

enum class MathFunction {
  absolute,
  negate,
  sign,
  floor,
  square_root,
  exp,
  expm1,
  log,
  log1p,
  tanh,
  sigmoid,
  erf,
  sin_turn,
  cos_turn,
  power,   // of a and b
  normal,  // of the bits of a and b
};
inline constexpr int kMathFunctions = 16;

template <class Ops>
LOCKSTEP_MATH typename Ops::Float apply(MathFunction function, typename Ops::Float a,
                                        typename Ops::Float b) {
  switch (function) {
    case MathFunction::absolute:
      return math::absolute_of<Ops>(a);
    case MathFunction::negate:
      return math::negate_of<Ops>(a);
    case MathFunction::sign:
      return math::sign_of<Ops>(a);
    case MathFunction::floor:
      return math::floor_of<Ops>(a);
    case MathFunction::square_root:
      return math::square_root_of<Ops>(a);
    case MathFunction::exp:
      return math::exp_of<Ops>(a);
    case MathFunction::expm1:
      return math::expm1_of<Ops>(a);
    case MathFunction::log:
      return math::log_of<Ops>(a);
    case MathFunction::log1p:
      return math::log1p_of<Ops>(a);
    case MathFunction::tanh:
      return math::tanh_of<Ops>(a);
    case MathFunction::sigmoid:
      return math::sigmoid_of<Ops>(a);
    case MathFunction::erf:
      return math::erf_of<Ops>(a);
    case MathFunction::sin_turn:
      return math::sin_of_turn<Ops>(a);
    case MathFunction::cos_turn:
      return math::cos_of_turn<Ops>(a);
    case MathFunction::power:
      return math::power_of<Ops>(a, b);
    case MathFunction::normal:
      return math::normal_of<Ops>(Ops::bits(a), Ops::bits(b));
  }
  return a;
}

// out[i] = function(a[i], b[i]); `count` is a multiple of 16. Only where the CPU has the
// instructions.
void apply_avx2(MathFunction function, const float* a, const float* b, float* out, int64_t count);
void apply_avx512(MathFunction function, const float* a, const float* b, float* out, int64_t count);

}  // namespace lockstep::cpu_test
