#include <vector>

#include "host/core/check.h"
#include "host/cpu/gather_plan.h"
#include "host/cpu/prepared_ops.h"

namespace lockstep::cpu {
namespace {

class CpuGatherOp : public CpuOp {
 public:
  CpuGatherOp(const OpSetting& setting, const GatherOp& op)
      : setting_(setting),
        op_(op),
        plan_(make_gather_plan(*op.lists, op.input_features)),
        inputs_(op.input_features.size()),
        bases_(op.input_features.size()) {
    LOCKSTEP_CHECK(setting.op.inputs.size() == inputs_.size());
    const IndexLists& lists = *op_.lists;
    args_.segments = plan_.segments.data();
    args_.segment_count = static_cast<int64_t>(plan_.segments.size());
    args_.begin = lists.begin.data();
    if (!plan_.inputs.empty()) args_.input = plan_.inputs.data();
    args_.index = plan_.indices.data();
    if (!lists.factor.empty()) args_.factor = lists.factor.data();
    args_.x = inputs_.data();
    args_.input_features = op_.input_features.data();
    args_.bases = bases_.data();
    args_.input_count = static_cast<int>(inputs_.size());
    args_.outputs = lists.outputs();
    args_.row_blocks = setting.row_blocks();
    args_.maximum = op.gathering == Gathering::maximum;
    args_.fill = op.fill;
  }

  void run(const RunContext&, std::span<float* const> values) override {
    for (size_t i = 0; i < inputs_.size(); ++i) {
      inputs_[i] = setting_.input(static_cast<int>(i), values);
    }
    GatherArgs args = args_;
    args.y = setting_.output(values);
    setting_.kernels->gather(args);
    setting_.mask_output(values, args.outputs);
  }

 private:
  OpSetting setting_;
  GatherOp op_;
  GatherPlan plan_;
  std::vector<const float*> inputs_, bases_;
  GatherArgs args_;
};

class MaximumGradientOp : public CpuOp {
 public:
  MaximumGradientOp(const OpSetting& setting, const GatherMaximumGradientOp& op)
      : setting_(setting), op_(op) {}

  void run(const RunContext&, std::span<float* const> values) override {
    GatherMaximumGradientArgs args;
    args.begin = op_.lists->begin.data();
    args.index = op_.lists->index.data();
    args.x = setting_.input(0, values);
    args.y = setting_.input(1, values);
    args.dy = setting_.input(2, values);
    args.dx = setting_.output(values);
    args.mask = setting_.relu_mask(values);
    args.inputs = op_.lists->inputs;
    args.outputs = op_.lists->outputs();
    args.row_blocks = setting_.row_blocks();
    args.split_ties = op_.split_ties;
    setting_.kernels->gather_maximum_gradient(args);
  }

 private:
  OpSetting setting_;
  GatherMaximumGradientOp op_;
};

}  // namespace

std::unique_ptr<CpuOp> prepare_gather(const OpSetting& setting, const GatherOp& op) {
  return std::make_unique<CpuGatherOp>(setting, op);
}
std::unique_ptr<CpuOp> prepare_maximum_gradient(const OpSetting& setting,
                                                const GatherMaximumGradientOp& op) {
  return std::make_unique<MaximumGradientOp>(setting, op);
}

}  // namespace lockstep::cpu
