#include <algorithm>
#include <cstring>
#include <vector>

#include "host/core/check.h"
#include "host/cpu/conv_plan.h"
#include "host/cpu/prepared_ops.h"
#include "host/cpu/tree_plan.h"

namespace lockstep::cpu {
namespace {

constexpr int64_t kLineFloats = 16;  // of a cache line

// Forward, and the data gradient.
class CorrelationOp : public CpuOp {
 public:
  CorrelationOp(const OpSetting& setting, const Conv2dOp& op)
      : setting_(setting),
        op_(op),
        plan_(op, op.pass == Pass::data_gradient, setting.kernels->lanes) {}

  int64_t work_floats() const override { return plan_.panel_floats(); }
  void run(const RunContext& context, std::span<float* const> values) override {
    auto* panels = static_cast<float*>(context.work);
    plan_.pack(context.weights + op_.kernel_offset, panels);
    CorrelationArgs args = plan_.args(setting_.row_blocks());
    args.input = setting_.input(0, values);
    args.output = setting_.output(values);
    args.panels = panels;
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
};

class ConvGradientOp : public CpuOp {
 public:
  ConvGradientOp(const OpSetting& setting, const Conv2dOp& op)
      : setting_(setting),
        op_(op),
        tree_(make_tree_plan(setting.group)),
        groups_(gradient_groups(op, setting.kernels->lanes)) {
    capacity_ = padded_sums(op.out_channels);
    for (const GradientGroup& group : groups_) {
      capacity_ = std::max(capacity_, weights_of(group));
      blocks_.push_back(blocks_of(group));
      for (const GradientBlock& block : group) {
        rows_ = std::max(rows_, block.rows);
        packs_x_ = packs_x_ || block.in_end - block.in_begin < op.in_channels;
        packs_dy_ = packs_dy_ || block.out_end - block.out_begin < op.out_channels;
      }
    }
    const int64_t lanes = setting.kernels->lanes;
    const int64_t in_rows = (rows_ - 1) * op.stride_height + op.kernel_height;
    const auto take = [&](int64_t floats) {
      const int64_t at = work_floats_;
      work_floats_ += (floats + kLineFloats - 1) / kLineFloats * kLineFloats;
      return at;
    };
    sums_ = take(capacity_ * lanes);
    leaf_ = take(capacity_);
    stack_ = take(capacity_ * (tree_.stack_depth + 1));
    roots_ = take(capacity_ * static_cast<int64_t>(tree_.root_present.size()));
    packed_x_ = take(packs_x_ ? in_rows * op.in_width * op.in_channels * lanes : 0);
    packed_dy_ = take(packs_dy_ ? rows_ * op.out_width * op.out_channels * lanes : 0);
  }

  int64_t work_floats() const override { return work_floats_; }
  void run(const RunContext& context, std::span<float* const> values) override {
    work_ = static_cast<float*>(context.work);
    LOCKSTEP_CHECK(context.roots.size() == tree_.root_present.size());
    for (size_t i = 0; i < groups_.size(); ++i) {
      run_blocks(blocks_[i], weights_of(groups_[i]), values);
      copy_roots(context, groups_[i]);
    }
    if (op_.bias_offset >= 0) run_bias(context, setting_.input(1, values));
  }

 private:
  float* scratch(int64_t offset) const { return work_ + offset; }

  int64_t weights_of(const GradientGroup& group) const {
    int64_t count = 0;
    for (const GradientBlock& block : group) count += padded_weights(op_, block);
    return count;
  }

  std::vector<ConvGradientBlock> blocks_of(const GradientGroup& group) const {
    std::vector<ConvGradientBlock> blocks;
    int64_t sums = 0;
    for (const GradientBlock& from : group) {
      ConvGradientBlock block;
      block.in_begin = from.in_begin;
      block.inputs = from.in_end - from.in_begin;
      block.out_begin = from.out_begin;
      block.outputs = from.out_end - from.out_begin;
      block.segments = from.segments.data();
      block.segment_count = static_cast<int>(from.segments.size());
      block.rows_at_once = from.rows;
      block.packs_x = block.packs_dy = true;
      for (const ConvGradientBlock& before : blocks) {
        if (before.in_begin == block.in_begin) block.packs_x = false;
        if (before.out_begin == block.out_begin) block.packs_dy = false;
      }
      block.first_sum = sums;
      sums += padded_weights(op_, from) * setting_.kernels->lanes;
      blocks.push_back(block);
    }
    return blocks;
  }

  // `weights`: of all the blocks.
  void run_blocks(const std::vector<ConvGradientBlock>& blocks, int64_t weights,
                  std::span<float* const> values) {
    const int64_t lanes = setting_.kernels->lanes;
    ConvGradientArgs args;
    args.sums = scratch(sums_);
    if (packs_x_) args.packed_x = scratch(packed_x_);
    if (packs_dy_) args.packed_dy = scratch(packed_dy_);
    args.rows = rows_;
    args.blocks = blocks.data();
    args.block_count = static_cast<int>(blocks.size());
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
    const int64_t x_image = int64_t{op_.in_height} * op_.in_width * op_.in_channels;
    const int64_t dy_image = int64_t{op_.out_height} * op_.out_width * op_.out_channels;
    for (int64_t row_block = 0; row_block < setting_.row_blocks(); ++row_block) {
      args.x = setting_.input(0, values) + row_block * x_image * lanes;
      args.dy = setting_.input(1, values) + row_block * dy_image * lanes;
      setting_.kernels->conv_weight_gradient(args);
      reduce(row_block, weights);
    }
  }

  void reduce(int64_t row_block, int64_t count) {
    const int64_t lanes = setting_.kernels->lanes;
    LaneReduceArgs args;
    args.sums = scratch(sums_);
    args.steps = tree_.rows.data() + row_block * lanes;
    args.rows = static_cast<int>(std::min(lanes, setting_.rows() - row_block * lanes));
    args.count = count;
    args.leaf = scratch(leaf_);
    args.stack = scratch(stack_);
    args.roots = scratch(roots_);
    setting_.kernels->lane_reduce(args);
  }

  void copy_roots(const RunContext& context, const GradientGroup& group) {
    const int64_t count = weights_of(group);
    for (size_t i = 0; i < tree_.root_present.size(); ++i) {
      if (!tree_.root_present[i]) continue;
      const float* from = scratch(roots_) + static_cast<int64_t>(i) * count;
      for (const GradientBlock& block : group) {
        copy_root(block, from, context.roots[i] + op_.kernel_offset);
        from += padded_weights(op_, block);
      }
    }
  }

  void copy_root(const GradientBlock& block, const float* from, float* to) const {
    const int64_t outs = block.out_end - block.out_begin;
    const int64_t ins = block.in_end - block.in_begin;
    for (int64_t tap = 0; tap < int64_t{op_.kernel_height} * op_.kernel_width; ++tap) {
      for (int64_t in = 0; in < ins; ++in) {
        std::memcpy(
            to + (tap * op_.in_channels + block.in_begin + in) * op_.out_channels + block.out_begin,
            from + (tap * ins + in) * outs, static_cast<size_t>(outs) * sizeof(float));
      }
    }
  }

  void run_bias(const RunContext& context, const float* dy) {
    ConvBiasArgs args;
    args.sums = scratch(sums_);
    args.pixels = int64_t{op_.out_height} * op_.out_width;
    args.channels = op_.out_channels;
    for (int64_t row_block = 0; row_block < setting_.row_blocks(); ++row_block) {
      args.dy = dy + row_block * args.pixels * args.channels * setting_.kernels->lanes;
      setting_.kernels->conv_bias_gradient(args);
      reduce(row_block, padded_sums(op_.out_channels));
    }
    for (size_t i = 0; i < tree_.root_present.size(); ++i) {
      if (!tree_.root_present[i]) continue;
      std::memcpy(context.roots[i] + op_.bias_offset,
                  scratch(roots_) + static_cast<int64_t>(i) * padded_sums(op_.out_channels),
                  static_cast<size_t>(op_.out_channels) * sizeof(float));
    }
  }

  OpSetting setting_;
  Conv2dOp op_;
  TreePlan tree_;
  std::vector<GradientGroup> groups_;
  std::vector<std::vector<ConvGradientBlock>> blocks_;  // of each group
  int64_t capacity_ = 0;                                // weights of the largest group
  int64_t rows_ = 1;                                    // output rows that are packed at a time
  bool packs_x_ = false, packs_dy_ = false;
  float* work_ = nullptr;
  int64_t work_floats_ = 0;
  // Where they lie in it.
  int64_t packed_x_ = 0, packed_dy_ = 0, sums_ = 0, leaf_ = 0, stack_ = 0, roots_ = 0;
};

}  // namespace

std::unique_ptr<CpuOp> prepare_conv(const OpSetting& setting, const Conv2dOp& op) {
  if (!op.is_plain()) return prepare_tap_conv(setting, op);
  if (op.pass == Pass::weight_gradient) return std::make_unique<ConvGradientOp>(setting, op);
  return std::make_unique<CorrelationOp>(setting, op);
}

}  // namespace lockstep::cpu
