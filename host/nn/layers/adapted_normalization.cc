// Normalization: by a mean and a variance that were found before training.
#include <fmt/format.h>

#include <algorithm>

#include "host/nn/layer_table.h"

namespace lockstep::layers {
namespace {

// The axes of the row that have statistics of their own; none: one for all.
Result<std::vector<size_t>> kept_axes(const LayerContext& layer, const Shape& shape) {
  std::vector<size_t> axes;
  const nlohmann::json& given = layer.at("axis");
  if (given.is_null()) return axes;
  if (!given.is_number_integer() && !given.is_array()) {
    return layer.error("axis must be a whole number, a list of them or null");
  }
  for (const auto& item : given.is_array() ? given : nlohmann::json::array({given})) {
    if (!item.is_number_integer()) return layer.error("axis must be whole numbers");
    LOCKSTEP_ASSIGN(const size_t axis, layer.row_axis(item.get<int64_t>(), shape));
    axes.push_back(axis);
  }
  std::sort(axes.begin(), axes.end());
  for (size_t i = 1; i < axes.size(); ++i) {
    if (axes[i] != axes[0] + i) return layer.error("its axes must lie side by side");
  }
  return axes;
}

void flatten(const nlohmann::json& values, std::vector<float>* flat) {
  if (values.is_number()) flat->push_back(values.get<float>());
  if (!values.is_array()) return;
  for (const nlohmann::json& value : values) flatten(value, flat);
}

struct Statistics {
  MapOperand mean, variance;
  Tensors inputs;  // the map's, behind x
};

// Weights where the layer was adapted, and numbers of the config where they were given.
Result<Statistics> statistics_of(LayerContext& layer, const Shape& shape,
                                 const Broadcast& broadcast) {
  Statistics found;
  if (layer.is_null("mean") != layer.is_null("variance")) {
    return layer.error("mean and variance must be given together");
  }
  if (layer.is_null("mean")) {
    const auto weight = [&](const char* name, const char* initializer, const Shape& its_shape) {
      ParameterSpec spec{.name = name, .shape = its_shape};
      spec.initializer = {{"class_name", initializer}, {"config", nlohmann::json::object()}};
      spec.role = ParameterRole::frozen;
      return layer.parameter(std::move(spec));
    };
    found.mean = parameter_operand(weight("mean", "Zeros", shape), broadcast);
    found.variance = parameter_operand(weight("variance", "Ones", shape), broadcast);
    weight("count", "Zeros", {});  // an int32 in Keras, which leaves it 0: the same bytes
    return found;
  }
  for (const char* key : {"mean", "variance"}) {
    std::vector<float> values;
    flatten(layer.at(key), &values);
    if (values.size() == 1) values.assign(static_cast<size_t>(element_count(shape)), values[0]);
    if (static_cast<int64_t>(values.size()) != element_count(shape)) {
      return layer.error(fmt::format("{} has {} values, and the axes {}", key, values.size(),
                                     element_count(shape)));
    }
    found.inputs.push_back(layer.constant(key, values, {element_count(shape)}));
  }
  found.mean = {1, 0, broadcast};
  found.variance = {2, 0, broadcast};
  return found;
}

Result<SymbolicTensor> build_adapted_normalization(LayerContext& layer, const Tensors& inputs) {
  LOCKSTEP_RETURN_IF_ERROR(layer.check_inputs(inputs, 1));
  const SymbolicTensor& x = inputs[0];
  LOCKSTEP_ASSIGN(const std::vector<size_t> axes, kept_axes(layer, x.shape));
  Shape shape;
  Broadcast broadcast{1, 1};
  for (size_t axis = 0; axis < x.shape.size(); ++axis) {
    const bool kept = std::find(axes.begin(), axes.end(), axis) != axes.end();
    if (kept) shape.push_back(x.shape[axis]);
    if (kept) broadcast.modulus *= x.shape[axis];
    if (!kept && !axes.empty() && axis > axes.back()) broadcast.divisor *= x.shape[axis];
  }
  LOCKSTEP_ASSIGN(Statistics statistics, statistics_of(layer, shape, broadcast));
  statistics.inputs.insert(statistics.inputs.begin(), x);
  ExpressionBuilder e;
  const Term mean = e.operand(1);
  const Term deviation = e.maximum(e.square_root(e.operand(2)), e.constant(kEpsilon));
  const Term y =
      layer.flag("invert") ? mean + e.operand(0) * deviation : (e.operand(0) - mean) / deviation;
  return layer.map("forward", e.finish({y}), statistics.inputs,
                   {whole_operand(0, x), statistics.mean, statistics.variance}, x.shape);
}

}  // namespace

LayerType normalization() {
  return {"Normalization",
          "its input less a mean, over a deviation, which were adapted or given before",
          {{"axis", KeyKind::any, -1},
           {"mean", KeyKind::any, nullptr},
           {"variance", KeyKind::any, nullptr},
           {"invert", KeyKind::flag, false}},
          build_adapted_normalization,
          Masking::pass};
}

}  // namespace lockstep::layers
