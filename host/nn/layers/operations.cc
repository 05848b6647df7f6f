#include "host/nn/layers/operations.h"

#include <fmt/format.h>

#include <algorithm>

#include "host/nn/layers/join.h"

namespace lockstep::layers {
namespace {

using Json = nlohmann::json;

constexpr const char* kNumpy = "keras.src.ops.numpy";
constexpr const char* kCore = "keras.src.ops.core";

Json operands_of(const LayerContext& layer, size_t inputs) {
  return layer.arguments().value("operands", Json(std::vector<std::nullptr_t>(inputs)));
}

// --- elementwise ---

// The numbers of a nested list, and its shape.
bool flatten(const Json& value, size_t axis, Shape* shape, std::vector<float>* values) {
  if (value.is_number()) {
    values->push_back(value.get<float>());
    return axis == shape->size();
  }
  if (!value.is_array() || value.empty()) return false;
  if (axis == shape->size() && values->empty()) {
    shape->push_back(static_cast<int64_t>(value.size()));
  }
  if (axis >= shape->size() || (*shape)[axis] != static_cast<int64_t>(value.size())) return false;
  return std::all_of(value.begin(), value.end(),
                     [&](const Json& item) { return flatten(item, axis + 1, shape, values); });
}

// A constant of an operand, with as many axes as the rows have, or none: a number.
Result<SymbolicTensor> constant_operand(LayerContext& layer, const Json& operand, size_t axes) {
  const std::string kind = operand.is_object() ? operand.value("class_name", "") : "";
  const Json value = kind == "__tensor__" || kind == "__numpy__"
                         ? operand.value("/config/value"_json_pointer, Json())
                         : operand;
  Shape shape;
  std::vector<float> values;
  if (!flatten(value, 0, &shape, &values)) {
    return layer.error("an operand is neither a tensor nor numbers: " + operand.dump());
  }
  if (shape.size() == axes + 1 && shape[0] == 1) shape.erase(shape.begin());  // the batch
  if (shape.size() > axes) {
    return layer.error(fmt::format("a constant of shape {} has an axis for the rows of a batch",
                                   to_string(shape)));
  }
  shape.insert(shape.begin(), axes - shape.size(), 1);
  return layer.constant("constant", values, shape);
}

// 1 where x is not 0: what a boolean is here.
Term truth(ExpressionBuilder& e, Term x) { return e.constant(1) - e.equal(x, e.constant(0)); }

enum class Binary {
  add,
  subtract,
  multiply,
  divide,
  power,
  maximum,
  minimum,
  not_equal,
  logical_or
};

Term combined(ExpressionBuilder& e, Binary operation, Term a, Term b) {
  switch (operation) {
    case Binary::add:
      return a + b;
    case Binary::subtract:
      return a - b;
    case Binary::multiply:
      return a * b;
    case Binary::divide:
      return a / b;
    case Binary::power:
      return e.power(a, b);
    case Binary::maximum:
      return e.maximum(a, b);
    case Binary::minimum:
      return e.minimum(a, b);
    case Binary::not_equal:
      return e.constant(1) - e.equal(a, b);
    case Binary::logical_or:
      return e.maximum(truth(e, a), truth(e, b));
  }
  return a;
}

template <Binary kOperation>
Result<SymbolicTensor> build_binary(LayerContext& layer, const Tensors& inputs) {
  const Json operands = operands_of(layer, inputs.size());
  if (operands.size() != 2 || inputs.empty()) return layer.error("takes two operands");
  Tensors tensors;
  for (size_t i = 0, next = 0; i < 2; ++i) {
    if (!operands[i].is_null()) {
      LOCKSTEP_ASSIGN(auto constant, constant_operand(layer, operands[i], inputs[0].shape.size()));
      tensors.push_back(std::move(constant));
      continue;
    }
    if (next == inputs.size()) return layer.error("has fewer inputs than tensors among operands");
    tensors.push_back(inputs[next++]);
  }
  Shape shape = tensors[0].shape;
  bool fits = tensors[1].shape.size() == shape.size();
  for (size_t axis = 0; fits && axis < shape.size(); ++axis) {
    const int64_t other = tensors[1].shape[axis];
    fits = other == shape[axis] || other == 1 || shape[axis] == 1;
    shape[axis] = std::max(shape[axis], other);
  }
  if (!fits) {
    return layer.error(fmt::format("its operands have shapes {} and {}, which do not go together",
                                   to_string(tensors[0].shape), to_string(tensors[1].shape)));
  }
  ExpressionBuilder e;
  return layer.map(
      "forward", e.finish({combined(e, kOperation, e.operand(0), e.operand(1))}),
      {layer.stretch("first", tensors[0], shape), layer.stretch("second", tensors[1], shape)});
}

enum class Unary { negate, absolute, exp, log, square_root, square, tanh };

Term computed(ExpressionBuilder& e, Unary operation, Term x) {
  switch (operation) {
    case Unary::negate:
      return -x;
    case Unary::absolute:
      return e.absolute(x);
    case Unary::exp:
      return e.exp(x);
    case Unary::log:
      return e.log(x);
    case Unary::square_root:
      return e.square_root(x);
    case Unary::square:
      return x * x;
    case Unary::tanh:
      return e.tanh(x);
  }
  return x;
}

template <Unary kOperation>
Result<SymbolicTensor> build_unary(LayerContext& layer, const Tensors& inputs) {
  LOCKSTEP_RETURN_IF_ERROR(layer.check_inputs(inputs, 1));
  ExpressionBuilder e;
  return layer.map("forward", e.finish({computed(e, kOperation, e.operand(0))}), inputs);
}

// What Concatenate leaves where it joins masks. Their type, a boolean, is a float here as all are.
template <int kValue>
Result<SymbolicTensor> build_filled(LayerContext& layer, const Tensors& inputs) {
  LOCKSTEP_RETURN_IF_ERROR(layer.check_inputs(inputs, 1));
  const std::vector<float> values(static_cast<size_t>(inputs[0].features()), kValue);
  return layer.constant("forward", values, inputs[0].shape);
}

// Between floats nothing happens: all is float32 here, as it is in layers of mixed_bfloat16. Whole
// numbers and booleans are floats too.
Result<SymbolicTensor> build_cast(LayerContext& layer, const Tensors& inputs) {
  LOCKSTEP_RETURN_IF_ERROR(layer.check_inputs(inputs, 1));
  const std::string type = layer.text("dtype");
  if (type == "float32" || type == "float16" || type == "bfloat16") return inputs[0];
  ExpressionBuilder e;
  const Term x = e.operand(0);
  if (type == "bool") return layer.map("forward", e.finish({truth(e, x)}), inputs);
  if (type == "int32" || type == "int64") {
    return layer.map("forward", e.finish({e.sign(x) * e.floor(e.absolute(x))}), inputs);
  }
  return layer.error(fmt::format(
      "a cast to {} is not supported: cast to float32, int32 or bool, or do it in the data", type));
}

// --- shapes ---

// Which elements of an axis an entry of an index takes; `dropped` where it is a number.
struct Taken {
  std::vector<int64_t> elements;
  bool dropped = false;
};

Result<Taken> taken_of(const LayerContext& layer, const Json& entry, int64_t size) {
  const Error wrong = layer.error(
      fmt::format("the index {} does not fit an axis of {} entries", entry.dump(), size));
  if (entry.is_number_integer()) {
    const int64_t at = entry.get<int64_t>() + (entry.get<int64_t>() < 0 ? size : 0);
    if (at < 0 || at >= size) return wrong;
    return Taken{{at}, true};
  }
  if (!entry.is_object() || entry.value("class_name", "") != "__slice__") return wrong;
  const Json config = entry.value("config", Json::object());
  const auto bound = [&](const char* key, int64_t none) {
    const Json value = config.value(key, Json());
    return value.is_number_integer() ? value.get<int64_t>() : none;
  };
  // A longer step takes the same entries.
  const int64_t step = std::clamp(bound("step", 1), -size - 1, size + 1);
  if (step == 0) return wrong;
  // As Python's slice.indices().
  const int64_t low = step > 0 ? 0 : -1, high = step > 0 ? size : size - 1;
  const auto clamped = [&](const char* key, int64_t none) {
    const int64_t value = bound(key, none);
    const bool given = config.value(key, Json()).is_number_integer();
    return !given ? none : std::clamp(value < 0 ? value + size : value, low, high);
  };
  const int64_t start = clamped("start", step > 0 ? low : high);
  const int64_t stop = clamped("stop", step > 0 ? high : low);
  Taken taken;
  for (int64_t i = start; step > 0 ? i < stop : i > stop; i += step) taken.elements.push_back(i);
  if (taken.elements.empty()) return layer.error("the index leaves nothing");
  return taken;
}

bool is_ellipsis(const Json& entry) {
  return entry.is_object() && entry.value("class_name", "") == "__ellipsis__";
}

// The index with an entry for each axis of the row: what "..." stands for, and what is behind.
Result<Json> entries_of_row(const LayerContext& layer, const Json& index, size_t axes) {
  const Json all{{"class_name", "__slice__"}, {"config", Json::object()}};
  const Json given = index.is_array() ? index : Json::array({index});
  Json entries = Json::array();
  const auto dots = std::count_if(given.begin(), given.end(), is_ellipsis);
  const size_t named = given.size() - static_cast<size_t>(dots);
  const bool has_new =
      std::any_of(given.begin(), given.end(), [](const Json& entry) { return entry.is_null(); });
  if (dots > 1 || named > axes + 1 || has_new) {
    return layer.error("the index " + index.dump() + " is not supported");
  }
  for (const Json& entry : given) {
    if (!is_ellipsis(entry)) entries.push_back(entry);
    for (size_t i = named; is_ellipsis(entry) && i < axes + 1; ++i) entries.push_back(all);
  }
  while (entries.size() < axes + 1) entries.push_back(all);
  const Json& batch = entries[0];
  const Json bounds = batch.is_object() ? batch.value("config", Json::object()) : Json();
  const bool whole =
      batch.is_object() && batch.value("class_name", "") == "__slice__" &&
      std::all_of(bounds.begin(), bounds.end(), [](const Json& bound) { return bound.is_null(); });
  if (!whole) {
    return layer.error("the index " + index.dump() +
                       " takes rows out of the batch; each row is computed by itself");
  }
  entries.erase(0);
  return entries;
}

Result<SymbolicTensor> build_get_item(LayerContext& layer, const Tensors& inputs) {
  LOCKSTEP_RETURN_IF_ERROR(layer.check_inputs(inputs, 1));
  const Json operands = operands_of(layer, 1);
  if (operands.size() != 2) return layer.error("takes a tensor and an index");
  const Shape& shape = inputs[0].shape;
  LOCKSTEP_ASSIGN(const Json entries, entries_of_row(layer, operands[1], shape.size()));
  std::vector<int64_t> index = {0};
  Shape output;
  for (size_t axis = 0; axis < shape.size(); ++axis) {
    LOCKSTEP_ASSIGN(const Taken taken, taken_of(layer, entries[axis], shape[axis]));
    std::vector<int64_t> next;
    for (const int64_t before : index) {
      for (const int64_t i : taken.elements) next.push_back(before * shape[axis] + i);
    }
    index = std::move(next);
    if (!taken.dropped) output.push_back(static_cast<int64_t>(taken.elements.size()));
  }
  return layer.pick("forward", index, inputs, output);
}

// A new axis, or an axis that is there, of a tensor of `axes` axes and a batch.
Result<size_t> axis_key(const LayerContext& layer, size_t axes) {
  const Json& axis = layer.at("axis");
  if (!axis.is_number_integer()) return layer.error("axis must be a whole number");
  return layer.row_axis(axis.get<int64_t>(), Shape(axes, 1));
}

template <bool kStack>
Result<SymbolicTensor> build_join(LayerContext& layer, const Tensors& inputs) {
  if (inputs.empty()) return layer.error("takes at least 1 tensor");
  Tensors parts = inputs;
  LOCKSTEP_ASSIGN(const size_t axis, axis_key(layer, inputs[0].shape.size() + (kStack ? 1 : 0)));
  Shape shape;
  for (SymbolicTensor& part : parts) {
    if (kStack) part.shape.insert(part.shape.begin() + static_cast<std::ptrdiff_t>(axis), 1);
    Shape like = part.shape;
    if (like.size() == shape.size()) like[axis] = shape[axis];
    if (shape.empty()) shape = like = part.shape;
    if (like != shape) return layer.error("its tensors have different shapes");
  }
  return joined_along(layer, "forward", parts, axis);
}

template <LayerContext::Reduction kReduction>
Result<SymbolicTensor> build_reduce(LayerContext& layer, const Tensors& inputs) {
  LOCKSTEP_RETURN_IF_ERROR(layer.check_inputs(inputs, 1));
  const Json& given = layer.at("axis");
  if (const Json* initial = layer.find("initial"); initial != nullptr && !initial->is_null()) {
    return layer.error("initial is not supported: take the Maximum with it behind");
  }
  if (!given.is_number_integer() && !given.is_array()) {
    return layer.error("axis must name axes of the row: each row is computed by itself");
  }
  std::vector<size_t> axes;
  for (const Json& item : given.is_array() ? given : Json::array({given})) {
    LOCKSTEP_ASSIGN(const size_t axis, layer.row_axis(item.get<int64_t>(), inputs[0].shape));
    axes.push_back(axis);
  }
  return layer.reduce("forward", inputs[0], axes, kReduction, layer.flag("keepdims"));
}

Result<SymbolicTensor> build_any(LayerContext& layer, const Tensors& inputs) {
  LOCKSTEP_RETURN_IF_ERROR(layer.check_inputs(inputs, 1));
  ExpressionBuilder e;
  const SymbolicTensor truths = layer.map("truths", e.finish({truth(e, e.operand(0))}), inputs);
  return build_reduce<LayerContext::Reduction::maximum>(layer, {truths});
}

Result<SymbolicTensor> build_reshape_call(LayerContext& layer, const Tensors& inputs) {
  LOCKSTEP_RETURN_IF_ERROR(layer.check_inputs(inputs, 1));
  const Json& given = layer.at("newshape");
  Shape shape;
  for (size_t i = 1; given.is_array() && i < given.size(); ++i) {
    shape.push_back(given[i].is_number_integer() ? given[i].get<int64_t>() : -1);
  }
  const bool first_is_batch =
      given.is_array() && !given.empty() && (given[0].is_null() || given[0] == -1);
  if (!first_is_batch || !is_allowed_shape(shape) || element_count(shape) != inputs[0].features()) {
    return layer.error(fmt::format("newshape {} does not keep the rows of shape {}", given.dump(),
                                   to_string(inputs[0].shape)));
  }
  return SymbolicTensor{inputs[0].value, shape};
}

Result<SymbolicTensor> build_transpose(LayerContext& layer, const Tensors& inputs) {
  LOCKSTEP_RETURN_IF_ERROR(layer.check_inputs(inputs, 1));
  const Json& given = layer.at("axes");
  const Shape& shape = inputs[0].shape;
  if (!given.is_array() || given.size() != shape.size() + 1 || given[0] != 0) {
    return layer.error("axes must be all axes in another order, the batch first");
  }
  std::vector<int64_t> strides(shape.size(), 1);
  for (size_t axis = shape.size(); axis-- > 1;) strides[axis - 1] = strides[axis] * shape[axis];
  std::vector<int64_t> index = {0};
  std::vector<bool> seen(shape.size());
  Shape output;
  for (size_t i = 1; i < given.size(); ++i) {
    LOCKSTEP_ASSIGN(const size_t axis, layer.row_axis(given[i].get<int64_t>(), shape));
    if (seen[axis]) return layer.error("axes must name each axis once");
    seen[axis] = true;
    std::vector<int64_t> next;
    for (const int64_t before : index) {
      for (int64_t k = 0; k < shape[axis]; ++k) next.push_back(before + k * strides[axis]);
    }
    index = std::move(next);
    output.push_back(shape[axis]);
  }
  return layer.pick("forward", index, inputs, output);
}

Result<SymbolicTensor> build_expand_dims(LayerContext& layer, const Tensors& inputs) {
  LOCKSTEP_RETURN_IF_ERROR(layer.check_inputs(inputs, 1));
  LOCKSTEP_ASSIGN(const size_t axis, axis_key(layer, inputs[0].shape.size() + 1));
  Shape shape = inputs[0].shape;
  shape.insert(shape.begin() + static_cast<std::ptrdiff_t>(axis), 1);
  return SymbolicTensor{inputs[0].value, shape};
}

Result<SymbolicTensor> build_squeeze(LayerContext& layer, const Tensors& inputs) {
  LOCKSTEP_RETURN_IF_ERROR(layer.check_inputs(inputs, 1));
  LOCKSTEP_ASSIGN(const size_t axis, axis_key(layer, inputs[0].shape.size()));
  Shape shape = inputs[0].shape;
  if (shape[axis] != 1) return layer.error("only an axis of size 1 can be squeezed");
  shape.erase(shape.begin() + static_cast<std::ptrdiff_t>(axis));
  return SymbolicTensor{inputs[0].value, shape};
}

LayerType operation(const char* name, const char* summary,
                    Result<SymbolicTensor> (*build)(LayerContext&, const Tensors&),
                    std::vector<ConfigKey> keys = {}) {
  return {std::string("keras.ops.") + name, summary, std::move(keys), build, Masking::drop, kNumpy};
}

}  // namespace

std::vector<LayerType> operation_types() {
  using Reduction = LayerContext::Reduction;
  const std::vector<ConfigKey> reduced = {{"axis", KeyKind::any, nullptr},
                                          {"keepdims", KeyKind::flag, false}};
  std::vector<ConfigKey> largest = reduced;
  largest.push_back({"initial", KeyKind::any, nullptr});
  const ConfigKey type{"dtype", KeyKind::any, nullptr};
  const ConfigKey last{"axis", KeyKind::any, -1}, first{"axis", KeyKind::any, 0};
  return {
      operation("Absolute", "the absolute value", build_unary<Unary::absolute>),
      operation("Add", "the sum of two operands", build_binary<Binary::add>),
      operation("Any", "1 where any entry over axes is not 0, else 0", build_any, reduced),
      {"keras.ops.Cast",
       "its tensor: between float32, float16 and bfloat16 as it is, as int32 or int64 without its "
       "fraction, as bool 1 where it is not 0",
       {{"dtype", KeyKind::text}},
       build_cast,
       Masking::drop,
       kCore},
      operation("Concatenate", "tensors one behind the other along an axis", build_join<false>,
                {last}),
      operation("Divide", "the first operand over the second", build_binary<Binary::divide>),
      operation("Exp", "the exponential function", build_unary<Unary::exp>),
      operation("ExpandDims", "its tensor with a new axis of size 1", build_expand_dims, {last}),
      operation("GetItem", "the entries that an index of numbers and slices takes", build_get_item),
      operation("Log", "the natural logarithm", build_unary<Unary::log>),
      operation("LogicalOr", "1 where one of two operands is not 0, else 0",
                build_binary<Binary::logical_or>),
      operation("Max", "the largest entry over axes", build_reduce<Reduction::maximum>, largest),
      operation("Maximum", "the larger of two operands", build_binary<Binary::maximum>),
      operation("Mean", "the mean over axes", build_reduce<Reduction::mean>, reduced),
      operation("Minimum", "the smaller of two operands", build_binary<Binary::minimum>),
      operation("Multiply", "the product of two operands", build_binary<Binary::multiply>),
      operation("Negative", "its tensor with the other sign", build_unary<Unary::negate>),
      operation("NotEqual", "1 where two operands differ, else 0", build_binary<Binary::not_equal>),
      operation("OnesLike", "1 for each entry of its tensor", build_filled<1>, {type}),
      operation("Power", "the first operand to the power of the second",
                build_binary<Binary::power>),
      operation("Reshape", "its tensor with another shape", build_reshape_call,
                {{"newshape", KeyKind::any}}),
      operation("Sqrt", "the square root", build_unary<Unary::square_root>),
      operation("Square", "the square", build_unary<Unary::square>),
      operation("Squeeze", "its tensor without an axis of size 1", build_squeeze, {last}),
      operation("Stack", "tensors side by side along a new axis", build_join<true>, {first}),
      operation("Subtract", "the first operand less the second", build_binary<Binary::subtract>),
      operation("Sum", "the sum over axes", build_reduce<Reduction::sum>, reduced),
      operation("Tanh", "the hyperbolic tangent", build_unary<Unary::tanh>),
      operation("Transpose", "its tensor with the axes in another order", build_transpose,
                {{"axes", KeyKind::any, nullptr}}),
      operation("TrueDivide", "the first operand over the second", build_binary<Binary::divide>),
      operation("ZerosLike", "0 for each entry of its tensor", build_filled<0>, {type}),
  };
}

}  // namespace lockstep::layers
