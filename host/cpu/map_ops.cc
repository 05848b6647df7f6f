#include <algorithm>
#include <vector>

#include "host/core/check.h"
#include "host/core/rng.h"
#include "host/cpu/expression_plan.h"
#include "host/cpu/prepared_ops.h"

namespace lockstep::cpu {
namespace {

class CpuMapOp : public PreparedOp {
 public:
  CpuMapOp(const OpSetting& setting, const MapOp& op)
      : setting_(setting),
        op_(op),
        runner_(setting.kernels->lanes, op.expression, false),
        operands_(op.operands.size()),
        chunks_(allocate_floats(static_cast<int64_t>(op.operands.size()) * kSlotFloats)),
        positions_(static_cast<size_t>(op.expression.is_random() ? setting.padded_rows() : 0)) {
    LOCKSTEP_CHECK(op.expression.outputs.size() == 1);
    LOCKSTEP_CHECK(op.operands.size() >= static_cast<size_t>(runner_.plan().operands));
    LOCKSTEP_CHECK(runner_.plan().scalars <= 1);
    for (size_t i = 0; i < op.operands.size(); ++i) {
      const MapOperand& operand = op.operands[i];
      LOCKSTEP_CHECK(operand.broadcast.divisor > 0 && operand.broadcast.modulus > 0);
      operands_[i].parameters = operand.input < 0;
      operands_[i].divisor = operand.broadcast.divisor;
      operands_[i].modulus = operand.broadcast.modulus;
      operands_[i].chunk = chunks_.get() + static_cast<int64_t>(i) * kSlotFloats;
    }
    args_.features = op.features;
    args_.row_blocks = setting.row_blocks();
    if (is_flat()) {  // one long row block: the chunks of short ones would be short
      args_.features *= args_.row_blocks;
      args_.row_blocks = std::min<int64_t>(args_.row_blocks, 1);
      for (MapOperandArgs& operand : operands_) {
        if (!operand.parameters) operand.modulus = args_.features;
      }
    }
    args_.layer = op.layer;
    args_.noise_divisor = op.noise.divisor;
    args_.noise_modulus = op.noise.modulus;
  }

  void run(const RunContext& context, std::span<float* const> values) override {
    MapArgs args = args_;
    for (size_t i = 0; i < operands_.size(); ++i) {
      const MapOperand& operand = op_.operands[i];
      operands_[i].data = operand.input < 0 ? context.weights + operand.offset
                                            : setting_.input(operand.input, values);
    }
    args.operands = operands_.data();
    args.steps = runner_.steps({&context.loss_scale, 1});
    args.y = setting_.output(values);
    if (!positions_.empty()) {
      LOCKSTEP_CHECK(context.batch != nullptr);
      const auto& positions = context.batch->positions;
      LOCKSTEP_CHECK(static_cast<int64_t>(positions.size()) >= context.first_row + setting_.rows());
      std::copy_n(positions.begin() + context.first_row, setting_.rows(), positions_.begin());
      args.positions = positions_.data();
      args.key = derive_key(context.seed, kNoisePurpose, op_.call);
      args.epoch = context.epoch;
    }
    setting_.kernels->map(args);
    setting_.mask_output(values, op_.features);
  }

 private:
  // Whether element i of the result needs only element i of values: rows and features are one.
  bool is_flat() const {
    return !op_.expression.is_random() &&
           std::all_of(op_.operands.begin(), op_.operands.end(), [&](const MapOperand& operand) {
             if (operand.input < 0) return operand.broadcast.modulus == 1;
             return operand.broadcast == Broadcast{1, op_.features};
           });
  }

  OpSetting setting_;
  MapOp op_;
  ExpressionRunner runner_;
  std::vector<MapOperandArgs> operands_;
  Memory chunks_;
  std::vector<uint32_t> positions_;
  MapArgs args_;
};

}  // namespace

std::unique_ptr<PreparedOp> prepare_map(const OpSetting& setting, const MapOp& op) {
  return std::make_unique<CpuMapOp>(setting, op);
}

}  // namespace lockstep::cpu
