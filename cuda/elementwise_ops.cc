// Input, pooling, dropout, relu, softmax and the loss: our own kernels, the CPU's bits.
#include "cuda/kernels_general.h"
#include "cuda/prepared_ops.h"
#include "host/core/check.h"

namespace lockstep::cuda {
namespace {

Status run_input(const OpSetting& s, const InputOp& op, const RunContext& context, Values values) {
  const StagedBatch& batch = s.gpu->batch();
  const float* from = batch.inputs;
  int64_t columns = batch.features;
  if (op.part == BatchPart::targets) {
    from = batch.targets;
    columns = batch.target_features;
  } else if (op.part == BatchPart::weights) {
    from = batch.weights;
    columns = batch.weight_columns;
  }
  from += context.first_row * columns;
  const cudaStream_t stream = s.gpu->branch().stream;
  if (op.features != columns) {
    return launch_columns(from, columns, op.offset, op.features, s.rows, s.output(values), stream);
  }
  LOCKSTEP_CHECK(op.offset == 0);
  const size_t bytes = static_cast<size_t>(s.rows * columns) * sizeof(float);
  return LOCKSTEP_CUDA_STATUS(
      cudaMemcpyAsync(s.output(values), from, bytes, cudaMemcpyDeviceToDevice, stream));
}

Status run_pool(const OpSetting& s, const MaxPool2dOp& op, const RunContext&, Values values) {
  const cudaStream_t stream = s.gpu->branch().stream;
  if (op.pass == Pass::forward) {
    return launch_max_pool(op, s.input(0, values), s.rows, s.output(values), stream);
  }
  return launch_max_pool_gradient(op, s.input(0, values), s.input(1, values), s.input(2, values),
                                  s.relu_mask(values), s.rows, s.output(values), stream);
}

Status run_dropout(const OpSetting& s, const DropoutOp& op, const RunContext& context,
                   Values values) {
  const StagedBatch& batch = s.gpu->batch();
  return launch_dropout(op, batch.parameters, batch.positions + context.first_row,
                        s.input(0, values), s.relu_mask(values), s.rows, s.output(values),
                        s.gpu->branch().stream);
}

Status run_relu(const OpSetting& s, const ReluOp& op, const RunContext&, Values values) {
  const cudaStream_t stream = s.gpu->branch().stream;
  const int64_t count = s.rows * op.features;
  if (op.pass == Pass::forward) {
    return launch_relu(s.input(0, values), count, s.output(values), stream);
  }
  return launch_relu_gradient(s.input(0, values), s.input(1, values), s.relu_mask(values), count,
                              s.output(values), stream);
}

Status run_softmax(const OpSetting& s, const SoftmaxOp& op, const RunContext&, Values values) {
  return launch_softmax(s.input(0, values), s.rows, op.features, s.output(values),
                        s.gpu->branch().stream);
}

Status run_loss(const OpSetting& s, const SoftmaxCrossEntropyOp& op, const RunContext& context,
                Values values) {
  const StagedBatch& batch = s.gpu->batch();
  const Branch& branch = s.gpu->branch();
  float* dlogits = s.op.outputs.empty() ? nullptr : s.output(values);
  return launch_cross_entropy(s.input(0, values), batch.labels + context.first_row,
                              batch.parameters, s.rows, op.classes, dlogits, branch.scratch,
                              context.roots[0] + op.metrics_offset, branch.stream);
}

}  // namespace

Prepared prepare_input(const OpSetting& setting, const InputOp& op) {
  return launched<run_input>(setting, op);
}

Prepared prepare_pool(const OpSetting& setting, const MaxPool2dOp& op) {
  return launched<run_pool>(setting, op);
}

Prepared prepare_dropout(const OpSetting& setting, const DropoutOp& op) {
  return launched<run_dropout>(setting, op);
}

Prepared prepare_relu(const OpSetting& setting, const ReluOp& op) {
  return launched<run_relu>(setting, op);
}

Prepared prepare_softmax(const OpSetting& setting, const SoftmaxOp& op) {
  return launched<run_softmax>(setting, op);
}

Prepared prepare_loss(const OpSetting& setting, const SoftmaxCrossEntropyOp& op) {
  LOCKSTEP_CHECK(2 * int64_t{setting.rows} * 4 <= kScratchBytes);
  return launched<run_loss>(setting, op);
}

}  // namespace lockstep::cuda
