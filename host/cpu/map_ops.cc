#include <algorithm>
#include <vector>

#include "host/core/check.h"
#include "host/core/rng.h"
#include "host/cpu/expression_plan.h"
#include "host/cpu/prepared_ops.h"

namespace lockstep::cpu {
namespace {

class CpuMapOp : public CpuOp {
 public:
  CpuMapOp(const OpSetting& setting, const MapOp& op)
      : setting_(setting),
        op_(op),
        runner_(setting.kernels->lanes, op.expression, false),
        operands_(op.operands.size()),
        positions_(static_cast<size_t>(op.expression.is_random() ? setting.padded_rows() : 0)) {
    LOCKSTEP_CHECK(op.expression.outputs.size() == 1);
    LOCKSTEP_CHECK(op.operands.size() >= static_cast<size_t>(runner_.plan().operands));
    LOCKSTEP_CHECK(runner_.plan().scalars <= 1);
    args_.features = op.features;
    args_.row_blocks = setting.row_blocks();
    const bool flat = is_flat();
    if (flat) {  // one long row block: the chunks of short ones would be short
      args_.features *= args_.row_blocks;
      args_.row_blocks = std::min<int64_t>(args_.row_blocks, 1);
    }
    for (size_t i = 0; i < op.operands.size(); ++i) {
      Broadcast broadcast = op.operands[i].broadcast;
      LOCKSTEP_CHECK(broadcast.divisor > 0 && broadcast.modulus > 0);
      operands_[i].parameters = op.operands[i].input < 0;
      if (flat && !operands_[i].parameters)
        broadcast.modulus = std::max<int64_t>(args_.features, 1);
      set_kind(broadcast, &operands_[i]);
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
  // Runs of equal elements shorter than this are not worth a chunk.
  static constexpr int64_t kShortestRun = 16;

  void set_kind(const Broadcast& broadcast, MapOperandArgs* operand) {
    const int64_t lanes = setting_.kernels->lanes;
    operand->divisor = broadcast.divisor;
    operand->modulus = operand->period = broadcast.modulus;
    if (broadcast.modulus == 1) operand->divisor = std::max<int64_t>(args_.features, kShortestRun);
    if (operand->divisor >= kShortestRun) {
      operand->kind = OperandKind::runs;
    } else if (operand->divisor > 1) {
      operand->kind = OperandKind::filled;
      operand->chunk = add_memory(kSlotFloats);
    } else {  // period after period, until a chunk is full
      const int64_t wanted = std::min(kChunkFloats / lanes, args_.features);
      operand->period *= std::max<int64_t>(1, wanted / operand->modulus);
    }
    if (operand->parameters || operand->period > operand->modulus) {
      operand->table = add_memory(operand->period * lanes);
    }
  }

  float* add_memory(int64_t floats) {
    memory_.push_back(allocate_floats(floats));
    return memory_.back().get();
  }

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
  std::vector<Memory> memory_;
  std::vector<uint32_t> positions_;
  MapArgs args_;
};

}  // namespace

std::unique_ptr<CpuOp> prepare_map(const OpSetting& setting, const MapOp& op) {
  return std::make_unique<CpuMapOp>(setting, op);
}

}  // namespace lockstep::cpu
