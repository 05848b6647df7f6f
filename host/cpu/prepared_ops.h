// The CPU's prepared ops: shapes and group fixed.
#pragma once

#include <memory>

#include "host/cpu/kernels.h"
#include "host/cpu/memory.h"
#include "host/device/device.h"
#include "host/device/op_values.h"

namespace lockstep::cpu {

// What every prepared op knows.
struct OpSetting : OpValues {
  const KernelTable* kernels = nullptr;
  PartitionGroup group;
  int64_t rows() const { return group.total_rows(); }
  int64_t row_blocks() const { return (rows() + kernels->lanes - 1) / kernels->lanes; }
  int64_t padded_rows() const { return row_blocks() * kernels->lanes; }
  // Applies the relu mask, if there is one, to the output as it lies in memory.
  void mask_output(std::span<float* const> values, int64_t features) const;
};

class CpuOp : public PreparedOp {
 public:
  // Of the memory that it needs while it runs (RunContext::work): nothing is left in it for later.
  virtual int64_t work_floats() const { return 0; }
};

std::unique_ptr<CpuOp> prepare_conv(const OpSetting& setting, const Conv2dOp& op);
std::unique_ptr<CpuOp> prepare_tap_conv(const OpSetting& setting, const Conv2dOp& op);
std::unique_ptr<CpuOp> prepare_dense(const OpSetting& setting, const DenseOp& op);
std::unique_ptr<CpuOp> prepare_pool(const OpSetting& setting, const MaxPool2dOp& op);
std::unique_ptr<CpuOp> prepare_input(const OpSetting& setting, const InputOp& op);
std::unique_ptr<CpuOp> prepare_dropout(const OpSetting& setting, const DropoutOp& op);
std::unique_ptr<CpuOp> prepare_relu(const OpSetting& setting, const ReluOp& op);
std::unique_ptr<CpuOp> prepare_softmax(const OpSetting& setting, const SoftmaxOp& op);
std::unique_ptr<CpuOp> prepare_loss(const OpSetting& setting, const SoftmaxCrossEntropyOp& op);
std::unique_ptr<CpuOp> prepare_map(const OpSetting& setting, const MapOp& op);
std::unique_ptr<CpuOp> prepare_gather(const OpSetting& setting, const GatherOp& op);
std::unique_ptr<CpuOp> prepare_maximum_gradient(const OpSetting& setting,
                                                const GatherMaximumGradientOp& op);
std::unique_ptr<CpuOp> prepare_matmul(const OpSetting& setting, const MatmulOp& op);
std::unique_ptr<CpuOp> prepare_embedding(const OpSetting& setting, const EmbeddingOp& op);
std::unique_ptr<CpuOp> prepare_batch_norm(const OpSetting& setting, const BatchNormOp& op);
std::unique_ptr<CpuOp> prepare_sum(const OpSetting& setting, const ParameterSumOp& op);

}  // namespace lockstep::cpu
