// Layers that normalize.
#include <fmt/format.h>

#include <algorithm>

#include "host/nn/layer_table.h"
#include "host/nn/layers/norms.h"

namespace lockstep::layers {
namespace {

// Where the entries of one axis of a row find their channel.
Broadcast along_axis(const Shape& shape, size_t axis) {
  int64_t inner = 1;
  for (size_t i = axis + 1; i < shape.size(); ++i) inner *= shape[i];
  return {inner, shape[axis]};
}

struct NormParameters {
  int64_t gamma = -1, beta = -1;
};

NormParameters norm_parameters(LayerContext& layer, const Shape& shape) {
  NormParameters parameters;
  if (layer.flag("scale")) parameters.gamma = layer.parameter("gamma", shape);
  if (layer.flag("center")) parameters.beta = layer.parameter("beta", shape);
  return parameters;
}

int64_t moving_average(LayerContext& layer, const char* name, int64_t channels) {
  ParameterSpec spec;
  spec.name = name;
  spec.shape = {channels};
  spec.initializer = layer.at((std::string(name) + "_initializer").c_str());
  spec.role = ParameterRole::moving_average;
  spec.momentum = static_cast<float>(layer.number("momentum"));
  return layer.parameter(std::move(spec));
}

// (x - mean) / sqrt(variance + epsilon) * gamma + beta with the moving averages.
SymbolicTensor normalize_by_averages(LayerContext& layer, const SymbolicTensor& x,
                                     const Broadcast& channel, const NormParameters& parameters,
                                     int64_t mean, int64_t variance) {
  ExpressionBuilder e;
  std::vector<MapOperand> operands = {whole_operand(0, x), parameter_operand(mean, channel),
                                      parameter_operand(variance, channel)};
  const auto next = [&](int64_t parameter) {
    operands.push_back(parameter_operand(parameter, channel));
    return e.operand(static_cast<int>(operands.size()) - 1);
  };
  const Term deviation = e.constant(1) / e.square_root(e.operand(2) + layer.number("epsilon"));
  Term y = (e.operand(0) - e.operand(1)) * deviation;
  if (parameters.gamma >= 0) y = y * next(parameters.gamma);
  if (parameters.beta >= 0) y = y + next(parameters.beta);
  return layer.map("forward", e.finish({y}), {x}, operands, x.shape);
}

Result<SymbolicTensor> build_batch(LayerContext& layer, const Tensors& inputs) {
  LOCKSTEP_RETURN_IF_ERROR(layer.check_inputs(inputs, 1));
  const SymbolicTensor& x = inputs[0];
  if (layer.flag("renorm")) return layer.error("renorm is not supported");
  if (layer.flag("synchronized")) {
    return layer.error(
        "synchronized=True is not supported: leave it out, each partition is "
        "normalized by itself (with --partitions 1 the whole batch)");
  }
  LOCKSTEP_ASSIGN(const size_t axis, layer.row_axis(layer.integer("axis"), x.shape));
  const int64_t channels = x.shape[axis];
  const Broadcast channel = along_axis(x.shape, axis);
  const NormParameters parameters = norm_parameters(layer, {channels});
  const int64_t mean = moving_average(layer, "moving_mean", channels);
  const int64_t variance = moving_average(layer, "moving_variance", channels);
  // A frozen one normalizes by its averages in training too, as Keras' does.
  if (!layer.training() || !layer.trainable()) {
    return normalize_by_averages(layer, x, channel, parameters, mean, variance);
  }
  if (x.mask >= 0) {
    return layer.error("an input with a mask is not supported in training: leave the mask out");
  }
  if (layer.call_number() > 0) {
    return layer.error(
        "is called more than once in training: its moving averages would depend on "
        "the order; use two layers");
  }
  BatchNormOp op;
  op.features = x.features();
  op.channel = channel;
  op.epsilon = static_cast<float>(layer.number("epsilon"));
  op.gamma_offset = parameters.gamma;
  op.beta_offset = parameters.beta;
  op.mean_offset = mean;
  return layer.builder().add_op("forward", op, {x}, x.shape, {{channels}, {channels}});
}

// Mean and variance over some axes, both with size 1 there.
struct Moments {
  SymbolicTensor centred;   // x - mean
  SymbolicTensor variance;  // one a group
  Broadcast group;          // where an entry finds its group
};

// A row seen as (outer, groups, size): the entries of a group over `outer` and `size` belong
// together.
Moments moments_of_groups(LayerContext& layer, const SymbolicTensor& x, int64_t groups,
                          int64_t size) {
  const SymbolicTensor view{x.value, {x.features() / (groups * size), groups, size}};
  const Broadcast group{size, groups};
  const SymbolicTensor mean =
      layer.reduce("mean", view, {0, 2}, LayerContext::Reduction::mean, true);
  ExpressionBuilder e;
  const SymbolicTensor centred =
      layer.map("centred", e.finish({e.operand(0) - e.operand(1)}), {view, mean},
                {whole_operand(0, view), {1, 0, group}}, view.shape);
  ExpressionBuilder s;
  const SymbolicTensor squares =
      layer.map("squares", s.finish({s.operand(0) * s.operand(0)}), {centred});
  return {centred, layer.reduce("variance", squares, {0, 2}, LayerContext::Reduction::mean, true),
          group};
}

// centred / sqrt(variance + epsilon) * gamma + beta.
SymbolicTensor normalize_by_moments(LayerContext& layer, const SymbolicTensor& x,
                                    const Moments& moments, const NormParameters& parameters,
                                    const Broadcast& channel) {
  ExpressionBuilder e;
  std::vector<MapOperand> operands = {whole_operand(0, x), {1, 0, moments.group}};
  Term y = e.operand(0) * (e.constant(1) / e.square_root(e.operand(1) + layer.number("epsilon")));
  const auto next = [&](int64_t parameter) {
    operands.push_back(parameter_operand(parameter, channel));
    return e.operand(static_cast<int>(operands.size()) - 1);
  };
  if (parameters.gamma >= 0) y = y * next(parameters.gamma);
  if (parameters.beta >= 0) y = y + next(parameters.beta);
  return layer.map("forward", e.finish({y}), {moments.centred, moments.variance}, operands,
                   x.shape);
}

// Over the last axes from `first` on; gamma and beta have their shape.
Result<SymbolicTensor> build_layer_norm(LayerContext& layer, const Tensors& inputs) {
  LOCKSTEP_RETURN_IF_ERROR(layer.check_inputs(inputs, 1));
  const SymbolicTensor& x = inputs[0];
  if (layer.flag("rms_scaling")) return layer.error("rms_scaling is refused: use RMSNormalization");
  std::vector<size_t> axes;
  const nlohmann::json& axis = layer.at("axis");
  for (const auto& item : axis.is_array() ? axis : nlohmann::json::array({axis})) {
    LOCKSTEP_ASSIGN(const size_t row, layer.row_axis(item.get<int64_t>(), x.shape));
    axes.push_back(row);
  }
  std::sort(axes.begin(), axes.end());
  Shape parameter_shape;
  for (size_t i = 0; i < axes.size(); ++i) {
    if (axes[i] != x.shape.size() - axes.size() + i) {
      return layer.error("axis must be the last one, or the last ones");
    }
    parameter_shape.push_back(x.shape[axes[i]]);
  }
  const int64_t size = element_count(parameter_shape);
  const NormParameters parameters = norm_parameters(layer, parameter_shape);
  const Moments moments = moments_of_groups(layer, x, x.features() / size, size);
  return normalize_by_moments(layer, x, moments, parameters, {1, size});
}

// Over groups of channels and all other axes; gamma and beta of a channel each.
Result<SymbolicTensor> build_group_norm(LayerContext& layer, const Tensors& inputs) {
  LOCKSTEP_RETURN_IF_ERROR(layer.check_inputs(inputs, 1));
  const SymbolicTensor& x = inputs[0];
  LOCKSTEP_ASSIGN(const size_t axis, layer.row_axis(layer.integer("axis"), x.shape));
  const int64_t channels = x.shape[axis];
  const int64_t groups = layer.integer("groups") == -1 ? channels : layer.integer("groups");
  if (groups < 1 || channels % groups != 0) {
    return layer.error(fmt::format("groups must divide the {} channels, and is {}", channels,
                                   layer.integer("groups")));
  }
  const NormParameters parameters = norm_parameters(layer, {channels});
  const Broadcast channel = along_axis(x.shape, axis);
  const Moments moments = moments_of_groups(layer, x, groups, channels / groups * channel.divisor);
  return normalize_by_moments(layer, x, moments, parameters, channel);
}

// x over its Euclidean norm along some axes; 1e-12 is Keras' epsilon, of the norm.
Result<SymbolicTensor> build_unit_norm(LayerContext& layer, const Tensors& inputs) {
  LOCKSTEP_RETURN_IF_ERROR(layer.check_inputs(inputs, 1));
  std::vector<size_t> axes;
  const nlohmann::json& axis = layer.at("axis");
  for (const auto& item : axis.is_array() ? axis : nlohmann::json::array({axis})) {
    LOCKSTEP_ASSIGN(const size_t row, layer.row_axis(item.get<int64_t>(), inputs[0].shape));
    axes.push_back(row);
  }
  return normalize_along(layer, inputs[0], axes, 1e-12);
}

// x / sqrt(mean of x^2 over the last axis + epsilon) * scale.
Result<SymbolicTensor> build_rms_norm(LayerContext& layer, const Tensors& inputs) {
  LOCKSTEP_RETURN_IF_ERROR(layer.check_inputs(inputs, 1));
  const SymbolicTensor& x = inputs[0];
  const nlohmann::json& asked = layer.at("axis");
  if (asked.is_array() && asked.size() != 1) return layer.error("axis must be one axis");
  const nlohmann::json& number = asked.is_array() ? asked[0] : asked;
  LOCKSTEP_ASSIGN(const size_t axis, layer.row_axis(number.get<int64_t>(), x.shape));
  if (axis + 1 != x.shape.size()) return layer.error("axis must be the last one");
  const int64_t channels = x.shape.back();
  ParameterSpec spec;
  spec.name = "scale";
  spec.shape = {channels};
  spec.initializer = {{"class_name", "Ones"}, {"config", nlohmann::json::object()}};
  const int64_t scale = layer.parameter(std::move(spec));
  ExpressionBuilder s;
  const SymbolicTensor squares = layer.map("squares", s.finish({s.operand(0) * s.operand(0)}), {x});
  const SymbolicTensor mean =
      layer.reduce("mean", squares, {axis}, LayerContext::Reduction::mean, true);
  ExpressionBuilder e;
  const Term y = e.operand(0) *
                 (e.constant(1) / e.square_root(e.operand(1) + layer.number("epsilon"))) *
                 e.operand(2);
  return layer.map("forward", e.finish({y}), {x, mean},
                   {whole_operand(0, x),
                    {1, 0, {channels, x.features() / channels}},
                    parameter_operand(scale, {1, channels})},
                   x.shape);
}

std::vector<ConfigKey> scale_and_center_keys() {
  return {{"center", KeyKind::flag, true},
          {"scale", KeyKind::flag, true},
          {"beta_initializer", KeyKind::initializer, "Zeros"},
          {"gamma_initializer", KeyKind::initializer, "Ones"},
          {"beta_regularizer", KeyKind::regularizer, nullptr},
          {"gamma_regularizer", KeyKind::regularizer, nullptr},
          {"beta_constraint", KeyKind::constraint, nullptr},
          {"gamma_constraint", KeyKind::constraint, nullptr}};
}

LayerType with_keys(LayerType type, const std::vector<ConfigKey>& keys) {
  type.keys.insert(type.keys.end(), keys.begin(), keys.end());
  return type;
}

}  // namespace

SymbolicTensor normalize_along(LayerContext& layer, const SymbolicTensor& x,
                               const std::vector<size_t>& axes, double epsilon) {
  ExpressionBuilder s;
  const SymbolicTensor squares = layer.map("squares", s.finish({s.operand(0) * s.operand(0)}), {x});
  const SymbolicTensor sums =
      layer.reduce("square_sum", squares, axes, LayerContext::Reduction::sum, true);
  ExpressionBuilder n;
  const Term inverse = n.constant(1) / n.square_root(n.operand(0));
  const SymbolicTensor norms =
      layer.map("inverse_norm", n.finish({n.minimum(inverse, n.constant(1 / epsilon))}), {sums});
  ExpressionBuilder e;
  return layer.map("normalized", e.finish({e.operand(0) * e.operand(1)}),
                   {x, layer.stretch("norms", norms, x.shape)});
}

// Statistics of each partition; the moving averages take the mean of all of them.
LayerType batch_normalization() {
  return with_keys({"BatchNormalization",
                    "mean 0 and deviation 1 over the rows, then scaled and shifted",
                    {{"axis", KeyKind::integer, -1},
                     {"momentum", KeyKind::number, 0.99},
                     {"epsilon", KeyKind::number, 1e-3},
                     {"moving_mean_initializer", KeyKind::initializer, "Zeros"},
                     {"moving_variance_initializer", KeyKind::initializer, "Ones"},
                     {"synchronized", KeyKind::flag, false},
                     {"renorm", KeyKind::flag, false},
                     {"renorm_clipping", KeyKind::any, nullptr},
                     {"renorm_momentum", KeyKind::any, 0.99}},
                    build_batch,
                    Masking::pass},
                   scale_and_center_keys());
}

LayerType layer_normalization() {
  return with_keys({"LayerNormalization",
                    "mean 0 and deviation 1 over the last axes, then scaled and shifted",
                    {{"axis", KeyKind::axis, -1},
                     {"epsilon", KeyKind::number, 1e-3},
                     {"rms_scaling", KeyKind::flag, false}},
                    build_layer_norm,
                    Masking::pass},
                   scale_and_center_keys());
}

LayerType group_normalization() {
  return with_keys({"GroupNormalization",
                    "mean 0 and deviation 1 over groups of channels, then scaled and shifted",
                    {{"groups", KeyKind::integer, 32},
                     {"axis", KeyKind::integer, -1},
                     {"epsilon", KeyKind::number, 1e-3}},
                    build_group_norm,
                    Masking::pass},
                   scale_and_center_keys());
}

LayerType unit_normalization() {
  return {"UnitNormalization",
          "its input over its Euclidean norm along some axes",
          {{"axis", KeyKind::axis, -1}},
          build_unit_norm,
          Masking::pass};
}

LayerType rms_normalization() {
  return {"RMSNormalization",
          "root of the mean square 1 over the last axis, then scaled",
          {{"axis", KeyKind::axis, -1}, {"epsilon", KeyKind::number, 1e-6}},
          build_rms_norm};
}

}  // namespace lockstep::layers
