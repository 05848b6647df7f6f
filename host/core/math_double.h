// Functions of doubles for schedules and step counts: from operations that IEEE 754 fixes, so that
// they are the same bits on every machine, which libm's are not. Relative errors are below 1e-14
// for the arguments of learning rates; for the hot loops there is math.h.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <numbers>

namespace lockstep::math {

// By repeated squaring.
inline double integer_power(double base, int64_t exponent) {
  double result = 1;
  for (; exponent > 0; exponent >>= 1) {
    if (exponent & 1) result *= base;
    base *= base;
  }
  return result;
}

inline double exp_double(double x) {
  if (x > 709) return std::numeric_limits<double>::infinity();
  if (x < -745) return 0;
  const double exponent = std::floor(x * std::numbers::log2e + 0.5);
  // ln 2 in two parts, the first with 21 zero bits at its end.
  double r = x - exponent * 0x1.62e42feep-1;
  r -= exponent * 0x1.a39ef35793c76p-33;
  double sum = 1;
  for (int k = 18; k > 0; --k) sum = 1 + sum * r / k;
  return std::ldexp(sum, static_cast<int>(exponent));
}

// Of x > 0.
inline double log_double(double x) {
  int exponent = 0;
  double mantissa = std::frexp(x, &exponent);  // in [0.5, 1)
  if (mantissa < std::numbers::sqrt2 / 2) {
    mantissa *= 2;
    --exponent;
  }
  const double s = (mantissa - 1) / (mantissa + 1);  // |s| < 0.172
  double sum = 0;
  for (int k = 25; k > 0; k -= 2) sum = sum * s * s + 1.0 / k;
  return exponent * std::numbers::ln2 + 2 * s * sum;
}

// base^exponent for base >= 0.
inline double power_double(double base, double exponent) {
  if (exponent >= 0 && exponent == std::floor(exponent) && exponent < 0x1p52) {
    return integer_power(base, static_cast<int64_t>(exponent));
  }
  if (base == 0) return exponent > 0 ? 0 : std::numeric_limits<double>::infinity();
  return exp_double(exponent * log_double(base));
}

// cos(pi x) for 0 <= x <= 1.
inline double cos_pi(double x) {
  if (x > 0.5) return -cos_pi(1 - x);
  const double square = std::numbers::pi * x * (std::numbers::pi * x);
  double sum = 1;
  for (int k = 24; k > 0; k -= 2) sum = 1 - sum * square / (k * (k - 1));
  return sum;
}

}  // namespace lockstep::math
