// The GPU's prepared ops: one partition each, shapes fixed, vendor plans chosen.
#pragma once

#include <memory>

#include "cuda/gpu.h"
#include "host/device/device.h"

namespace lockstep::cuda {

// What every prepared op knows.
struct OpSetting {
  Gpu* gpu = nullptr;
  OpDesc op;
  int rows = 0;
  const float* input(int i, std::span<float* const> values) const;
  float* output(std::span<float* const> values) const;
  // nullptr where the op has none.
  const float* relu_mask(std::span<float* const> values) const;
};

using Prepared = Result<std::unique_ptr<PreparedOp>>;

Prepared prepare_conv(const OpSetting& setting, const Conv2dOp& op);
Prepared prepare_dense(const OpSetting& setting, const DenseOp& op);
Prepared prepare_input(const OpSetting& setting, const InputOp& op);
Prepared prepare_pool(const OpSetting& setting, const MaxPool2dOp& op);
Prepared prepare_dropout(const OpSetting& setting, const DropoutOp& op);
Prepared prepare_relu(const OpSetting& setting, const ReluOp& op);
Prepared prepare_softmax(const OpSetting& setting, const SoftmaxOp& op);
Prepared prepare_loss(const OpSetting& setting, const SoftmaxCrossEntropyOp& op);

}  // namespace lockstep::cuda
