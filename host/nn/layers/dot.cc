// Dot: the products of two inputs along an axis of each.
#include <fmt/format.h>

#include "host/nn/layer_table.h"
#include "host/nn/layers/norms.h"

namespace lockstep::layers {
namespace {

// One axis of a shape brought to the front or to the end, the others in their order.
SymbolicTensor with_axis(LayerContext& layer, const std::string& what, const SymbolicTensor& x,
                         size_t axis, bool to_front) {
  const int64_t size = x.shape[axis];
  int64_t inner = 1;
  for (size_t i = axis + 1; i < x.shape.size(); ++i) inner *= x.shape[i];
  const int64_t others = x.features() / size;
  const Shape shape = to_front ? Shape{size, others} : Shape{others, size};
  if ((to_front && others == inner) || (!to_front && inner == 1)) return {x.value, shape};
  std::vector<int64_t> index(static_cast<size_t>(x.features()));
  for (int64_t other = 0; other < others; ++other) {
    for (int64_t i = 0; i < size; ++i) {
      const int64_t from = (other / inner * size + i) * inner + other % inner;
      index[static_cast<size_t>(to_front ? i * others + other : other * size + i)] = from;
    }
  }
  return layer.pick(what, index, {x}, shape);
}

Result<std::vector<size_t>> dot_axes(const LayerContext& layer, const Tensors& inputs) {
  const nlohmann::json& given = layer.at("axes");
  if (given.is_array() && given.size() != 2) {
    return layer.error("axes must be a whole number, or one for each of the two inputs");
  }
  std::vector<size_t> axes;
  for (size_t i = 0; i < 2; ++i) {
    const int64_t axis = (given.is_array() ? given[i] : given).get<int64_t>();
    LOCKSTEP_ASSIGN(const size_t row, layer.row_axis(axis, inputs[i].shape));
    axes.push_back(row);
  }
  return axes;
}

Result<SymbolicTensor> build_dot(LayerContext& layer, const Tensors& inputs) {
  LOCKSTEP_RETURN_IF_ERROR(layer.check_inputs(inputs, 2));
  LOCKSTEP_ASSIGN(const std::vector<size_t> axes, dot_axes(layer, inputs));
  const int64_t inner = inputs[0].shape[axes[0]];
  if (inner != inputs[1].shape[axes[1]]) {
    return layer.error(fmt::format("its inputs have shapes {} and {}, of {} and {} along axes",
                                   to_string(inputs[0].shape), to_string(inputs[1].shape), inner,
                                   inputs[1].shape[axes[1]]));
  }
  Shape output;
  for (size_t i = 0; i < 2; ++i) {
    for (size_t axis = 0; axis < inputs[i].shape.size(); ++axis) {
      if (axis != axes[i]) output.push_back(inputs[i].shape[axis]);
    }
  }
  if (output.empty()) output = {1};
  LOCKSTEP_RETURN_IF_ERROR(layer.check_size("output", output));
  SymbolicTensor x = inputs[0], z = inputs[1];
  if (layer.flag("normalize")) {
    x = normalize_along(layer, x, {axes[0]}, kEpsilon);
    z = normalize_along(layer, z, {axes[1]}, kEpsilon);
  }
  x = with_axis(layer, "first", x, axes[0], false);
  z = with_axis(layer, "second", z, axes[1], true);
  MatmulOp product;
  product.rows = x.shape[0];
  product.inner = inner;
  product.columns = z.shape[1];
  product.x = {0, inner, 1};
  product.z = {0, product.columns, 1};
  product.out = {0, product.columns, 1};
  product.x_features = x.features();
  product.z_features = z.features();
  product.features = element_count(output);
  return layer.op("forward", product, {x, z}, output);
}

}  // namespace

LayerType dot() {
  return {"Dot",
          "the products of its two inputs, summed along an axis of each",
          {{"axes", KeyKind::axis}, {"normalize", KeyKind::flag, false}},
          build_dot};
}

}  // namespace lockstep::layers
