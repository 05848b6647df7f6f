// Layers that change the shape or the order of a row's entries.
#include <fmt/format.h>

#include <algorithm>

#include "host/nn/layer_table.h"

namespace lockstep::layers {
namespace {

Result<SymbolicTensor> build_reshape(LayerContext& layer, const Tensors& inputs) {
  LOCKSTEP_RETURN_IF_ERROR(layer.check_inputs(inputs, 1));
  Shape shape = layer.at("target_shape").get<Shape>();
  int64_t known = 1;
  int open = -1;
  for (size_t axis = 0; axis < shape.size(); ++axis) {
    if (shape[axis] == -1 && open < 0) {
      open = static_cast<int>(axis);
    } else if (shape[axis] < 1 || known > kLargestTensor / shape[axis]) {
      return layer.error(fmt::format("target_shape {} must be positive but for one -1",
                                     layer.at("target_shape").dump()));
    } else {
      known *= shape[axis];
    }
  }
  const int64_t features = inputs[0].features();
  if (open >= 0 && features % known == 0) {
    shape[static_cast<size_t>(open)] = features / known;
    known = features;
  }
  if (known != features) {
    return layer.error(fmt::format("an input of shape {} cannot become {}",
                                   to_string(inputs[0].shape), layer.at("target_shape").dump()));
  }
  return SymbolicTensor{inputs[0].value, shape};
}

Result<SymbolicTensor> build_permute(LayerContext& layer, const Tensors& inputs) {
  LOCKSTEP_RETURN_IF_ERROR(layer.check_inputs(inputs, 1));
  const Shape& shape = inputs[0].shape;
  const auto dims = layer.at("dims").get<std::vector<int64_t>>();
  std::vector<int64_t> sorted = dims;
  std::sort(sorted.begin(), sorted.end());
  bool right = dims.size() == shape.size();
  for (size_t i = 0; right && i < dims.size(); ++i) {
    right = sorted[i] == static_cast<int64_t>(i) + 1;
  }
  if (!right) {
    return layer.error(fmt::format("dims {} must hold 1 to {} once each, for an input of shape {}",
                                   layer.at("dims").dump(), shape.size(), to_string(shape)));
  }
  std::vector<int64_t> strides(shape.size(), 1);
  for (size_t axis = shape.size(); axis-- > 1;) strides[axis - 1] = strides[axis] * shape[axis];
  Shape output;
  for (const int64_t dim : dims) output.push_back(shape[static_cast<size_t>(dim - 1)]);
  std::vector<int64_t> index;
  for (int64_t o = 0; o < inputs[0].features(); ++o) {
    int64_t rest = o;
    int64_t from = 0;
    for (size_t axis = output.size(); axis-- > 0;) {
      from += rest % output[axis] * strides[static_cast<size_t>(dims[axis] - 1)];
      rest /= output[axis];
    }
    index.push_back(from);
  }
  return layer.pick("forward", index, inputs, output);
}

Result<SymbolicTensor> build_repeat(LayerContext& layer, const Tensors& inputs) {
  LOCKSTEP_RETURN_IF_ERROR(layer.check_inputs(inputs, 1));
  LOCKSTEP_RETURN_IF_ERROR(layer.check_axes(inputs[0].shape, 1, "add a Flatten before this layer"));
  LOCKSTEP_RETURN_IF_ERROR(layer.check_positive("n"));
  const Shape output{layer.integer("n"), inputs[0].shape[0]};
  LOCKSTEP_RETURN_IF_ERROR(layer.check_size("output", output));
  std::vector<int64_t> index;
  for (int64_t o = 0; o < element_count(output); ++o) index.push_back(o % output[1]);
  return layer.pick("forward", index, inputs, output);
}

Result<SymbolicTensor> build_identity(LayerContext& layer, const Tensors& inputs) {
  LOCKSTEP_RETURN_IF_ERROR(layer.check_inputs(inputs, 1));
  return inputs[0];
}

}  // namespace

LayerType reshape() {
  return {
      "Reshape", "its input with other axes", {{"target_shape", KeyKind::shape}}, build_reshape};
}

LayerType permute() {
  return {"Permute",
          "its input with the axes in another order",
          {{"dims", KeyKind::shape}},
          build_permute};
}

LayerType repeat_vector() {
  return {"RepeatVector", "its input n times", {{"n", KeyKind::integer}}, build_repeat};
}

LayerType identity() { return {"Identity", "its input", {}, build_identity, Masking::pass}; }

}  // namespace lockstep::layers
