// Layers that models of keras.applications define for themselves.
#include <fmt/format.h>

#include "host/nn/layer_table.h"

namespace lockstep::layers {
namespace {

// Touvron et al., "Going deeper with image transformers" (2021): a weight a channel.
Result<SymbolicTensor> build_layer_scale(LayerContext& layer, const Tensors& inputs) {
  LOCKSTEP_RETURN_IF_ERROR(layer.check_inputs(inputs, 1));
  const SymbolicTensor& x = inputs[0];
  const int64_t channels = layer.integer("projection_dim");
  if (channels != x.shape.back()) {
    return layer.error(fmt::format("projection_dim is {}, and its input has {} channels", channels,
                                   x.shape.back()));
  }
  ParameterSpec spec{.name = "gamma", .shape = {channels}};
  spec.initializer = {{"class_name", "Constant"},
                      {"config", {{"value", layer.number("init_values")}}}};
  const int64_t gamma = layer.parameter(std::move(spec));
  ExpressionBuilder e;
  return layer.map("forward", e.finish({e.operand(0) * e.operand(1)}), inputs,
                   {whole_operand(0, x), parameter_operand(gamma, {1, channels})}, x.shape);
}

// Huang et al., "Deep networks with stochastic depth" (2016): drops whole rows.
Result<SymbolicTensor> build_stochastic_depth(LayerContext& layer, const Tensors& inputs) {
  LOCKSTEP_RETURN_IF_ERROR(layer.check_inputs(inputs, 1));
  const double rate = layer.number("drop_path_rate");
  if (!(rate >= 0 && rate < 1)) {
    return layer.error(fmt::format("drop_path_rate must be at least 0 and below 1, not {}", rate));
  }
  if (!layer.training()) return inputs[0];
  const SymbolicTensor& x = inputs[0];
  ExpressionBuilder e;
  const Term kept = e.floor(e.uniform(0) + (1 - rate));
  return layer.map("forward", e.finish({e.operand(0) / (1 - rate) * kept}), inputs,
                   {whole_operand(0, x)}, x.shape, {1, 1});
}

Result<SymbolicTensor> build_custom_scale(LayerContext& layer, const Tensors& inputs) {
  LOCKSTEP_RETURN_IF_ERROR(layer.check_inputs(inputs, 2));
  if (inputs[0].shape != inputs[1].shape) {
    return layer.error(fmt::format("its inputs have shapes {} and {}; they must be the same",
                                   to_string(inputs[0].shape), to_string(inputs[1].shape)));
  }
  ExpressionBuilder e;
  const Term y = e.operand(0) + e.operand(1) * layer.number("scale");
  return layer.map("forward", e.finish({y}), inputs);
}

}  // namespace

LayerType layer_scale() {
  return {"LayerScale",
          "its input times a weight a channel (ConvNeXt)",
          {{"init_values", KeyKind::number}, {"projection_dim", KeyKind::integer}},
          build_layer_scale,
          Masking::drop,
          "keras.src.applications.convnext"};
}

LayerType stochastic_depth() {
  return {"StochasticDepth",
          "sets whole rows to 0 in training, and scales the others up (ConvNeXt)",
          {{"drop_path_rate", KeyKind::number}},
          build_stochastic_depth,
          Masking::drop,
          "keras.src.applications.convnext"};
}

LayerType custom_scale_layer() {
  return {"CustomScaleLayer",
          "its first input plus the second times a scale (InceptionResNetV2)",
          {{"scale", KeyKind::number}},
          build_custom_scale,
          Masking::drop,
          "keras.src.applications.inception_resnet_v2"};
}

}  // namespace lockstep::layers
