// The GPU's prepared ops: one partition each, shapes fixed, vendor plans chosen.
#pragma once

#include <memory>
#include <utility>

#include "cuda/gpu.h"
#include "host/device/device.h"
#include "host/device/op_values.h"

namespace lockstep::cuda {

// What every prepared op knows.
struct OpSetting : OpValues {
  Gpu* gpu = nullptr;
  int rows = 0;
};

using Prepared = Result<std::unique_ptr<PreparedOp>>;
using Values = std::span<float* const>;

// An op that launches `run(setting, op, context, values)` on the branch under way. Op is what that
// needs: the attributes, or what has been made of them.
template <class Op, auto kRun>
class Launched : public PreparedOp {
 public:
  Launched(OpSetting setting, Op op) : setting_(std::move(setting)), op_(std::move(op)) {}
  void run(const RunContext& context, Values values) override {
    setting_.gpu->note(kRun(setting_, op_, context, values));
  }

 private:
  const OpSetting setting_;
  const Op op_;
};

template <auto kRun, class Op>
Prepared launched(const OpSetting& setting, Op op) {
  return std::unique_ptr<PreparedOp>(std::make_unique<Launched<Op, kRun>>(setting, std::move(op)));
}

Prepared prepare_conv(const OpSetting& setting, const Conv2dOp& op);
Prepared prepare_dense(const OpSetting& setting, const DenseOp& op);
Prepared prepare_input(const OpSetting& setting, const InputOp& op);
Prepared prepare_pool(const OpSetting& setting, const MaxPool2dOp& op);
Prepared prepare_dropout(const OpSetting& setting, const DropoutOp& op);
Prepared prepare_relu(const OpSetting& setting, const ReluOp& op);
Prepared prepare_softmax(const OpSetting& setting, const SoftmaxOp& op);
Prepared prepare_loss(const OpSetting& setting, const SoftmaxCrossEntropyOp& op);
Prepared prepare_map(const OpSetting& setting, const MapOp& op);
Prepared prepare_parameter_sum(const OpSetting& setting, const ParameterSumOp& op);
Prepared prepare_gather(const OpSetting& setting, const GatherOp& op);
Prepared prepare_gather_gradient(const OpSetting& setting, const GatherMaximumGradientOp& op);
Prepared prepare_matmul(const OpSetting& setting, const MatmulOp& op);
Prepared prepare_embedding(const OpSetting& setting, const EmbeddingOp& op);
Prepared prepare_batch_norm(const OpSetting& setting, const BatchNormOp& op);
Prepared prepare_row_sum(const OpSetting& setting, const RowSumOp& op);

}  // namespace lockstep::cuda
