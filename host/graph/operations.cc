#include "host/graph/operations.h"

#include <fmt/format.h>

#include <algorithm>

namespace lockstep {
namespace {

// Per element: subtract the largest, exp, add, divide.
constexpr int64_t kSoftmax = 4;
// Per element: center, square, add twice; scale and shift.
constexpr int64_t kNormalize = 7;

struct Count {
  int64_t operator()(const InputOp&) const { return 0; }
  int64_t operator()(const Conv2dOp& op) const {
    return 2 * int64_t{op.out_height} * op.out_width * op.kernel_size();
  }
  int64_t operator()(const DenseOp& op) const { return 2 * op.in_features * op.out_features; }
  int64_t operator()(const MaxPool2dOp& op) const {
    const int64_t outputs = int64_t{op.out_height} * op.out_width * op.channels;
    return outputs * op.pool_height * op.pool_width;
  }
  int64_t operator()(const DropoutOp& op) const { return 2 * op.features; }
  int64_t operator()(const ReluOp& op) const { return op.features; }
  int64_t operator()(const SoftmaxOp& op) const { return kSoftmax * op.features; }
  int64_t operator()(const SoftmaxCrossEntropyOp& op) const {
    return (kSoftmax + 2) * op.classes;  // minus the label, times the scale
  }
  int64_t operator()(const MapOp& op) const {
    const auto& code = op.expression.code;
    return op.features * std::count_if(code.begin(), code.end(), [](const Instruction& each) {
             return each.operation != Operation::operand && each.operation != Operation::scalar &&
                    each.operation != Operation::constant;
           });
  }
  int64_t operator()(const ParameterSumOp& op) const { return op.features; }
  int64_t operator()(const GatherOp& op) const {  // what is copied costs nothing
    const int64_t terms = std::ssize(op.lists->index);
    return op.lists->factor.empty() ? std::max<int64_t>(0, terms - op.lists->outputs()) : 2 * terms;
  }
  int64_t operator()(const GatherMaximumGradientOp& op) const {
    return 2 * std::ssize(op.lists->index);
  }
  int64_t operator()(const MatmulOp& op) const {
    return 2 * op.batches * op.rows * op.inner * op.columns;
  }
  int64_t operator()(const EmbeddingOp& op) const {
    return op.pass == Pass::forward ? 0 : op.length * op.units;
  }
  int64_t operator()(const BatchNormOp& op) const { return kNormalize * op.features; }
  int64_t operator()(const RowSumOp& op) const { return op.count; }
};

}  // namespace

int64_t operations_of(const OpDesc& op) { return std::visit(Count{}, op.attributes); }

int64_t operations_of(const Graph& graph) {
  int64_t sum = 0;
  for (const OpDesc& op : graph.ops) sum += operations_of(op);
  return sum;
}

std::string count_text(int64_t count) {
  auto value = static_cast<double>(count);
  const char* units[] = {"", " k", " M", " G", " T", " P"};
  size_t unit = 0;
  for (; value >= 1000 && unit + 1 < std::size(units); ++unit) value /= 1000;
  if (unit == 0) return std::to_string(count);
  return fmt::format("{:.{}f}{}", value, value < 10 ? 2 : value < 100 ? 1 : 0, units[unit]);
}

}  // namespace lockstep
