#include "host/graph/graph.h"

#include "host/core/check.h"

namespace lockstep {
namespace {

// Kernel and bias lie end to end, so that one range covers both.
FlatRange parameter_range(int64_t kernel_offset, int64_t kernel_count, int64_t bias_offset,
                          int64_t bias_count) {
  const int64_t kernel_end = kernel_offset + kernel_count;
  if (bias_offset < 0) return {kernel_offset, kernel_end};
  LOCKSTEP_CHECK(bias_offset == kernel_end);
  return {kernel_offset, kernel_end + bias_count};
}

}  // namespace

Pass pass_of(const OpDesc& op) {
  return std::visit(
      []([[maybe_unused]] const auto& attributes) {
        if constexpr (requires { attributes.pass; }) return attributes.pass;
        return Pass::forward;
      },
      op.attributes);
}

FlatRange written_range(const OpDesc& op) {
  if (const auto* loss = std::get_if<SoftmaxCrossEntropyOp>(&op.attributes)) {
    return {loss->metrics_offset, loss->metrics_offset + kMetricCount};
  }
  if (pass_of(op) != Pass::weight_gradient) return {};
  if (const auto* conv = std::get_if<Conv2dOp>(&op.attributes)) {
    const int64_t kernel_count =
        int64_t{conv->kernel_height} * conv->kernel_width * conv->in_channels * conv->out_channels;
    return parameter_range(conv->kernel_offset, kernel_count, conv->bias_offset,
                           conv->out_channels);
  }
  const auto* dense = std::get_if<DenseOp>(&op.attributes);
  LOCKSTEP_CHECK(dense != nullptr);
  return parameter_range(dense->kernel_offset, dense->in_features * dense->out_features,
                         dense->bias_offset, dense->out_features);
}

}  // namespace lockstep
