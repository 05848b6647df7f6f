#include <algorithm>
#include <vector>

#include "host/core/check.h"
#include "host/core/rng.h"
#include "host/cpu/prepared_ops.h"
#include "host/cpu/tree_plan.h"

namespace lockstep::cpu {
namespace {

class PoolOp : public CpuOp {
 public:
  PoolOp(const OpSetting& setting, const MaxPool2dOp& op) : setting_(setting), op_(op) {
    LOCKSTEP_CHECK(op.pass != Pass::weight_gradient);
    // Every window has an entry inside of the image.
    LOCKSTEP_CHECK(op.pad_top < op.pool_height && op.pad_left < op.pool_width);
    LOCKSTEP_CHECK((op.out_height - 1) * op.stride_height - op.pad_top < op.in_height);
    LOCKSTEP_CHECK((op.out_width - 1) * op.stride_width - op.pad_left < op.in_width);
    args_.in_height = op.in_height;
    args_.in_width = op.in_width;
    args_.channels = op.channels;
    args_.out_height = op.out_height;
    args_.out_width = op.out_width;
    args_.pool_height = op.pool_height;
    args_.pool_width = op.pool_width;
    args_.stride_height = op.stride_height;
    args_.stride_width = op.stride_width;
    args_.pad_top = op.pad_top;
    args_.pad_left = op.pad_left;
    args_.row_blocks = setting.row_blocks();
  }

  void run(const RunContext&, std::span<float* const> values) override {
    PoolArgs args = args_;
    args.x = setting_.input(0, values);
    args.out = setting_.output(values);
    if (op_.pass == Pass::forward) {
      setting_.kernels->pool_forward(args);
      return;
    }
    args.y = setting_.input(1, values);
    args.dy = setting_.input(2, values);
    args.mask = setting_.relu_mask(values);
    setting_.kernels->pool_backward(args);
  }

 private:
  OpSetting setting_;
  MaxPool2dOp op_;
  PoolArgs args_;
};

class CpuInputOp : public CpuOp {
 public:
  CpuInputOp(const OpSetting& setting, const InputOp& op) : setting_(setting), op_(op) {
    if (op.part != BatchPart::weights) return;
    ones_.assign(static_cast<size_t>(setting.rows() * op.features), 1.0f);
  }

  void run(const RunContext& context, std::span<float* const> values) override {
    LOCKSTEP_CHECK(context.batch != nullptr);
    const HostBatch& batch = *context.batch;
    LOCKSTEP_CHECK(batch.rows >= context.first_row + setting_.rows());
    if (op_.part == BatchPart::weights) {
      if (batch.weights.empty()) {
        copy(ones_, 0, op_.features, 0, values);
      } else {
        copy(batch.weights, context.first_row, batch.weight_columns, op_.offset, values);
      }
    } else if (op_.part == BatchPart::targets) {
      copy(batch.targets, context.first_row, batch.target_features, op_.offset, values);
    } else {
      copy(batch.inputs, context.first_row, batch.features, op_.offset, values);
    }
  }

 private:
  void copy(const std::vector<float>& rows, int64_t first_row, int64_t stride, int64_t offset,
            std::span<float* const> values) {
    LOCKSTEP_CHECK(offset >= 0 && offset + op_.features <= stride);
    LOCKSTEP_CHECK(std::ssize(rows) >= (first_row + setting_.rows()) * stride);
    setting_.kernels->rows_to_lanes(rows.data() + first_row * stride + offset, setting_.rows(),
                                    stride, op_.features, setting_.output(values));
  }

  OpSetting setting_;
  InputOp op_;
  std::vector<float> ones_;
};

// The same computation for y from x and dx from dy.
class CpuDropoutOp : public CpuOp {
 public:
  CpuDropoutOp(const OpSetting& setting, const DropoutOp& op)
      : setting_(setting), op_(op), positions_(static_cast<size_t>(setting.padded_rows())) {
    LOCKSTEP_CHECK(op.rate >= 0 && op.rate < 1);
  }

  void run(const RunContext& context, std::span<float* const> values) override {
    LOCKSTEP_CHECK(context.batch != nullptr);
    const std::vector<uint32_t>& positions = context.batch->positions;
    LOCKSTEP_CHECK(std::ssize(positions) >= context.first_row + setting_.rows());
    std::copy_n(positions.begin() + context.first_row, setting_.rows(), positions_.begin());
    DropoutArgs args;
    args.x = setting_.input(0, values);
    args.y = setting_.output(values);
    args.mask = op_.pass == Pass::data_gradient ? setting_.relu_mask(values) : nullptr;
    args.positions = positions_.data();
    args.features = op_.features;
    args.row_blocks = setting_.row_blocks();
    args.key = derive_key(context.seed, kDropoutPurpose, op_.call);
    args.epoch = context.epoch;
    args.layer = op_.layer;
    args.rate = op_.rate;
    args.scale = 1.0f / (1.0f - op_.rate);
    setting_.kernels->dropout(args);
  }

 private:
  OpSetting setting_;
  DropoutOp op_;
  std::vector<uint32_t> positions_;
};

class CpuReluOp : public CpuOp {
 public:
  CpuReluOp(const OpSetting& setting, const ReluOp& op) : setting_(setting), op_(op) {}

  void run(const RunContext&, std::span<float* const> values) override {
    const int64_t count = setting_.padded_rows() * op_.features;
    if (op_.pass == Pass::forward) {
      setting_.kernels->relu(setting_.input(0, values), setting_.output(values), count);
    } else {
      setting_.kernels->relu_gradient(setting_.input(0, values), setting_.input(1, values),
                                      setting_.relu_mask(values), setting_.output(values), count);
    }
  }

 private:
  OpSetting setting_;
  ReluOp op_;
};

class CpuSoftmaxOp : public CpuOp {
 public:
  CpuSoftmaxOp(const OpSetting& setting, const SoftmaxOp& op) : setting_(setting), op_(op) {}

  void run(const RunContext&, std::span<float* const> values) override {
    setting_.kernels->softmax(setting_.input(0, values), setting_.output(values), op_.features,
                              setting_.row_blocks());
  }

 private:
  OpSetting setting_;
  SoftmaxOp op_;
};

class LossOp : public CpuOp {
 public:
  LossOp(const OpSetting& setting, const SoftmaxCrossEntropyOp& op)
      : setting_(setting),
        op_(op),
        tree_(make_tree_plan(setting.group)),
        labels_(static_cast<size_t>(setting.padded_rows()), -1),
        losses_(static_cast<size_t>(setting.padded_rows())),
        hits_(static_cast<size_t>(setting.padded_rows())) {}

  void run(const RunContext& context, std::span<float* const> values) override {
    const size_t rows = static_cast<size_t>(setting_.rows());
    const size_t first = static_cast<size_t>(context.first_row);
    LOCKSTEP_CHECK(context.batch != nullptr && context.batch->labels.size() >= first + rows);
    LOCKSTEP_CHECK(context.roots.size() == tree_.root_present.size());
    for (size_t row = 0; row < rows; ++row) {
      labels_[row] = context.batch->labels[first + row];
      LOCKSTEP_CHECK(labels_[row] >= 0 && labels_[row] < op_.classes);
    }
    CrossEntropyArgs args;
    args.logits = setting_.input(0, values);
    if (!setting_.op.outputs.empty()) args.dlogits = setting_.output(values);
    args.labels = labels_.data();
    args.losses = losses_.data();
    args.hits = hits_.data();
    args.classes = op_.classes;
    args.rows = setting_.rows();
    args.scale = context.loss_scale;
    setting_.kernels->cross_entropy(args);
    const std::vector<float> losses = tree_sums(tree_, losses_.data());
    const std::vector<float> hits = tree_sums(tree_, hits_.data());
    for (size_t i = 0; i < tree_.root_present.size(); ++i) {
      if (!tree_.root_present[i]) continue;
      context.roots[i][op_.metrics_offset] = losses[i];
      context.roots[i][op_.metrics_offset + 1] = hits[i];
    }
  }

 private:
  OpSetting setting_;
  SoftmaxCrossEntropyOp op_;
  TreePlan tree_;
  std::vector<int32_t> labels_;
  std::vector<float> losses_, hits_;
};

}  // namespace

std::unique_ptr<CpuOp> prepare_pool(const OpSetting& setting, const MaxPool2dOp& op) {
  return std::make_unique<PoolOp>(setting, op);
}
std::unique_ptr<CpuOp> prepare_input(const OpSetting& setting, const InputOp& op) {
  return std::make_unique<CpuInputOp>(setting, op);
}
std::unique_ptr<CpuOp> prepare_dropout(const OpSetting& setting, const DropoutOp& op) {
  return std::make_unique<CpuDropoutOp>(setting, op);
}
std::unique_ptr<CpuOp> prepare_relu(const OpSetting& setting, const ReluOp& op) {
  return std::make_unique<CpuReluOp>(setting, op);
}
std::unique_ptr<CpuOp> prepare_softmax(const OpSetting& setting, const SoftmaxOp& op) {
  return std::make_unique<CpuSoftmaxOp>(setting, op);
}
std::unique_ptr<CpuOp> prepare_loss(const OpSetting& setting, const SoftmaxCrossEntropyOp& op) {
  return std::make_unique<LossOp>(setting, op);
}

}  // namespace lockstep::cpu
