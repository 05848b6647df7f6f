#include <vector>

#include "host/core/check.h"
#include "host/cpu/prepared_ops.h"
#include "host/cpu/tree_plan.h"

namespace lockstep::cpu {
namespace {

class DenseForwardOp : public CpuOp {
 public:
  DenseForwardOp(const OpSetting& setting, const DenseOp& op) : setting_(setting), op_(op) {}

  int64_t work_floats() const override {
    return setting_.kernels->dense_forward_workspace(op_.out_features);
  }
  void run(const RunContext& context, std::span<float* const> values) override {
    DenseForwardArgs args;
    args.x = setting_.input(0, values);
    args.y = setting_.output(values);
    args.weights = context.weights + op_.kernel_offset;
    if (op_.bias_offset >= 0) args.bias = context.weights + op_.bias_offset;
    args.relu = op_.activation == Activation::relu;
    args.workspace = static_cast<float*>(context.work);
    args.in = op_.in_features;
    args.out = op_.out_features;
    args.row_blocks = setting_.row_blocks();
    setting_.kernels->dense_forward(args);
  }

 private:
  OpSetting setting_;
  DenseOp op_;
};

class DenseDataGradientOp : public CpuOp {
 public:
  DenseDataGradientOp(const OpSetting& setting, const DenseOp& op) : setting_(setting), op_(op) {}

  void run(const RunContext& context, std::span<float* const> values) override {
    DenseDataGradientArgs args;
    args.dy = setting_.input(0, values);
    args.dx = setting_.output(values);
    args.mask = setting_.relu_mask(values);
    args.weights = context.weights + op_.kernel_offset;
    args.in = op_.in_features;
    args.out = op_.out_features;
    args.row_blocks = setting_.row_blocks();
    setting_.kernels->dense_data_gradient(args);
  }

 private:
  OpSetting setting_;
  DenseOp op_;
};

class DenseGradientOp : public CpuOp {
 public:
  DenseGradientOp(const OpSetting& setting, const DenseOp& op)
      : setting_(setting),
        op_(op),
        tree_(make_tree_plan(setting.group)),
        kernel_roots_(tree_.root_present.size()),
        bias_roots_(tree_.root_present.size()) {}

  int64_t work_floats() const override {
    return setting_.kernels->dense_gradient_workspace(op_.in_features, op_.out_features,
                                                      setting_.rows(), tree_.steps());
  }
  void run(const RunContext& context, std::span<float* const> values) override {
    LOCKSTEP_CHECK(context.roots.size() == tree_.root_present.size());
    for (size_t i = 0; i < kernel_roots_.size(); ++i) {
      if (!tree_.root_present[i]) continue;
      kernel_roots_[i] = context.roots[i] + op_.kernel_offset;
      if (op_.bias_offset >= 0) bias_roots_[i] = context.roots[i] + op_.bias_offset;
    }
    DenseWeightGradientArgs args;
    args.x = setting_.input(0, values);
    args.dy = setting_.input(1, values);
    args.workspace = static_cast<float*>(context.work);
    args.tree = tree_.steps();
    args.kernel_roots = kernel_roots_.data();
    if (op_.bias_offset >= 0) args.bias_roots = bias_roots_.data();
    args.in = op_.in_features;
    args.out = op_.out_features;
    args.rows = setting_.rows();
    setting_.kernels->dense_weight_gradient(args);
  }

 private:
  OpSetting setting_;
  DenseOp op_;
  TreePlan tree_;
  std::vector<float*> kernel_roots_, bias_roots_;
};

}  // namespace

std::unique_ptr<CpuOp> prepare_dense(const OpSetting& setting, const DenseOp& op) {
  if (op.pass == Pass::weight_gradient) return std::make_unique<DenseGradientOp>(setting, op);
  if (op.pass == Pass::data_gradient) return std::make_unique<DenseDataGradientOp>(setting, op);
  return std::make_unique<DenseForwardOp>(setting, op);
}

}  // namespace lockstep::cpu
