// Activations that are layers of their own.
#include <fmt/format.h>

#include <limits>

#include "host/nn/layer_table.h"
#include "host/nn/layers/axes.h"

namespace lockstep::layers {
namespace {

Result<SymbolicTensor> build_relu(LayerContext& layer, const Tensors& inputs) {
  LOCKSTEP_RETURN_IF_ERROR(layer.check_inputs(inputs, 1));
  const double slope = layer.is_null("negative_slope") ? 0 : layer.number("negative_slope");
  const double threshold = layer.is_null("threshold") ? 0 : layer.number("threshold");
  if (slope == 0 && threshold == 0 && layer.is_null("max_value")) {
    return layer.activate(inputs[0], "relu");
  }
  if (slope < 0 || threshold < 0) {
    return layer.error("negative_slope and threshold must not be negative");
  }
  // Keras: max_value where x >= max_value, x above the threshold, else slope * (x - threshold).
  ExpressionBuilder e;
  const Term x = e.operand(0);
  Term y = e.select(e.greater(x, e.constant(threshold)), x, (x - threshold) * slope);
  if (!layer.is_null("max_value")) {
    const Term top = e.constant(layer.number("max_value"));
    y = e.select(e.greater(top, y), y, top);
  }
  return layer.map("forward", e.finish({y}), inputs);
}

Result<SymbolicTensor> build_leaky_relu(LayerContext& layer, const Tensors& inputs) {
  LOCKSTEP_RETURN_IF_ERROR(layer.check_inputs(inputs, 1));
  ExpressionBuilder e;
  const Term x = e.operand(0);
  const Term y = e.select(e.greater(x, e.constant(0)), x, x * layer.number("negative_slope"));
  return layer.map("forward", e.finish({y}), inputs);
}

Result<SymbolicTensor> build_elu(LayerContext& layer, const Tensors& inputs) {
  LOCKSTEP_RETURN_IF_ERROR(layer.check_inputs(inputs, 1));
  ExpressionBuilder e;
  const Term x = e.operand(0);
  const Term y = e.select(e.greater(x, e.constant(0)), x, e.expm1(x) * layer.number("alpha"));
  return layer.map("forward", e.finish({y}), inputs);
}

// relu(x) - alpha * relu(-x), one alpha an entry, shared along some axes.
Result<SymbolicTensor> build_prelu(LayerContext& layer, const Tensors& inputs) {
  LOCKSTEP_RETURN_IF_ERROR(layer.check_inputs(inputs, 1));
  const Shape& shape = inputs[0].shape;
  Shape alpha_shape = shape;
  if (!layer.is_null("shared_axes")) {
    for (const auto& axis : layer.at("shared_axes")) {
      LOCKSTEP_ASSIGN(const size_t row, layer.row_axis(axis.get<int64_t>(), shape));
      alpha_shape[row] = 1;
    }
  }
  // The axes that are shared must come first for one broadcast to name them.
  size_t first_own = 0;
  while (first_own < shape.size() && alpha_shape[first_own] == 1) ++first_own;
  for (size_t axis = first_own; axis < shape.size(); ++axis) {
    if (alpha_shape[axis] == shape[axis]) continue;
    return layer.error("shared_axes must be the first axes, as (1, 2) of an image");
  }
  const int64_t alpha = layer.parameter("alpha", alpha_shape);
  ExpressionBuilder e;
  const Term x = e.operand(0);
  const Term y = e.select(e.greater(x, e.constant(0)), x, e.operand(1) * x);
  return layer.map(
      "forward", e.finish({y}), inputs,
      {whole_operand(0, inputs[0]), parameter_operand(alpha, {1, element_count(alpha_shape)})},
      shape);
}

Result<SymbolicTensor> build_softmax(LayerContext& layer, const Tensors& inputs) {
  LOCKSTEP_RETURN_IF_ERROR(layer.check_inputs(inputs, 1));
  if (!layer.at("axis").is_number_integer()) {
    return layer.error("axis: several axes are not supported yet; name one");
  }
  LOCKSTEP_ASSIGN(const size_t axis, layer.row_axis(layer.integer("axis"), inputs[0].shape));
  if (axis + 1 != inputs[0].shape.size()) {
    return layer.error("axis must be the last one; add a Permute before this layer");
  }
  if (inputs[0].mask >= 0) return layer.error("an input with a mask is not supported");
  return layer.activate(inputs[0], "softmax");
}

}  // namespace

LayerType relu() {
  return {"ReLU",
          "the larger of its input and 0, perhaps clipped or leaking",
          {{"max_value", KeyKind::any, nullptr},
           {"negative_slope", KeyKind::any, 0.0},
           {"threshold", KeyKind::any, 0.0}},
          build_relu,
          Masking::pass};
}

LayerType leaky_relu() {
  return {"LeakyReLU",
          "its input, scaled down where it is negative",
          {{"negative_slope", KeyKind::number, 0.3}},
          build_leaky_relu,
          Masking::pass};
}

LayerType elu() {
  return {"ELU",
          "alpha (e^x - 1) where x is negative, else x",
          {{"alpha", KeyKind::number, 1.0}},
          build_elu,
          Masking::pass};
}

LayerType prelu() {
  return {"PReLU",
          "its input, scaled by a weight where it is negative",
          {{"alpha_initializer", KeyKind::initializer, "Zeros"},
           {"alpha_regularizer", KeyKind::regularizer, nullptr},
           {"alpha_constraint", KeyKind::constraint, nullptr},
           {"shared_axes", KeyKind::any, nullptr}},
          build_prelu,
          Masking::pass};
}

LayerType softmax() {
  return {"Softmax",
          "probabilities along an axis",
          {{"axis", KeyKind::any, -1}},
          build_softmax,
          Masking::pass};
}

}  // namespace lockstep::layers
