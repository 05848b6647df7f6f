// bfloat16: the upper half of a float32. The same function on the GPU and on the CPU.
#pragma once

#include <cstdint>

#include "host/core/math.h"

namespace lockstep {

struct Bf16 {
  uint16_t bits = 0;
  bool operator==(const Bf16&) const = default;
};

// The nearest, of two as near the even one; beyond the largest, infinity. A NaN stays one, quiet,
// with its sign and what fits of its payload.
LOCKSTEP_MATH Bf16 to_bf16(float x) {
  const auto bits = __builtin_bit_cast(uint32_t, x);
  const uint32_t upper = bits >> 16;
  const bool is_nan = (bits & 0x7fffffffu) > 0x7f800000u;
  const uint32_t rounded = (bits + 0x7fffu + (upper & 1u)) >> 16;
  return {static_cast<uint16_t>(is_nan ? upper | 0x40u : rounded)};
}

LOCKSTEP_MATH float to_float(Bf16 x) {
  return __builtin_bit_cast(float, static_cast<uint32_t>(x.bits) << 16);
}

}  // namespace lockstep
