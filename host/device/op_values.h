// Where a prepared op finds its values: the same on every device.
#pragma once

#include <span>

#include "host/device/ops.h"

namespace lockstep {

// `values[v]` is the memory of value v, as PreparedOp::run gets it.
struct OpValues {
  OpDesc op;
  const float* input(int i, std::span<float* const> values) const;
  float* output(std::span<float* const> values) const;  // the only one
  float* output(int i, std::span<float* const> values) const;
  // nullptr where the op has none.
  const float* relu_mask(std::span<float* const> values) const;
};

}  // namespace lockstep
