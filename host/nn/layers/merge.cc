// Layers that join several inputs.
#include <fmt/format.h>

#include <algorithm>

#include "host/nn/layer_table.h"
#include "host/nn/layers/join.h"

namespace lockstep::layers {
namespace {

// The shape that all inputs are stretched to: axes of size 1 repeat, as in numpy.
Result<Shape> common_shape(const LayerContext& layer, const Tensors& inputs) {
  Shape shape = inputs[0].shape;
  for (const SymbolicTensor& input : inputs) {
    bool fits = input.shape.size() == shape.size();
    for (size_t axis = 0; fits && axis < shape.size(); ++axis) {
      const int64_t size = input.shape[axis];
      fits = size == shape[axis] || size == 1 || shape[axis] == 1;
      shape[axis] = std::max(shape[axis], size);
    }
    if (!fits) {
      return layer.error(fmt::format("its inputs have shapes {} and {}; they must be the same",
                                     to_string(inputs[0].shape), to_string(input.shape)));
    }
  }
  return shape;
}

enum class Merge { add, subtract, multiply, average, maximum, minimum };

Term joined(ExpressionBuilder& e, Merge merge, Term a, Term b) {
  switch (merge) {
    case Merge::subtract:
      return a - b;
    case Merge::multiply:
      return a * b;
    case Merge::maximum:
      return e.maximum(a, b);
    case Merge::minimum:
      return e.minimum(a, b);
    default:
      return a + b;
  }
}

template <Merge kMerge>
Result<SymbolicTensor> build_merge(LayerContext& layer, const Tensors& inputs) {
  if (inputs.size() < 2 || (kMerge == Merge::subtract && inputs.size() != 2)) {
    return layer.error(fmt::format("takes {}2 inputs, got {}",
                                   kMerge == Merge::subtract ? "" : "at least ", inputs.size()));
  }
  LOCKSTEP_ASSIGN(const Shape shape, common_shape(layer, inputs));
  SymbolicTensor result = layer.stretch("stretched", inputs[0], shape);
  for (size_t i = 1; i < inputs.size(); ++i) {
    ExpressionBuilder e;
    result = layer.map("forward", e.finish({joined(e, kMerge, e.operand(0), e.operand(1))}),
                       {result, layer.stretch("stretched", inputs[i], shape)});
  }
  if (kMerge != Merge::average) return result;
  ExpressionBuilder e;
  const Term mean = e.operand(0) / static_cast<double>(inputs.size());
  return layer.map("mean", e.finish({mean}), {result});
}

template <Merge kMerge>
LayerType merge(const char* class_name, const char* summary) {
  return {class_name, summary, {}, build_merge<kMerge>, Masking::join};
}

}  // namespace

SymbolicTensor joined_along(LayerContext& layer, const std::string& what, const Tensors& inputs,
                            size_t axis) {
  Shape shape = inputs[0].shape;
  shape[axis] = 0;
  for (const SymbolicTensor& input : inputs) shape[axis] += input.shape[axis];
  int64_t outer = 1;
  int64_t inner = 1;
  for (size_t i = 0; i < shape.size(); ++i) (i < axis ? outer : inner) *= i == axis ? 1 : shape[i];
  std::vector<int64_t> index;
  for (int64_t o = 0; o < outer; ++o) {
    int64_t begin = 0;
    for (const SymbolicTensor& input : inputs) {
      const int64_t run = input.shape[axis] * inner;
      for (int64_t i = 0; i < run; ++i) index.push_back(begin + o * run + i);
      begin += input.features();
    }
  }
  return layer.pick(what, index, inputs, shape);
}

namespace {

// As Keras: an input without a mask counts in full, and along the last axis any input counts.
Result<SymbolicTensor> joined_masks(LayerContext& layer, const Tensors& inputs, size_t axis) {
  Tensors masks;
  for (const SymbolicTensor& input : inputs) {
    const Shape shape(input.shape.begin(), input.shape.end() - 1);
    if (input.mask >= 0 && input.mask_shape != shape) {
      return layer.error("its inputs' masks must have all their axes but the last");
    }
    const std::vector<float> ones(static_cast<size_t>(element_count(shape)), 1.0f);
    masks.push_back(input.mask >= 0 ? SymbolicTensor{input.mask, shape}
                                    : layer.constant("whole_mask", ones, shape));
  }
  if (axis < masks[0].shape.size()) return joined_along(layer, "mask", masks, axis);
  SymbolicTensor any = masks[0];
  for (size_t i = 1; i < masks.size(); ++i) {
    ExpressionBuilder e;
    any = layer.map("mask", e.finish({e.maximum(e.operand(0), e.operand(1))}), {any, masks[i]});
  }
  return any;
}

Result<SymbolicTensor> build_concatenate(LayerContext& layer, const Tensors& inputs) {
  if (inputs.empty()) return layer.error("takes at least 1 input");
  LOCKSTEP_ASSIGN(const size_t axis, layer.row_axis(layer.integer("axis"), inputs[0].shape));
  Shape shape = inputs[0].shape;
  shape[axis] = 0;
  for (const SymbolicTensor& input : inputs) {
    Shape other = input.shape;
    if (other.size() == shape.size()) other[axis] = 0;
    Shape first = shape;
    first[axis] = 0;
    if (other != first) {
      return layer.error(fmt::format("its inputs have shapes {} and {}; only axis {} may differ",
                                     to_string(inputs[0].shape), to_string(input.shape),
                                     layer.integer("axis")));
    }
    shape[axis] += input.shape[axis];
  }
  LOCKSTEP_RETURN_IF_ERROR(layer.check_size("output", shape));
  SymbolicTensor output = joined_along(layer, "forward", inputs, axis);
  const bool masked = std::any_of(inputs.begin(), inputs.end(),
                                  [](const SymbolicTensor& input) { return input.mask >= 0; });
  if (!masked) return output;
  LOCKSTEP_ASSIGN(const SymbolicTensor mask, joined_masks(layer, inputs, axis));
  output.mask = mask.value;
  output.mask_shape = mask.shape;
  return output;
}

}  // namespace

LayerType add() { return merge<Merge::add>("Add", "the sum of its inputs"); }
LayerType subtract() {
  return merge<Merge::subtract>("Subtract", "the first input less the second");
}
LayerType multiply() { return merge<Merge::multiply>("Multiply", "the product of its inputs"); }
LayerType average() { return merge<Merge::average>("Average", "the mean of its inputs"); }
LayerType maximum() { return merge<Merge::maximum>("Maximum", "the largest of its inputs"); }
LayerType minimum() { return merge<Merge::minimum>("Minimum", "the smallest of its inputs"); }

LayerType concatenate() {
  return {"Concatenate",
          "its inputs one behind the other along an axis",
          {{"axis", KeyKind::integer, -1}},
          build_concatenate,
          Masking::build};
}

}  // namespace lockstep::layers
