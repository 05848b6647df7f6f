#include "host/graph/graph.h"

#include <algorithm>

#include "host/core/check.h"

namespace lockstep {
namespace {

// Two parts that lie end to end, so that one range covers both; a part at -1 is not there.
FlatRange joined(int64_t first, int64_t first_count, int64_t second, int64_t second_count) {
  if (first < 0 && second < 0) return {};
  if (first < 0) return {second, second + second_count};
  if (second < 0) return {first, first + first_count};
  LOCKSTEP_CHECK(second == first + first_count);
  return {first, second + second_count};
}

FlatRange written_by(const Conv2dOp& op) {
  if (op.pass != Pass::weight_gradient) return {};
  return joined(op.kernel_offset, op.kernel_size(), op.bias_offset, op.out_channels);
}

FlatRange written_by(const DenseOp& op) {
  if (op.pass != Pass::weight_gradient) return {};
  return joined(op.kernel_offset, op.in_features * op.out_features, op.bias_offset,
                op.out_features);
}

FlatRange written_by(const SoftmaxCrossEntropyOp& op) {
  return {op.metrics_offset, op.metrics_offset + kMetricCount};
}

FlatRange written_by(const ParameterSumOp& op) {
  return {op.offset, op.offset + op.broadcast.modulus};
}

FlatRange written_by(const RowSumOp& op) { return {op.offset, op.offset + op.count}; }

FlatRange written_by(const EmbeddingOp& op) {
  if (op.pass != Pass::weight_gradient) return {};
  return {op.offset, op.offset + op.vocabulary * op.units};
}

FlatRange written_by(const BatchNormOp& op) {
  const int64_t channels = op.channel.modulus;
  if (op.pass == Pass::forward) return joined(op.mean_offset, 2 * channels, -1, 0);
  return joined(op.gamma_gradient, channels, op.beta_gradient, channels);
}

template <class Op>
FlatRange written_by(const Op&) {
  return {};
}

}  // namespace

bool Graph::is_plain() const {
  return gradient_sums.empty() &&
         std::all_of(parameters.begin(), parameters.end(), [](const Parameter& parameter) {
           return parameter.role == ParameterRole::trained &&
                  parameter.gradient_offset == parameter.offset &&
                  parameter.regularizer.is_null() && parameter.constraint.is_null();
         });
}

Pass pass_of(const OpDesc& op) {
  return std::visit(
      []([[maybe_unused]] const auto& attributes) {
        if constexpr (requires { attributes.pass; }) return attributes.pass;
        return Pass::forward;
      },
      op.attributes);
}

FlatRange written_range(const OpDesc& op) {
  return std::visit([](const auto& attributes) { return written_by(attributes); }, op.attributes);
}

}  // namespace lockstep
