// The general ops: expressions, gathers, sums, matrices, embeddings, batch normalization.
#include <fmt/format.h>

#include <vector>

#include "cuda/kernels_general.h"
#include "cuda/prepared_ops.h"
#include "host/core/check.h"

namespace lockstep::cuda {
namespace {

// Refuses what does not fit into a branch's scratch memory.
Status check_scratch(int64_t floats, const char* what) {
  if (floats * int64_t{sizeof(float)} <= kScratchBytes) return {};
  return Error{fmt::format("{} takes {} MiB of scratch memory; a GPU has {} for it", what,
                           floats * int64_t{sizeof(float)} >> 20, kScratchBytes >> 20)};
}

struct PreparedMap {
  MapOp op;
  ExpressionPlan plan;
};

Status run_map(const OpSetting& s, const PreparedMap& map, const RunContext& context,
               Values values) {
  std::vector<const float*> operands;
  for (const MapOperand& operand : map.op.operands) {
    operands.push_back(operand.input < 0 ? context.weights + operand.offset
                                         : s.input(operand.input, values));
  }
  const StagedBatch& batch = s.gpu->batch();
  MapMemory memory;
  memory.operands = operands;
  memory.parameters = batch.parameters;
  memory.positions = batch.positions + context.first_row;
  memory.mask = s.relu_mask(values);
  memory.y = s.output(values);
  return launch_map_op(map.op, map.plan, memory, s.rows, s.gpu->branch().stream);
}

struct PreparedParameterSum {
  ParameterSumOp op;
  ChannelShape shape;
};

// Sums over channels-last values are those of a matrix's columns.
Status run_parameter_sum(const OpSetting& s, const PreparedParameterSum& sum,
                         const RunContext& context, Values values) {
  const Branch& branch = s.gpu->branch();
  float* out = context.roots[0] + sum.op.offset;
  if (sum.shape.inner == 1) {
    return launch_column_sums(s.input(0, values), sum.shape.per_channel, sum.shape.channels,
                              branch.scratch, out, branch.stream);
  }
  return launch_channel_sums(sum.shape, s.input(0, values), branch.scratch, out, branch.stream);
}

struct PreparedGather {
  GatherOp op;
  ListCache::Lists lists;
};

Status run_gather(const OpSetting& s, const PreparedGather& gather, const RunContext&,
                  Values values) {
  std::vector<const float*> inputs;
  for (size_t i = 0; i < gather.op.input_features.size(); ++i) {
    inputs.push_back(s.input(static_cast<int>(i), values));
  }
  return launch_gather(gather.op, *gather.lists, inputs, s.relu_mask(values), s.rows,
                       s.output(values), s.gpu->branch().stream);
}

struct PreparedGatherGradient {
  GatherMaximumGradientOp op;
  ListCache::Lists lists, readers;
};

Status run_gather_gradient(const OpSetting& s, const PreparedGatherGradient& gradient,
                           const RunContext&, Values values) {
  return launch_gather_maximum_gradient(
      gradient.op, *gradient.lists, *gradient.readers, s.input(0, values), s.input(1, values),
      s.input(2, values), s.relu_mask(values), s.rows, s.output(values), s.gpu->branch().stream);
}

Status run_matmul(const OpSetting& s, const MatmulOp& op, const RunContext&, Values values) {
  return launch_matmul(op, s.input(0, values), s.input(1, values), s.relu_mask(values), s.rows,
                       s.output(values), s.gpu->branch().stream);
}

Status run_embedding(const OpSetting& s, const EmbeddingOp& op, const RunContext& context,
                     Values values) {
  const Branch& branch = s.gpu->branch();
  if (op.pass == Pass::forward) {
    return launch_embedding(op, s.input(0, values), context.weights + op.offset, s.rows,
                            s.output(values), branch.stream);
  }
  return launch_embedding_gradient(op, s.input(0, values), s.input(1, values), s.rows,
                                   branch.scratch, context.roots[0] + op.offset, branch.stream);
}

struct PreparedBatchNorm {
  BatchNormOp op;
  ChannelShape shape;
};

Status run_batch_norm(const OpSetting& s, const PreparedBatchNorm& norm, const RunContext& context,
                      Values values) {
  const BatchNormOp& op = norm.op;
  const Branch& branch = s.gpu->branch();
  const auto weights = [&](int64_t offset) {
    return offset < 0 ? nullptr : context.weights + offset;
  };
  BatchNormMemory memory;
  memory.x = s.input(0, values);
  memory.gamma = weights(op.gamma_offset);
  memory.beta = weights(op.beta_offset);
  memory.y = s.output(0, values);
  memory.mean = s.output(1, values);
  memory.deviation = s.output(2, values);
  memory.moments = op.mean_offset < 0 ? nullptr : context.roots[0] + op.mean_offset;
  memory.scratch = branch.scratch;
  return launch_batch_norm(op, norm.shape, memory, s.rows, branch.stream);
}

Status run_batch_norm_gradient(const OpSetting& s, const PreparedBatchNorm& norm,
                               const RunContext& context, Values values) {
  const BatchNormOp& op = norm.op;
  const Branch& branch = s.gpu->branch();
  const auto root = [&](int64_t offset) {
    return offset < 0 ? nullptr : context.roots[0] + offset;
  };
  BatchNormGradientMemory memory;
  memory.x = s.input(0, values);
  memory.dy = s.input(1, values);
  memory.mean = s.input(2, values);
  memory.deviation = s.input(3, values);
  memory.gamma = op.gamma_offset < 0 ? nullptr : context.weights + op.gamma_offset;
  memory.mask = s.relu_mask(values);
  memory.dx = s.output(values);
  memory.gamma_gradient = root(op.gamma_gradient);
  memory.beta_gradient = root(op.beta_gradient);
  memory.scratch = branch.scratch;
  return launch_batch_norm_gradient(op, norm.shape, memory, s.rows, branch.stream);
}

Status run_row_sum(const OpSetting& s, const RowSumOp& op, const RunContext& context,
                   Values values) {
  const Branch& branch = s.gpu->branch();
  return launch_column_sums(s.input(0, values), s.rows, op.count, branch.scratch,
                            context.roots[0] + op.offset, branch.stream);
}

}  // namespace

Prepared prepare_map(const OpSetting& setting, const MapOp& op) {
  LOCKSTEP_ASSIGN(auto plan, plan_expression(op.expression));
  return launched<run_map>(setting, PreparedMap{op, std::move(plan)});
}

Prepared prepare_parameter_sum(const OpSetting& setting, const ParameterSumOp& op) {
  LOCKSTEP_ASSIGN(const auto shape, ChannelShape::of(op.broadcast, op.features, setting.rows));
  const int64_t scratch = shape.inner == 1 ? column_sums_scratch(shape.per_channel, shape.channels)
                                           : channel_scratch(shape);
  LOCKSTEP_RETURN_IF_ERROR(check_scratch(scratch, "the sum over its elements"));
  return launched<run_parameter_sum>(setting, PreparedParameterSum{op, shape});
}

Prepared prepare_gather(const OpSetting& setting, const GatherOp& op) {
  if (op.input_features.size() > kMaxGatherInputs) {
    return Error{fmt::format("it joins {} tensors; a GPU takes at most {} at a time",
                             op.input_features.size(), kMaxGatherInputs)};
  }
  Gpu& gpu = *setting.gpu;
  LOCKSTEP_ASSIGN(auto lists,
                  gpu.lists().find_or_upload(op.lists, ListForm::sources_or_lists, gpu.stream()));
  return launched<run_gather>(setting, PreparedGather{op, std::move(lists)});
}

Prepared prepare_gather_gradient(const OpSetting& setting, const GatherMaximumGradientOp& op) {
  Gpu& gpu = *setting.gpu;
  LOCKSTEP_ASSIGN(auto lists, gpu.lists().find_or_upload(op.lists, ListForm::lists, gpu.stream()));
  LOCKSTEP_ASSIGN(auto readers,
                  gpu.lists().find_or_upload(op.readers, ListForm::lists, gpu.stream()));
  return launched<run_gather_gradient>(
      setting, PreparedGatherGradient{op, std::move(lists), std::move(readers)});
}

Prepared prepare_matmul(const OpSetting& setting, const MatmulOp& op) {
  return launched<run_matmul>(setting, op);
}

Prepared prepare_embedding(const OpSetting& setting, const EmbeddingOp& op) {
  // Beyond this, floats do not hold all whole numbers.
  constexpr int64_t kMaxVocabulary = 1 << 24;
  if (op.vocabulary > kMaxVocabulary) {
    return Error{fmt::format("its vocabulary has {} words; at most {} can be told apart",
                             op.vocabulary, kMaxVocabulary)};
  }
  if (op.pass == Pass::weight_gradient) {
    LOCKSTEP_RETURN_IF_ERROR(
        check_scratch(embedding_scratch(op, setting.rows), "the order of its words"));
  }
  return launched<run_embedding>(setting, op);
}

Prepared prepare_batch_norm(const OpSetting& setting, const BatchNormOp& op) {
  LOCKSTEP_ASSIGN(const auto shape, ChannelShape::of(op.channel, op.features, setting.rows));
  LOCKSTEP_RETURN_IF_ERROR(check_scratch(channel_scratch(shape), "the sum over its channels"));
  const PreparedBatchNorm norm{op, shape};
  return op.pass == Pass::forward ? launched<run_batch_norm>(setting, norm)
                                  : launched<run_batch_norm_gradient>(setting, norm);
}

Prepared prepare_row_sum(const OpSetting& setting, const RowSumOp& op) {
  LOCKSTEP_RETURN_IF_ERROR(
      check_scratch(column_sums_scratch(setting.rows, op.count), "the sum over its rows"));
  return launched<run_row_sum>(setting, op);
}

}  // namespace lockstep::cuda
