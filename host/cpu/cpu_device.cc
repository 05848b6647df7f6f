#include "host/cpu/cpu_device.h"

#include <immintrin.h>

#include <algorithm>
#include <iterator>
#include <map>
#include <utility>
#include <vector>

#include "host/core/check.h"
#include "host/cpu/expression_plan.h"
#include "host/cpu/kernels.h"
#include "host/cpu/memory.h"
#include "host/cpu/pins.h"
#include "host/cpu/prepared_ops.h"
#include "host/device/flat_sums.h"

namespace lockstep {
namespace cpu {
namespace {

class CpuBuffer : public Buffer {
 public:
  CpuBuffer(Memory memory, int64_t bytes) : memory_(std::move(memory)), bytes_(bytes) {}
  float* data() override { return memory_.get(); }
  int64_t bytes() const override { return allocated_bytes(bytes_); }

 private:
  Memory memory_;
  int64_t bytes_;
};

const KernelTable& kernels_of(std::string_view numerics) {
  return numerics == "cpu-avx512" ? avx512_kernels() : avx2_kernels();
}

struct Visitor {
  const OpSetting& s;
  std::unique_ptr<CpuOp> operator()(const InputOp& op) { return prepare_input(s, op); }
  std::unique_ptr<CpuOp> operator()(const Conv2dOp& op) { return prepare_conv(s, op); }
  std::unique_ptr<CpuOp> operator()(const DenseOp& op) { return prepare_dense(s, op); }
  std::unique_ptr<CpuOp> operator()(const MaxPool2dOp& op) { return prepare_pool(s, op); }
  std::unique_ptr<CpuOp> operator()(const DropoutOp& op) { return prepare_dropout(s, op); }
  std::unique_ptr<CpuOp> operator()(const ReluOp& op) { return prepare_relu(s, op); }
  std::unique_ptr<CpuOp> operator()(const SoftmaxOp& op) { return prepare_softmax(s, op); }
  std::unique_ptr<CpuOp> operator()(const SoftmaxCrossEntropyOp& op) { return prepare_loss(s, op); }
  std::unique_ptr<CpuOp> operator()(const MapOp& op) { return prepare_map(s, op); }
  std::unique_ptr<CpuOp> operator()(const GatherOp& op) { return prepare_gather(s, op); }
  std::unique_ptr<CpuOp> operator()(const GatherMaximumGradientOp& op) {
    return prepare_maximum_gradient(s, op);
  }
  std::unique_ptr<CpuOp> operator()(const MatmulOp& op) { return prepare_matmul(s, op); }
  std::unique_ptr<CpuOp> operator()(const EmbeddingOp& op) { return prepare_embedding(s, op); }
  std::unique_ptr<CpuOp> operator()(const BatchNormOp& op) { return prepare_batch_norm(s, op); }
  std::unique_ptr<CpuOp> operator()(const ParameterSumOp& op) { return prepare_sum(s, op); }
  std::unique_ptr<CpuOp> operator()(const RowSumOp& op) {
    return prepare_sum(s, {.features = op.count, .broadcast = {1, op.count}, .offset = op.offset});
  }
};

std::unique_ptr<CpuOp> prepare_op(const OpSetting& s) {
  return std::visit(Visitor{s}, s.op.attributes);
}

// Floats of a sum that are taken at a time, so that partial sums stay in L1.
constexpr int64_t kSumFloats = 1024;

class CpuDevice : public Device {
 public:
  explicit CpuDevice(std::string_view numerics)
      : numerics_(numerics), kernels_(kernels_of(numerics)) {}

  std::string numerics() const override { return numerics_; }
  std::string description() const override { return cpu_model_name(); }
  bool shares_host_memory() const override { return true; }
  bool separates_partitions() const override { return false; }
  void attach_thread() override { _mm_setcsr(kMxcsr); }

  int64_t buffer_bytes(int64_t bytes) const override { return allocated_bytes(bytes); }
  Result<std::unique_ptr<Buffer>> allocate(int64_t bytes) override {
    Memory memory = try_allocate(bytes);
    if (memory == nullptr) {
      return Error{"cannot allocate " + std::to_string(bytes) +
                   " bytes of memory; use a smaller batch or fewer devices"};
    }
    return std::unique_ptr<Buffer>(std::make_unique<CpuBuffer>(std::move(memory), bytes));
  }

  int64_t value_bytes(int rows, int64_t features) const override {
    const int64_t lanes = kernels_.lanes;
    return (rows + lanes - 1) / lanes * lanes * features * static_cast<int64_t>(sizeof(float));
  }

  Status download(const float* value, int rows, int64_t features, float* row_major) override {
    const int64_t lanes = kernels_.lanes;
    for (int64_t row = 0; row < rows; ++row) {
      const float* lane = value + row / lanes * features * lanes + row % lanes;
      for (int64_t f = 0; f < features; ++f) row_major[row * features + f] = lane[f * lanes];
    }
    return {};
  }

  Result<std::unique_ptr<PreparedOp>> prepare(const OpDesc& op,
                                              const PartitionGroup& group) override {
    return std::unique_ptr<PreparedOp>(prepare_op({{op}, &kernels_, group}));
  }
  int64_t work_bytes(const OpDesc& op, const PartitionGroup& group) const override {
    return prepare_op({{op}, &kernels_, group})->work_floats() * int64_t{sizeof(float)};
  }

  void add(const float* a, const float* b, float* out, int64_t count) override {
    kernels_.add(a, b, out, count);
  }

  Status sum(std::span<const SumTerm> terms, int64_t count, float* out) override {
    partial_sums_.resize(terms.size() * kSumFloats);
    std::vector<const float*> stack;
    stack.reserve(terms.size());
    for (int64_t begin = 0; begin < count; begin += kSumFloats) {
      stack.clear();
      sum_block(terms, begin, std::min(kSumFloats, count - begin), stack, out + begin);
    }
    return {};
  }

  Status evaluate(const ExpressionUpdate& expression, std::span<const float* const> operands,
                  std::span<float* const> outputs, int64_t count) override {
    formula_of(expression).evaluate(operands, expression.used_scalars(), outputs, count);
    return {};
  }

  Status squares(const ExpressionUpdate& expression, std::span<const float* const> operands,
                 int64_t count, double* sums) override {
    FlatExpression& formula = formula_of(expression);
    const size_t results = expression.expression->outputs.size();
    if (block_.size() < results * kSquaresBlock) block_.resize(results * kSquaresBlock);
    std::vector<float*> outputs;
    for (size_t k = 0; k < results; ++k) outputs.push_back(block_.data() + k * kSquaresBlock);
    std::vector<const float*> at(operands.begin(), operands.end());
    for (int64_t begin = 0; begin < count; begin += kSquaresBlock) {
      const int64_t size = std::min(kSquaresBlock, count - begin);
      formula.evaluate(at, expression.used_scalars(), outputs, size);
      for (const float* output : outputs) *sums++ = kernels_.squares(output, size);
      for (const float*& operand : at) operand += kSquaresBlock;
    }
    return {};
  }

  Status sum_axis(const float* x, const AxisSum& sum, int64_t first, int64_t count,
                  float* out) override {
    kernels_.sum_axis(x, sum, first, count, out);
    return {};
  }

  Status multiply(const MatmulOp& op, const float* x, const float* z, float* out) override {
    LOCKSTEP_CHECK(op.out.column == 1);
    for (int64_t batch = 0; batch < op.batches; ++batch) {
      kernels_.product({.x = x + batch * op.x.batch,
                        .z = z + batch * op.z.batch,
                        .out = out + batch * op.out.batch,
                        .rows = op.rows,
                        .inner = op.inner,
                        .columns = op.columns,
                        .x_row = op.x.row,
                        .x_column = op.x.column,
                        .z_row = op.z.row,
                        .z_column = op.z.column,
                        .out_row = op.out.row});
    }
    return {};
  }

  Status update(const UpdateDesc& desc, const float* gradient, float* weights,
                std::span<float* const> slots, int64_t count, DigestLanes* lanes) override {
    for (int64_t begin = 0; begin < count; begin += kDigestBlock) {
      StateArgs state{.weights = weights + begin, .count = std::min(kDigestBlock, count - begin)};
      if (lanes != nullptr) state.lanes = lanes[begin / kDigestBlock].values;
      LOCKSTEP_CHECK(slots.size() <= std::size(state.slots));
      for (size_t i = 0; i < slots.size(); ++i) state.slots[i] = slots[i] + begin;
      if (const auto* formula = std::get_if<ExpressionUpdate>(&desc)) {
        update_by_expression(*formula, gradient + begin, state, slots.size());
      } else {
        update_block(desc, gradient + begin, state, slots.size());
      }
    }
    return {};
  }

  Status digest(const float* weights, std::span<const float* const> slots, int64_t count,
                DigestLanes* lanes) override {
    for (int64_t begin = 0; begin < count; begin += kDigestBlock) {
      DigestArgs args{.weights = weights + begin,
                      .slot_count = slots.size(),
                      .count = std::min(kDigestBlock, count - begin),
                      .lanes = lanes[begin / kDigestBlock].values};
      LOCKSTEP_CHECK(slots.size() <= std::size(args.slots));
      for (size_t i = 0; i < slots.size(); ++i) args.slots[i] = slots[i] + begin;
      kernels_.digest(args);
    }
    return {};
  }

 private:
  void sum_block(std::span<const SumTerm> terms, int64_t begin, int64_t count,
                 std::vector<const float*>& stack, float* out) {
    for (const SumTerm& term : terms) {
      stack.push_back(term.values + begin);
      for (int merge = 0; merge < term.merges; ++merge) {
        const float* upper = stack.back();
        stack.pop_back();
        float* sum = partial_sums_.data() + (stack.size() - 1) * kSumFloats;
        kernels_.add(stack.back(), upper, sum, count);
        stack.back() = sum;
      }
    }
    LOCKSTEP_CHECK(stack.size() == 1);
    std::copy_n(stack[0], count, out);
  }

  FlatExpression& formula_of(const ExpressionUpdate& update) {
    std::unique_ptr<FlatExpression>& formula = formulas_[update.expression];
    if (formula == nullptr) {
      formula = std::make_unique<FlatExpression>(kernels_, *update.expression);
    }
    return *formula;
  }

  void update_by_expression(const ExpressionUpdate& update, const float* gradient,
                            const StateArgs& state, size_t slots) {
    const ExpressionMemory memory(gradient, state.weights, std::span(state.slots, slots));
    formula_of(update).evaluate(memory.inputs(), update.used_scalars(), memory.results(),
                                state.count);
    if (state.lanes == nullptr) return;
    DigestArgs args{
        .weights = state.weights, .slot_count = slots, .count = state.count, .lanes = state.lanes};
    std::copy_n(state.slots, slots, args.slots);
    kernels_.digest(args);
  }

  void update_block(const UpdateDesc& desc, const float* gradient, const StateArgs& state,
                    size_t slots) {
    if (const AdamUpdate* adam = std::get_if<AdamUpdate>(&desc)) {
      LOCKSTEP_CHECK(slots == 2);
      kernels_.adam({state, gradient, adam->one_minus_beta_1, adam->one_minus_beta_2, adam->alpha,
                     adam->epsilon});
      return;
    }
    if (const auto* average = std::get_if<MovingAverageUpdate>(&desc)) {
      for (int64_t i = 0; i < state.count; ++i) {
        const float mean = gradient[i] * average->scale;
        state.weights[i] =
            state.weights[i] * average->momentum + mean * average->one_minus_momentum;
      }
      return;
    }
    const SgdUpdate& sgd = std::get<SgdUpdate>(desc);
    LOCKSTEP_CHECK(slots == (sgd.momentum == 0 ? 0 : 1));
    kernels_.sgd({state, gradient, sgd.learning_rate, sgd.momentum, sgd.nesterov});
  }

  std::string numerics_;
  const KernelTable& kernels_;
  // Over flat memory, planned when first seen.
  std::map<std::shared_ptr<const Expression>, std::unique_ptr<FlatExpression>> formulas_;
  std::vector<float> block_;  // results of one
  std::vector<float> partial_sums_;
};

}  // namespace

void OpSetting::mask_output(std::span<float* const> values, int64_t features) const {
  const float* mask = relu_mask(values);
  if (mask == nullptr) return;
  float* out = output(values);
  kernels->relu_gradient(mask, out, nullptr, out, padded_rows() * features);
}

}  // namespace cpu

Result<std::unique_ptr<Device>> make_cpu_device(std::string_view numerics) {
  if (!cpu_supports(numerics)) {
    return refused_error("this CPU (" + cpu_model_name() + ") cannot run numerics '" +
                         std::string(numerics) + "'; it runs " +
                         (widest_cpu_numerics().empty() ? "none of cpu-avx2, cpu-avx512"
                                                        : std::string(widest_cpu_numerics())));
  }
  return std::unique_ptr<Device>(std::make_unique<cpu::CpuDevice>(numerics));
}

}  // namespace lockstep
