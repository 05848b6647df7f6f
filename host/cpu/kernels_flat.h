// Sums over flat memory for optimizers that look at whole parameters: host/device/flat_sums.h. Part
// of each instruction set's kernels.
#pragma once

#include "host/cpu/kernels.h"
#include "host/device/flat_sums.h"

namespace lockstep::cpu::LOCKSTEP_ISA {

inline double squares(const float* x, int64_t count) {
  double lanes[kSquaresLanes] = {};
  int64_t i = 0;
  for (; i + kSquaresLanes <= count; i += kSquaresLanes) {
    for (int lane = 0; lane < kSquaresLanes; ++lane) {
      const double value = x[i + lane];
      lanes[lane] += value * value;
    }
  }
  for (int lane = 0; i + lane < count; ++lane) {
    const double value = x[i + lane];
    lanes[lane] += value * value;
  }
  for (int half = kSquaresLanes / 2; half > 0; half /= 2) {
    for (int lane = 0; lane < half; ++lane) lanes[lane] += lanes[lane + half];
  }
  return lanes[0];
}

}  // namespace lockstep::cpu::LOCKSTEP_ISA
