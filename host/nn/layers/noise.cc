// Layers that are random in training: each number is a function of seed, epoch, position, layer and
// call, so the same on any number of nodes.
#include <fmt/format.h>

#include "host/nn/layer_table.h"

namespace lockstep::layers {
namespace {

constexpr double kSeluAlpha = 1.6732632423543772;
constexpr double kSeluScale = 1.0507009873554805;

Status check_rate(const LayerContext& layer) {
  const double rate = layer.number("rate");
  // Written so that a NaN is refused too.
  if (rate >= 0 && rate < 1) return {};
  return layer.error(fmt::format("rate must be at least 0 and below 1, not {}", rate));
}

// Keeps where a uniform number reaches the rate; one number for all that `noise` joins.
SymbolicTensor drop(LayerContext& layer, const SymbolicTensor& x, const Broadcast& noise) {
  const auto rate = static_cast<float>(layer.number("rate"));
  ExpressionBuilder e;
  const Term kept = e.greater_equal(e.uniform(0), e.constant(rate));
  const Term y = e.select(kept, e.operand(0) * (1.0 / (1.0 - rate)), e.constant(0));
  return layer.map("forward", e.finish({y}), {x}, {whole_operand(0, x)}, x.shape, noise);
}

template <size_t kAxes>
Result<SymbolicTensor> build_spatial(LayerContext& layer, const Tensors& inputs) {
  LOCKSTEP_RETURN_IF_ERROR(layer.check_inputs(inputs, 1));
  const SymbolicTensor& x = inputs[0];
  LOCKSTEP_RETURN_IF_ERROR(
      layer.check_axes(x.shape, kAxes + 1, "images of one colour have 1 channel"));
  LOCKSTEP_RETURN_IF_ERROR(check_rate(layer));
  if (layer.number("rate") == 0 || !layer.training()) return x;
  const bool first = !layer.is_null("data_format") && layer.text("data_format") == "channels_first";
  const int64_t channels = first ? x.shape[0] : x.shape.back();
  return drop(layer, x, {first ? x.features() / channels : 1, channels});
}

template <size_t kAxes>
LayerType spatial() {
  LayerType type{fmt::format("SpatialDropout{}D", kAxes),
                 "sets whole channels to 0 in training",
                 {{"rate", KeyKind::number},
                  {"seed", KeyKind::any, nullptr},
                  {"noise_shape", KeyKind::any, nullptr},
                  {"data_format", KeyKind::any, nullptr}},
                 build_spatial<kAxes>};
  return type;
}

Result<SymbolicTensor> build_gaussian_noise(LayerContext& layer, const Tensors& inputs) {
  LOCKSTEP_RETURN_IF_ERROR(layer.check_inputs(inputs, 1));
  const double deviation = layer.number("stddev");
  if (!(deviation >= 0)) {
    return layer.error(fmt::format("stddev must not be negative, is {}", deviation));
  }
  if (deviation == 0 || !layer.training()) return inputs[0];
  ExpressionBuilder e;
  return layer.map("forward", e.finish({e.operand(0) + e.normal(0) * deviation}), inputs);
}

// x * (1 + a normal number of deviation sqrt(rate / (1 - rate))).
Result<SymbolicTensor> build_gaussian_dropout(LayerContext& layer, const Tensors& inputs) {
  LOCKSTEP_RETURN_IF_ERROR(layer.check_inputs(inputs, 1));
  LOCKSTEP_RETURN_IF_ERROR(check_rate(layer));
  const double rate = layer.number("rate");
  if (rate == 0 || !layer.training()) return inputs[0];
  ExpressionBuilder e;
  const Term deviation = e.square_root(e.constant(rate / (1 - rate)));
  return layer.map("forward", e.finish({e.operand(0) * (e.normal(0) * deviation + 1.0)}), inputs);
}

// Klambauer et al., "Self-normalizing neural networks" (2017): keeps mean and variance.
Result<SymbolicTensor> build_alpha_dropout(LayerContext& layer, const Tensors& inputs) {
  LOCKSTEP_RETURN_IF_ERROR(layer.check_inputs(inputs, 1));
  LOCKSTEP_RETURN_IF_ERROR(check_rate(layer));
  if (!layer.is_null("noise_shape")) return layer.error("noise_shape is not supported yet");
  const double rate = layer.number("rate");
  if (rate == 0 || !layer.training()) return inputs[0];
  constexpr double kDropped = -kSeluAlpha * kSeluScale;
  ExpressionBuilder e;
  const Term scale =
      e.constant(1) / e.square_root(e.constant((1 - rate) * (1 + rate * kDropped * kDropped)));
  const Term kept = e.greater_equal(e.uniform(0), e.constant(rate));
  const Term x = e.select(kept, e.operand(0), e.constant(kDropped));
  return layer.map("forward", e.finish({(x - rate * kDropped) * scale}), inputs);
}

}  // namespace

LayerType spatial_dropout1d() { return spatial<1>(); }
LayerType spatial_dropout2d() { return spatial<2>(); }
LayerType spatial_dropout3d() { return spatial<3>(); }

LayerType gaussian_noise() {
  return {"GaussianNoise",
          "adds normal numbers in training",
          {{"stddev", KeyKind::number}, {"seed", KeyKind::any, nullptr}},
          build_gaussian_noise};
}

LayerType gaussian_dropout() {
  return {"GaussianDropout",
          "multiplies by normal numbers around 1 in training",
          {{"rate", KeyKind::number}, {"seed", KeyKind::any, nullptr}},
          build_gaussian_dropout};
}

LayerType alpha_dropout() {
  return {"AlphaDropout",
          "drops entries in training and keeps mean and variance, for selu",
          {{"rate", KeyKind::number},
           {"noise_shape", KeyKind::any, nullptr},
           {"seed", KeyKind::any, nullptr}},
          build_alpha_dropout};
}

}  // namespace lockstep::layers
