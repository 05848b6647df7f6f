// Division by numbers that a launch knows: a multiplication and a shift.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "host/core/check.h"

namespace lockstep {

// Divides numbers below 2^31 (Granlund and Montgomery, "Division by invariant integers using
// multiplication", 1994).
struct Divisor {
  uint32_t divisor = 1;
  uint32_t multiplier = uint32_t{1} << 31;  // 2^(31 + bits) / divisor, rounded up
  uint32_t shift = 31;                      // 31 + bits, with divisor <= 2^bits

  Divisor() = default;
  explicit Divisor(int64_t by) : divisor(static_cast<uint32_t>(by)) {
    LOCKSTEP_CHECK(by > 0 && by <= INT32_MAX);
    while ((uint64_t{1} << (shift - 31)) < divisor) ++shift;
    multiplier = static_cast<uint32_t>(((uint64_t{1} << shift) + divisor - 1) / divisor);
  }
  __host__ __device__ uint32_t quotient(uint32_t n) const {
    return static_cast<uint32_t>((uint64_t{n} * multiplier) >> shift);
  }
  __host__ __device__ uint32_t remainder(uint32_t n) const { return n - quotient(n) * divisor; }
};

}  // namespace lockstep
