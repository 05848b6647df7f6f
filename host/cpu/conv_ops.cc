#include <algorithm>
#include <cstring>
#include <vector>

#include "host/core/check.h"
#include "host/cpu/conv_plan.h"
#include "host/cpu/memory.h"
#include "host/cpu/prepared_ops.h"
#include "host/cpu/tree_plan.h"

namespace lockstep::cpu {
namespace {

// Forward, and the data gradient.
class CorrelationOp : public PreparedOp {
 public:
  CorrelationOp(const OpSetting& setting, const Conv2dOp& op)
      : setting_(setting),
        op_(op),
        plan_(op, op.pass == Pass::data_gradient, setting.kernels->lanes),
        panels_(allocate_floats(plan_.panel_floats())) {}

  void run(const RunContext& context, std::span<float* const> values) override {
    plan_.pack(context.weights + op_.kernel_offset, panels_.get());
    CorrelationArgs args = plan_.args(setting_.row_blocks());
    args.input = setting_.input(0, values);
    args.output = setting_.output(values);
    args.panels = panels_.get();
    args.mask = setting_.relu_mask(values);
    if (op_.pass == Pass::forward) {
      if (op_.bias_offset >= 0) args.bias = context.weights + op_.bias_offset;
      args.relu = op_.activation == Activation::relu;
    }
    setting_.kernels->correlate(args);
  }

 private:
  OpSetting setting_;
  Conv2dOp op_;
  CorrelationPlan plan_;
  Memory panels_;
};

class ConvGradientOp : public PreparedOp {
 public:
  ConvGradientOp(const OpSetting& setting, const Conv2dOp& op)
      : setting_(setting),
        op_(op),
        tree_(make_tree_plan(setting.group)),
        blocks_(gradient_blocks(op, setting.kernels->lanes)) {
    capacity_ = padded(op.out_channels);
    int64_t rows = 1;
    for (const GradientBlock& block : blocks_) {
      capacity_ = std::max(capacity_, padded(weights_of(block)));
      rows = std::max(rows, block.rows);
    }
    const int64_t lanes = setting.kernels->lanes;
    const int64_t in_rows = (rows - 1) * op.stride_height + op.kernel_height;
    packed_x_ = allocate_floats(in_rows * op.in_width * op.in_channels * lanes);
    packed_dy_ = allocate_floats(rows * op.out_width * op.out_channels * lanes);
    sums_ = allocate_floats(capacity_ * lanes);
    leaf_ = allocate_floats(capacity_);
    stack_ = allocate_floats(capacity_ * (tree_.stack_depth + 1));
    roots_ = allocate_floats(capacity_ * static_cast<int64_t>(tree_.root_present.size()));
  }

  void run(const RunContext& context, std::span<float* const> values) override {
    LOCKSTEP_CHECK(context.roots.size() == tree_.root_present.size());
    for (const GradientBlock& block : blocks_) {
      run_block(block, setting_.input(0, values), setting_.input(1, values));
      copy_roots(context, block);
    }
    if (op_.bias_offset >= 0) run_bias(context, setting_.input(1, values));
  }

 private:
  static int64_t padded(int64_t count) { return (count + 7) / 8 * 8; }

  int64_t weights_of(const GradientBlock& block) const {
    return int64_t{op_.kernel_height} * op_.kernel_width * (block.in_end - block.in_begin) *
           (block.out_end - block.out_begin);
  }

  void run_block(const GradientBlock& block, const float* x, const float* dy) {
    const int64_t lanes = setting_.kernels->lanes;
    ConvGradientArgs args;
    args.sums = sums_.get();
    args.rows_at_once = block.rows;
    args.segments = block.segments.data();
    args.segment_count = static_cast<int>(block.segments.size());
    args.kernel_height = op_.kernel_height;
    args.kernel_width = op_.kernel_width;
    args.stride_height = op_.stride_height;
    args.stride_width = op_.stride_width;
    args.pad_top = op_.pad_top;
    args.pad_left = op_.pad_left;
    args.in_height = op_.in_height;
    args.in_width = op_.in_width;
    args.out_height = op_.out_height;
    args.out_width = op_.out_width;
    args.in_channels = op_.in_channels;
    args.out_channels = op_.out_channels;
    args.block_inputs = block.in_end - block.in_begin;
    args.block_outputs = block.out_end - block.out_begin;
    if (args.block_inputs < args.in_channels) args.packed_x = packed_x_.get();
    if (args.block_outputs < args.out_channels) args.packed_dy = packed_dy_.get();
    const int64_t x_image = int64_t{op_.in_height} * op_.in_width * op_.in_channels;
    const int64_t dy_image = int64_t{op_.out_height} * op_.out_width * op_.out_channels;
    for (int64_t row_block = 0; row_block < setting_.row_blocks(); ++row_block) {
      args.x = x + (row_block * x_image + block.in_begin) * lanes;
      args.dy = dy + (row_block * dy_image + block.out_begin) * lanes;
      setting_.kernels->conv_weight_gradient(args);
      reduce(row_block, padded(weights_of(block)));
    }
  }

  void reduce(int64_t row_block, int64_t count) {
    const int64_t lanes = setting_.kernels->lanes;
    LaneReduceArgs args;
    args.sums = sums_.get();
    args.steps = tree_.rows.data() + row_block * lanes;
    args.rows = static_cast<int>(std::min(lanes, setting_.rows() - row_block * lanes));
    args.count = count;
    args.leaf = leaf_.get();
    args.stack = stack_.get();
    args.roots = roots_.get();
    setting_.kernels->lane_reduce(args);
  }

  void copy_roots(const RunContext& context, const GradientBlock& block) {
    const int64_t outs = block.out_end - block.out_begin;
    const int64_t ins = block.in_end - block.in_begin;
    const int64_t count = padded(weights_of(block));
    for (size_t i = 0; i < tree_.root_present.size(); ++i) {
      if (!tree_.root_present[i]) continue;
      const float* from = roots_.get() + static_cast<int64_t>(i) * count;
      float* to = context.roots[i] + op_.kernel_offset;
      for (int64_t tap = 0; tap < int64_t{op_.kernel_height} * op_.kernel_width; ++tap) {
        for (int64_t in = 0; in < ins; ++in) {
          std::memcpy(to + (tap * op_.in_channels + block.in_begin + in) * op_.out_channels +
                          block.out_begin,
                      from + (tap * ins + in) * outs, static_cast<size_t>(outs) * sizeof(float));
        }
      }
    }
  }

  void run_bias(const RunContext& context, const float* dy) {
    ConvBiasArgs args;
    args.sums = sums_.get();
    args.pixels = int64_t{op_.out_height} * op_.out_width;
    args.channels = op_.out_channels;
    for (int64_t row_block = 0; row_block < setting_.row_blocks(); ++row_block) {
      args.dy = dy + row_block * args.pixels * args.channels * setting_.kernels->lanes;
      setting_.kernels->conv_bias_gradient(args);
      reduce(row_block, padded(op_.out_channels));
    }
    for (size_t i = 0; i < tree_.root_present.size(); ++i) {
      if (!tree_.root_present[i]) continue;
      std::memcpy(context.roots[i] + op_.bias_offset,
                  roots_.get() + static_cast<int64_t>(i) * padded(op_.out_channels),
                  static_cast<size_t>(op_.out_channels) * sizeof(float));
    }
  }

  OpSetting setting_;
  Conv2dOp op_;
  TreePlan tree_;
  std::vector<GradientBlock> blocks_;
  int64_t capacity_ = 0;  // weights of the largest block
  Memory packed_x_, packed_dy_, sums_, leaf_, stack_, roots_;
};

}  // namespace

std::unique_ptr<PreparedOp> prepare_conv(const OpSetting& setting, const Conv2dOp& op) {
  if (!op.is_plain()) return prepare_tap_conv(setting, op);
  if (op.pass == Pass::weight_gradient) return std::make_unique<ConvGradientOp>(setting, op);
  return std::make_unique<CorrelationOp>(setting, op);
}

}  // namespace lockstep::cpu
