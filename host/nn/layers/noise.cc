// Layers that act in training alone. Most are random: each number is a function of seed, epoch,
// position, layer and call, so the same on any number of nodes.
#include <fmt/format.h>

#include "host/nn/layer_table.h"
#include "host/nn/layers/noise_shape.h"
#include "host/nn/regularizers.h"

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
                 build_spatial<kAxes>,
                 Masking::pass};
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
  const double rate = layer.number("rate");
  LOCKSTEP_ASSIGN(const Shape noise, noise_shape_of(layer, inputs[0].shape));
  if (rate == 0 || !layer.training()) return inputs[0];
  constexpr double kDropped = -kSeluAlpha * kSeluScale;
  ExpressionBuilder e;
  const Term scale =
      e.constant(1) / e.square_root(e.constant((1 - rate) * (1 + rate * kDropped * kDropped)));
  const bool apart = noise == inputs[0].shape;
  const Term number = apart ? e.uniform(0) : e.operand(1);
  const Term kept = e.greater_equal(number, e.constant(rate));
  const Term x = e.select(kept, e.operand(0), e.constant(kDropped));
  const Expression dropped = e.finish({(x - rate * kDropped) * scale});
  if (apart) return layer.map("forward", dropped, inputs);
  ExpressionBuilder n;
  const SymbolicTensor numbers = layer.map("numbers", n.finish({n.uniform(0)}), {}, {}, noise);
  return layer.map("forward", dropped,
                   {inputs[0], layer.stretch("noise", numbers, inputs[0].shape)});
}

Result<SymbolicTensor> build_activity_regularization(LayerContext& layer, const Tensors& inputs) {
  LOCKSTEP_RETURN_IF_ERROR(layer.check_inputs(inputs, 1));
  const Penalty penalty{layer.number("l1"), layer.number("l2")};
  if (!(penalty.l1 >= 0 && penalty.l2 >= 0)) return layer.error("l1 and l2 must be at least 0");
  add_activity_loss(layer, inputs[0], penalty);
  return inputs[0];
}

}  // namespace

Result<Shape> noise_shape_of(const LayerContext& layer, const Shape& input) {
  const nlohmann::json& given = layer.at("noise_shape");
  if (given.is_null()) return input;
  const Error wrong = layer.error(fmt::format(
      "noise_shape {} does not fit: it must be a list of null for the batch, and for each axis of "
      "an input of shape {} its size, null or 1",
      given.dump(), to_string(input)));
  if (!given.is_array() || given.size() != input.size() + 1 || !given[0].is_null()) return wrong;
  Shape shape = input;
  for (size_t axis = 0; axis < input.size(); ++axis) {
    const nlohmann::json& size = given[axis + 1];
    if (size.is_null() || size == input[axis]) continue;
    if (size != 1) return wrong;
    shape[axis] = 1;
  }
  return shape;
}

LayerType spatial_dropout1d() { return spatial<1>(); }
LayerType spatial_dropout2d() { return spatial<2>(); }
LayerType spatial_dropout3d() { return spatial<3>(); }

LayerType activity_regularization() {
  return {"ActivityRegularization",
          "its input, whose size it adds to the loss",
          {{"l1", KeyKind::number, 0.0}, {"l2", KeyKind::number, 0.0}},
          build_activity_regularization,
          Masking::pass};
}

LayerType gaussian_noise() {
  return {"GaussianNoise",
          "adds normal numbers in training",
          {{"stddev", KeyKind::number}, {"seed", KeyKind::any, nullptr}},
          build_gaussian_noise,
          Masking::pass};
}

LayerType gaussian_dropout() {
  return {"GaussianDropout",
          "multiplies by normal numbers around 1 in training",
          {{"rate", KeyKind::number}, {"seed", KeyKind::any, nullptr}},
          build_gaussian_dropout,
          Masking::pass};
}

LayerType alpha_dropout() {
  return {"AlphaDropout",
          "drops entries in training and keeps mean and variance, for selu",
          {{"rate", KeyKind::number},
           {"noise_shape", KeyKind::any, nullptr},
           {"seed", KeyKind::any, nullptr}},
          build_alpha_dropout,
          Masking::pass};
}

}  // namespace lockstep::layers
