#include "host/nn/layer.h"

#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <numeric>

#include "host/core/check.h"
#include "host/core/suggest.h"
#include "host/nn/activations.h"
#include "host/nn/regularizers.h"

namespace lockstep {

bool is_allowed_shape(const Shape& shape) {
  int64_t count = 1;
  for (const int64_t dimension : shape) {
    if (dimension < 1 || dimension > kLargestTensor / count) return false;
    count *= dimension;
  }
  return true;
}

WindowPlacement place_windows(int64_t in, int64_t window, int64_t stride, bool same) {
  if (!same) return {(in - window) / stride + 1, 0};
  const int64_t count = (in + stride - 1) / stride;
  const int64_t padding = std::max<int64_t>((count - 1) * stride + window - in, 0);
  return {count, padding / 2};
}

MapOperand whole_operand(int input, const SymbolicTensor& tensor) {
  return {input, 0, {1, tensor.features()}};
}

MapOperand parameter_operand(int64_t parameter, const Broadcast& broadcast) {
  return {-1, parameter, broadcast};
}

bool LayerContext::training() const {
  if (builder_.mode() == GraphMode::inference) return false;
  const auto argument = call_.arguments.find("training");
  return argument == call_.arguments.end() || argument->is_null() || argument->get<bool>();
}

LayerContext LayerContext::wrapped(const std::string& class_name, const nlohmann::json& config,
                                   bool trainable, int call_number) const {
  Call call = call_;
  call.class_name = class_name;
  call.config = &config;
  call.number = call_number;
  call.trainable = call.trainable && trainable;
  builder_.begin_layer(call.name, builder_.position(), call_number);
  return LayerContext(builder_, std::move(call));
}

Error LayerContext::error(const std::string& what) const {
  return usage_error(fmt::format("layer '{}' ({}): {}", call_.name, call_.class_name, what));
}

Status LayerContext::check_axes(const Shape& shape, size_t axes, const std::string& remedy) const {
  if (shape.size() == axes) return {};
  constexpr const char* kNames[] = {"no axis", "one axis (features)", "two axes (steps, channels)",
                                    "three axes (height, width, channels)",
                                    "four axes (depth, height, width, channels)"};
  LOCKSTEP_CHECK(axes < std::size(kNames));
  return error(fmt::format("expected an input of {}, got shape {}; {}", kNames[axes],
                           to_string(shape), remedy));
}

Status LayerContext::check_size(const std::string& what, const Shape& shape) const {
  if (is_allowed_shape(shape)) return {};
  return error(fmt::format("its {} of shape {} has more than {} entries; make the layer smaller",
                           what, to_string(shape), kLargestTensor));
}

Status LayerContext::check_choice(const std::string& what, const std::string& value,
                                  const std::vector<std::string>& known) const {
  if (std::find(known.begin(), known.end(), value) != known.end()) return {};
  return error(unknown_name_message(what, value, known));
}

Status LayerContext::check_positive(const char* key) const {
  if (integer(key) >= 1) return {};
  return error(fmt::format("{} must be at least 1, not {}", key, integer(key)));
}

Status LayerContext::check_inputs(const Tensors& inputs, size_t count) const {
  if (inputs.size() == count) return {};
  return error(
      fmt::format("takes {} input{}, got {}", count, count == 1 ? "" : "s", inputs.size()));
}

Result<size_t> LayerContext::row_axis(int64_t axis, const Shape& shape) const {
  const auto axes = static_cast<int64_t>(shape.size()) + 1;  // with the batch's
  const int64_t positive = axis < 0 ? axis + axes : axis;
  if (positive == 0) {
    return error("axis 0 is the batch: each row is computed by itself; name another axis");
  }
  if (positive < 0 || positive >= axes) {
    return error(fmt::format("axis {} is not one of an input of shape {}", axis, to_string(shape)));
  }
  return static_cast<size_t>(positive - 1);
}

int64_t LayerContext::parameter(const std::string& name, const Shape& shape) {
  ParameterSpec spec;
  spec.name = name;
  spec.shape = shape;
  const auto key = [&](const char* what) -> nlohmann::json {
    const auto found = call_.config->find(name + what);
    return found == call_.config->end() ? nlohmann::json() : *found;
  };
  spec.initializer = key("_initializer");
  spec.regularizer = key("_regularizer");
  spec.constraint = key("_constraint");
  return parameter(std::move(spec));
}

int64_t LayerContext::parameter(ParameterSpec spec) {
  if (!call_.trainable) spec.role = ParameterRole::frozen;
  return builder_.add_parameter(spec);
}

SymbolicTensor LayerContext::op(const std::string& what, OpAttributes attributes,
                                const Tensors& inputs, Shape output_shape) {
  return builder_.add_op(what, std::move(attributes), inputs, std::move(output_shape));
}

SymbolicTensor LayerContext::map(const std::string& what, const Expression& expression,
                                 const Tensors& inputs) {
  std::vector<MapOperand> operands;
  for (size_t i = 0; i < inputs.size(); ++i) {
    operands.push_back(whole_operand(static_cast<int>(i), inputs[i]));
  }
  return map(what, expression, inputs, operands, inputs[0].shape);
}

SymbolicTensor LayerContext::map(const std::string& what, const Expression& expression,
                                 const Tensors& inputs, const std::vector<MapOperand>& operands,
                                 const Shape& shape, const Broadcast& noise) {
  MapOp map;
  map.features = element_count(shape);
  map.expression = expression;
  map.operands = operands;
  map.noise = noise.modulus == 0 ? Broadcast{1, map.features} : noise;
  map.layer = static_cast<uint32_t>(call_.index);
  map.call = static_cast<uint32_t>(call_.number);
  return op(what, std::move(map), inputs, shape);
}

SymbolicTensor LayerContext::gather(const std::string& what, IndexLists lists,
                                    const Tensors& inputs, Shape output_shape, Gathering gathering,
                                    float fill, bool split_ties) {
  GatherOp gather;
  lists.inputs = 0;
  for (const SymbolicTensor& input : inputs) {
    gather.input_features.push_back(input.features());
    lists.inputs += input.features();
  }
  gather.lists = std::make_shared<IndexLists>(std::move(lists));
  gather.gathering = gathering;
  gather.fill = fill;
  gather.split_ties = split_ties;
  return op(what, std::move(gather), inputs, std::move(output_shape));
}

SymbolicTensor LayerContext::pick(const std::string& what, const std::vector<int64_t>& index,
                                  const Tensors& inputs, Shape output_shape, float fill) {
  IndexLists lists;
  lists.begin.push_back(0);
  for (const int64_t i : index) {
    if (i >= 0) lists.index.push_back(static_cast<int32_t>(i));
    lists.begin.push_back(static_cast<int64_t>(lists.index.size()));
  }
  return gather(what, std::move(lists), inputs, std::move(output_shape), Gathering::sum, fill);
}

SymbolicTensor LayerContext::reduce(const std::string& what, const SymbolicTensor& input,
                                    const std::vector<size_t>& axes, Reduction reduction,
                                    bool keep) {
  const auto is_reduced = [&](size_t axis) {
    return std::find(axes.begin(), axes.end(), axis) != axes.end();
  };
  Shape kept;
  Shape output_shape;
  for (size_t axis = 0; axis < input.shape.size(); ++axis) {
    kept.push_back(is_reduced(axis) ? 1 : input.shape[axis]);
    if (keep || !is_reduced(axis)) output_shape.push_back(kept.back());
  }
  std::vector<std::vector<int32_t>> sources(static_cast<size_t>(element_count(kept)));
  Shape at(input.shape.size(), 0);
  for (int64_t i = 0; i < input.features(); ++i) {
    int64_t rest = i;
    for (size_t axis = input.shape.size(); axis-- > 0;) {
      at[axis] = is_reduced(axis) ? 0 : rest % input.shape[axis];
      rest /= input.shape[axis];
    }
    int64_t o = 0;
    for (size_t axis = 0; axis < kept.size(); ++axis) o = o * kept[axis] + at[axis];
    sources[static_cast<size_t>(o)].push_back(static_cast<int32_t>(i));
  }
  // Keras' max divides its gradient among equal elements.
  const bool maximum = reduction == Reduction::maximum;
  SymbolicTensor result =
      gather(what, index_lists(sources, input.features()), {input}, output_shape,
             maximum ? Gathering::maximum : Gathering::sum, 0, maximum);
  if (reduction != Reduction::mean) return result;
  ExpressionBuilder e;
  const double count =
      static_cast<double>(input.features()) / static_cast<double>(result.features());
  return map(what + "_mean", e.finish({e.operand(0) / count}), {result});
}

SymbolicTensor LayerContext::constant(const std::string& what, const std::vector<float>& values,
                                      const Shape& shape) {
  ExpressionBuilder e;
  const SymbolicTensor one = map(what + "_one", e.finish({e.constant(1)}), {}, {}, {1});
  IndexLists lists;
  lists.factor = values;
  lists.index.assign(values.size(), 0);
  for (size_t i = 0; i <= values.size(); ++i) lists.begin.push_back(static_cast<int64_t>(i));
  return gather(what, std::move(lists), {one}, shape);
}

SymbolicTensor LayerContext::stretch(const std::string& what, const SymbolicTensor& input,
                                     const Shape& shape) {
  if (input.shape == shape) return input;
  LOCKSTEP_CHECK(input.shape.size() == shape.size());
  std::vector<int64_t> index;
  for (int64_t o = 0; o < element_count(shape); ++o) {
    int64_t rest = o, at = 0, inner = 1;
    for (size_t axis = shape.size(); axis-- > 0;) {
      if (input.shape[axis] > 1) at += rest % shape[axis] * inner;
      rest /= shape[axis];
      inner *= input.shape[axis];
    }
    index.push_back(at);
  }
  return pick(what, index, {input}, shape);
}

namespace {

// 1 where any of the masks is.
SymbolicTensor any_of_masks(LayerContext& layer, const Tensors& inputs) {
  SymbolicTensor any{.value = inputs[0].mask, .shape = inputs[0].mask_shape};
  for (size_t i = 1; i < inputs.size(); ++i) {
    ExpressionBuilder e;
    any = layer.map("mask", e.finish({e.maximum(e.operand(0), e.operand(1))}),
                    {any, {.value = inputs[i].mask, .shape = inputs[i].mask_shape}});
  }
  return any;
}

Status set_mask(const LayerType& type, LayerContext& layer, const Tensors& inputs,
                SymbolicTensor* output) {
  if (type.masking == Masking::build) return {};
  output->mask = -1;
  output->mask_shape = {};
  if (type.masking == Masking::drop || inputs.empty()) return {};
  const bool join = type.masking == Masking::join;
  for (const SymbolicTensor& input : inputs) {
    if (input.mask < 0 && (join || &input == &inputs[0])) return {};
    if (join && input.mask_shape != inputs[0].mask_shape) {
      return layer.error("its inputs have masks of different shapes, which is not supported");
    }
  }
  const SymbolicTensor mask =
      join ? any_of_masks(layer, inputs)
           : SymbolicTensor{.value = inputs[0].mask, .shape = inputs[0].mask_shape};
  output->mask = mask.value;
  output->mask_shape = mask.shape;
  return {};
}

}  // namespace

Result<SymbolicTensor> call_layer(const LayerType& type, LayerContext& layer,
                                  const Tensors& inputs) try {
  LOCKSTEP_ASSIGN(SymbolicTensor output, type.build(layer, inputs));
  LOCKSTEP_RETURN_IF_ERROR(set_mask(type, layer, inputs, &output));
  if (const nlohmann::json* regularizer = layer.find("activity_regularizer")) {
    if (is_orthogonal(*regularizer)) {
      return layer.error("OrthogonalRegularizer is for weights: use L1, L2 or L1L2 for activities");
    }
    add_activity_loss(layer, output, penalty_of(*regularizer));
  }
  return output;
} catch (const nlohmann::json::exception& error) {
  // Keys of no certain kind are read where they are used.
  return layer.error(fmt::format("its config is not as Keras writes it: {}", error.what()));
}

Result<SymbolicTensor> LayerContext::activate(const SymbolicTensor& input,
                                              const nlohmann::json& activation) {
  return apply_activation(*this, input, activation);
}

}  // namespace lockstep
