// EinsumDense: a dense layer whose axes an equation names. The kernel's letters must begin with
// those that are summed; it is then a dense layer over axes in another order.
#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>

#include "host/nn/layer_table.h"

namespace lockstep::layers {
namespace {

// The letters of a row's axes: without the batch's, and '.' and up for what "..." stands for.
struct Equation {
  std::string input, kernel, output;
  std::map<char, int64_t> sizes;
  Shape shape_of(const std::string& letters) const {
    Shape shape;
    for (const char letter : letters) shape.push_back(sizes.at(letter));
    return shape;
  }
};

// "..." written as as many letters of its own as there are axes for it; false where it has none.
bool spell_out(std::string* letters, size_t axes) {
  const size_t dots = letters->find("...");
  if (dots == std::string::npos) return letters->size() == axes;
  if (letters->size() > axes + 3) return false;
  std::string own;
  for (size_t i = 0; i < axes + 3 - letters->size(); ++i) own += static_cast<char>('0' + i);
  letters->replace(dots, 3, own);
  return true;
}

bool has_repeats(const std::string& letters) {
  return std::set<char>(letters.begin(), letters.end()).size() != letters.size();
}

Result<Equation> read_equation(const LayerContext& layer, const Shape& shape) {
  const std::string text = layer.text("equation");
  const size_t comma = text.find(','), arrow = text.find("->");
  const Error wrong = layer.error(fmt::format(
      "the equation '{}' does not fit an input of shape {}; it must be like 'ab,bc->ac' or "
      "'...b,bc->...c', the batch first",
      text, to_string(shape)));
  if (comma == std::string::npos || arrow == std::string::npos || arrow < comma) return wrong;
  Equation equation{
      text.substr(0, comma), text.substr(comma + 1, arrow - comma - 1), text.substr(arrow + 2), {}};
  const nlohmann::json& given = layer.at("output_shape");
  const nlohmann::json sizes = given.is_array() ? given : nlohmann::json::array({given});
  const size_t elided_before = equation.input.size();
  if (!spell_out(&equation.input, shape.size() + 1)) return wrong;
  const size_t elided = equation.input.size() + 3 - elided_before;
  const bool dotted = text.find("...") != std::string::npos;
  if (!spell_out(&equation.output, equation.output.size() - (dotted ? 3 - elided : 0))) {
    return wrong;
  }
  for (const std::string* letters : {&equation.input, &equation.kernel, &equation.output}) {
    if (letters->empty() || has_repeats(*letters)) return wrong;
  }
  if (equation.input[0] != equation.output[0]) return wrong;
  equation.input.erase(0, 1);
  equation.output.erase(0, 1);
  for (size_t i = 0; i < shape.size(); ++i) equation.sizes[equation.input[i]] = shape[i];
  // output_shape names the axes that "..." does not stand for.
  size_t next = 0;
  for (const char letter : equation.output) {
    if ('0' <= letter && letter <= '9') continue;
    if (next == sizes.size()) return wrong;
    const nlohmann::json& size = sizes[next++];
    const bool known = equation.sizes.contains(letter);
    if (size.is_null() && known) continue;
    if (!size.is_number_integer() || size.get<int64_t>() < 1) return wrong;
    if (known && equation.sizes[letter] != size.get<int64_t>()) return wrong;
    equation.sizes[letter] = size;
  }
  const bool all_known = std::all_of(equation.kernel.begin(), equation.kernel.end(),
                                     [&](char c) { return equation.sizes.contains(c); });
  if (next != sizes.size() || !all_known) return wrong;
  return equation;
}

// The axes of a tensor, named by letters, in another order.
SymbolicTensor reordered(LayerContext& layer, const std::string& what, const SymbolicTensor& x,
                         const Equation& equation, const std::string& from, const std::string& to) {
  const Shape shape = equation.shape_of(to);
  if (from == to) return {x.value, shape};
  std::map<char, int64_t> strides;
  int64_t stride = 1;
  for (size_t axis = from.size(); axis-- > 0;) {
    strides[from[axis]] = stride;
    stride *= equation.sizes.at(from[axis]);
  }
  std::vector<int64_t> index;
  for (int64_t o = 0; o < stride; ++o) {
    int64_t rest = o, at = 0;
    for (size_t axis = to.size(); axis-- > 0;) {
      at += rest % shape[axis] * strides[to[axis]];
      rest /= shape[axis];
    }
    index.push_back(at);
  }
  return layer.pick(what, index, {x}, shape);
}

Result<SymbolicTensor> add_bias(LayerContext& layer, const Equation& equation,
                                const SymbolicTensor& y) {
  const std::string axes = layer.text("bias_axes");
  size_t first = equation.output.size();
  for (const char letter : axes) {
    const size_t at = equation.output.find(letter);
    if (at == std::string::npos) {
      return layer.error(fmt::format("bias_axes '{}' are not all in the output", axes));
    }
    first = std::min(first, at);
  }
  // Axes of the bias, 1 where it is repeated; those that are not must lie side by side.
  Shape shape;
  Broadcast broadcast{1, 1};
  bool behind = false, fits = true;
  for (size_t axis = first; axis < equation.output.size(); ++axis) {
    const int64_t size = equation.sizes.at(equation.output[axis]);
    const bool own = axes.find(equation.output[axis]) != std::string::npos;
    shape.push_back(own ? size : 1);
    fits = fits && !(own && behind);
    behind = behind || !own;
    (own ? broadcast.modulus : broadcast.divisor) *= size;
  }
  if (!fits) return layer.error(fmt::format("bias_axes '{}' must lie side by side", axes));
  const int64_t bias = layer.parameter("bias", shape);
  ExpressionBuilder e;
  return layer.map("bias", e.finish({e.operand(0) + e.operand(1)}), {y},
                   {whole_operand(0, y), parameter_operand(bias, broadcast)}, y.shape);
}

Result<SymbolicTensor> build_einsum_dense(LayerContext& layer, const Tensors& inputs) {
  LOCKSTEP_RETURN_IF_ERROR(layer.check_inputs(inputs, 1));
  LOCKSTEP_ASSIGN(const Equation equation, read_equation(layer, inputs[0].shape));
  std::string kept, summed, made;  // of the input, of both, of the kernel
  for (const char c : equation.input) {
    if (equation.kernel.find(c) == std::string::npos) kept += c;
  }
  bool in_order = true;
  for (const char c : equation.kernel) {
    const bool is_summed = equation.input.find(c) != std::string::npos;
    in_order = in_order && !(is_summed && !made.empty()) &&
               is_summed == (equation.output.find(c) == std::string::npos);
    (is_summed ? summed : made) += c;
  }
  std::string outputs = kept + made, wanted = equation.output;
  std::sort(outputs.begin(), outputs.end());
  std::sort(wanted.begin(), wanted.end());
  if (!in_order || outputs != wanted) {
    return layer.error(fmt::format(
        "the equation '{}' is not supported: the kernel's letters must begin with those that are "
        "summed, and the others must be the output's alone",
        layer.text("equation")));
  }
  const Shape kernel_shape = equation.shape_of(equation.kernel);
  const Shape output_shape = equation.shape_of(equation.output);
  LOCKSTEP_RETURN_IF_ERROR(layer.check_size("kernel", kernel_shape));
  LOCKSTEP_RETURN_IF_ERROR(layer.check_size("output", output_shape));
  const int64_t in = element_count(equation.shape_of(summed));
  const int64_t out = element_count(equation.shape_of(made));
  ParameterSpec spec{.name = "kernel", .shape = kernel_shape, .fan_in = in, .fan_out = out};
  spec.initializer = layer.at("kernel_initializer");
  spec.regularizer = layer.at("kernel_regularizer");
  spec.constraint = layer.at("kernel_constraint");
  Conv2dOp op;
  op.in_height = op.out_height = op.kernel_height = op.kernel_width = 1;
  op.in_width = op.out_width = static_cast<int>(inputs[0].features() / in);
  op.in_channels = static_cast<int>(in);
  op.out_channels = static_cast<int>(out);
  op.kernel_offset = layer.parameter(std::move(spec));
  const SymbolicTensor x =
      reordered(layer, "input", inputs[0], equation, equation.input, kept + summed);
  const SymbolicTensor y = layer.op("forward", op, {x}, equation.shape_of(kept + made));
  SymbolicTensor result = reordered(layer, "output", y, equation, kept + made, equation.output);
  if (!layer.is_null("bias_axes")) {
    LOCKSTEP_ASSIGN(result, add_bias(layer, equation, result));
  }
  return layer.activate(result, layer.at("activation"));
}

}  // namespace

// Kernel: the sizes of the equation's second part.
LayerType einsum_dense() {
  return {"EinsumDense",
          "activation(inputs · kernel + bias), over the axes that an equation names",
          {{"equation", KeyKind::text},
           {"output_shape", KeyKind::any},
           {"activation", KeyKind::activation, nullptr},
           {"bias_axes", KeyKind::any, nullptr},
           {"kernel_initializer", KeyKind::initializer, "GlorotUniform"},
           {"bias_initializer", KeyKind::initializer, "Zeros"},
           {"kernel_regularizer", KeyKind::regularizer, nullptr},
           {"bias_regularizer", KeyKind::regularizer, nullptr},
           {"activity_regularizer", KeyKind::regularizer, nullptr},
           {"kernel_constraint", KeyKind::constraint, nullptr},
           {"bias_constraint", KeyKind::constraint, nullptr},
           {"lora_rank", KeyKind::any, nullptr},
           {"gptq_unpacked_column_size", KeyKind::any, nullptr},
           {"quantization_config", KeyKind::any, nullptr}},
          build_einsum_dense};
}

}  // namespace lockstep::layers
