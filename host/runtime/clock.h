// The clock of everything that has a deadline.
#pragma once

#include <chrono>
#include <cstdint>

namespace lockstep {

// Milliseconds since some moment; never goes back.
inline int64_t monotonic_ms() {
  return std::chrono::duration_cast<std::chrono::milliseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

}  // namespace lockstep
