#include "host/device/op_values.h"

#include "host/core/check.h"

namespace lockstep {

const float* OpValues::input(int i, std::span<float* const> values) const {
  LOCKSTEP_CHECK(static_cast<size_t>(i) < op.inputs.size());
  return values[static_cast<size_t>(op.inputs[static_cast<size_t>(i)])];
}

float* OpValues::output(std::span<float* const> values) const {
  LOCKSTEP_CHECK(op.outputs.size() == 1);
  return output(0, values);
}

float* OpValues::output(int i, std::span<float* const> values) const {
  LOCKSTEP_CHECK(static_cast<size_t>(i) < op.outputs.size());
  return values[static_cast<size_t>(op.outputs[static_cast<size_t>(i)])];
}

const float* OpValues::relu_mask(std::span<float* const> values) const {
  return op.relu_mask < 0 ? nullptr : values[static_cast<size_t>(op.relu_mask)];
}

}  // namespace lockstep
