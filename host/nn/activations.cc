#include "host/nn/activations.h"

#include <cmath>
#include <numbers>

#include "host/core/suggest.h"
#include "host/nn/class_config.h"

namespace lockstep {
namespace {

using Builder = ExpressionBuilder;

constexpr double kSeluScale = 1.0507009873554805;
constexpr double kSeluAlpha = 1.6732632423543772;

Term relu(Builder& e, Term x) { return e.select(e.greater(x, e.constant(0)), x, e.constant(0)); }

// x clipped to [low, high]: the gradient passes strictly inside, as for relu.
Term clip_strictly(Builder& e, Term x, double low, double high) {
  const Term above = e.select(e.greater(x, e.constant(low)), x, e.constant(low));
  return e.select(e.greater(e.constant(high), above), above, e.constant(high));
}

// log(1 + e^x) without overflow.
Term softplus(Builder& e, Term x) { return relu(e, x) + e.log1p(e.exp(-e.absolute(x))); }

Term elu(Builder& e, Term x, double alpha) {
  return e.select(e.greater(x, e.constant(0)), x, e.expm1(x) * alpha);
}

Term gelu_approximate(Builder& e, Term x) {
  const Term inner = (x + x * x * x * 0.044715) * std::sqrt(2 / std::numbers::pi);
  return 0.5 * x * (1.0 + e.tanh(inner));
}

// Where |x| > limit: x moved towards 0 by `shift`; else 0.
Term shrink(Builder& e, Term x, double limit, double shift) {
  return e.select(e.greater(e.absolute(x), e.constant(limit)), x - e.sign(x) * shift,
                  e.constant(0));
}

Term sparse_plus(Builder& e, Term x) {
  const Term middle = (x + 1.0) * (x + 1.0) * 0.25;
  return e.select(e.greater_equal(e.constant(-1), x), e.constant(0),
                  e.select(e.greater(e.constant(1), x), middle, x));
}

// One output of one operand.
struct Elementwise {
  const char* name;
  Term (*term)(Builder& e, Term x);
};

constexpr Elementwise kElementwise[] = {
    {"celu", [](Builder& e, Term x) { return elu(e, x, 1); }},
    {"elu", [](Builder& e, Term x) { return elu(e, x, 1); }},
    {"exponential", [](Builder& e, Term x) { return e.exp(x); }},
    {"gelu",
     [](Builder& e, Term x) { return 0.5 * x * (1.0 + e.erf(x * std::numbers::sqrt2 * 0.5)); }},
    {"hard_shrink", [](Builder& e, Term x) { return shrink(e, x, 0.5, 0); }},
    {"hard_sigmoid", [](Builder& e, Term x) { return clip_strictly(e, x + 3.0, 0, 6) / 6.0; }},
    {"hard_silu", [](Builder& e, Term x) { return x * (clip_strictly(e, x + 3.0, 0, 6) / 6.0); }},
    {"hard_swish", [](Builder& e, Term x) { return x * (clip_strictly(e, x + 3.0, 0, 6) / 6.0); }},
    {"hard_tanh", [](Builder& e, Term x) { return clip_strictly(e, x, -1, 1); }},
    {"leaky_relu",
     [](Builder& e, Term x) { return e.select(e.greater(x, e.constant(0)), x, x * 0.2); }},
    {"log_sigmoid", [](Builder& e, Term x) { return -softplus(e, -x); }},
    {"mish", [](Builder& e, Term x) { return x * e.tanh(softplus(e, x)); }},
    {"relu6", [](Builder& e, Term x) { return clip_strictly(e, x, 0, 6); }},
    {"selu", [](Builder& e, Term x) { return elu(e, x, kSeluAlpha) * kSeluScale; }},
    {"sigmoid", [](Builder& e, Term x) { return e.sigmoid(x); }},
    {"silu", [](Builder& e, Term x) { return x * e.sigmoid(x); }},
    {"soft_shrink", [](Builder& e, Term x) { return shrink(e, x, 0.5, 0.5); }},
    {"softplus", [](Builder& e, Term x) { return softplus(e, x); }},
    {"softsign", [](Builder& e, Term x) { return x / (e.absolute(x) + 1.0); }},
    {"sparse_plus", [](Builder& e, Term x) { return sparse_plus(e, x); }},
    {"sparse_sigmoid", [](Builder& e, Term x) { return clip_strictly(e, (x + 1.0) * 0.5, 0, 1); }},
    {"squareplus", [](Builder& e, Term x) { return (x + e.square_root(x * x + 4.0)) * 0.5; }},
    {"swish", [](Builder& e, Term x) { return x * e.sigmoid(x); }},
    {"tanh", [](Builder& e, Term x) { return e.tanh(x); }},
    {"tanh_shrink", [](Builder& e, Term x) { return x - e.tanh(x); }},
};

// Over the last axis: x - max, whose gradient is that of x (the maximum's cancels).
struct Shifted {
  SymbolicTensor shifted;  // x - max
  SymbolicTensor total;    // sum of e^(x - max), size 1 on the last axis
};

MapOperand per_last_axis(int input, const SymbolicTensor& tensor, int64_t classes) {
  return {input, 0, {classes, tensor.features() / classes}};
}

Shifted shift_by_maximum(LayerContext& layer, const SymbolicTensor& x) {
  const int64_t classes = x.shape.back();
  const size_t last = x.shape.size() - 1;
  const SymbolicTensor top =
      layer.reduce("largest", x, {last}, LayerContext::Reduction::maximum, true);
  Builder e;
  const SymbolicTensor shifted =
      layer.map("shifted", e.finish({e.operand(0) - e.operand(1)}), {x, top},
                {whole_operand(0, x), per_last_axis(1, x, classes)}, x.shape);
  Builder f;
  const SymbolicTensor powers = layer.map("powers", f.finish({f.exp(f.operand(0))}), {shifted});
  return {shifted, layer.reduce("total", powers, {last}, LayerContext::Reduction::sum, true)};
}

SymbolicTensor softmax(LayerContext& layer, const SymbolicTensor& x) {
  if (x.shape.size() == 1) {  // an op of its own, which a loss can take in
    return layer.op("softmax", SoftmaxOp{.features = x.features()}, {x}, x.shape);
  }
  const Shifted parts = shift_by_maximum(layer, x);
  Builder e;
  return layer.map("softmax", e.finish({e.exp(e.operand(0)) / e.operand(1)}),
                   {parts.shifted, parts.total},
                   {whole_operand(0, x), per_last_axis(1, x, x.shape.back())}, x.shape);
}

SymbolicTensor log_softmax(LayerContext& layer, const SymbolicTensor& x) {
  const Shifted parts = shift_by_maximum(layer, x);
  Builder e;
  return layer.map("log_softmax", e.finish({e.operand(0) - e.log(e.operand(1))}),
                   {parts.shifted, parts.total},
                   {whole_operand(0, x), per_last_axis(1, x, x.shape.back())}, x.shape);
}

// Keras' glu: the first half of the last axis times the sigmoid of the second.
Result<SymbolicTensor> glu(LayerContext& layer, const SymbolicTensor& x) {
  const int64_t channels = x.shape.back();
  if (channels % 2 != 0) {
    return layer.error("activation 'glu' halves the last axis: it must be even, not " +
                       std::to_string(channels));
  }
  Shape half = x.shape;
  half.back() = channels / 2;
  std::vector<int64_t> first;
  std::vector<int64_t> second;
  for (int64_t i = 0; i < x.features(); ++i) {
    (i % channels < channels / 2 ? first : second).push_back(i);
  }
  const SymbolicTensor a = layer.pick("first_half", first, {x}, half);
  const SymbolicTensor b = layer.pick("second_half", second, {x}, half);
  Builder e;
  return layer.map("glu", e.finish({e.operand(0) * e.sigmoid(e.operand(1))}), {a, b});
}

}  // namespace

std::vector<std::string> activation_names() {
  std::vector<std::string> names = {"linear", "relu", "softmax", "log_softmax", "glu"};
  for (const Elementwise& activation : kElementwise) names.push_back(activation.name);
  return names;
}

Result<SymbolicTensor> apply_activation(LayerContext& layer, const SymbolicTensor& input,
                                        const nlohmann::json& activation) {
  if (activation.is_null()) return input;
  const bool is_object = activation.is_object();
  std::string name = class_name_of(activation);
  if (name == "function") name = text_of(activation, "config");  // goes by its own name
  if (name == "linear") return input;
  if (name == "relu") {
    return layer.op("relu", ReluOp{.features = input.features()}, {input}, input.shape);
  }
  if (name == "softmax") return softmax(layer, input);
  if (name == "log_softmax") return log_softmax(layer, input);
  if (name == "glu") return glu(layer, input);
  Builder e;
  if (name == "gelu" && is_object && activation.value("/config/approximate"_json_pointer, false)) {
    return layer.map(name, e.finish({gelu_approximate(e, e.operand(0))}), {input});
  }
  for (const Elementwise& known : kElementwise) {
    if (name == known.name) {
      return layer.map(name, e.finish({known.term(e, e.operand(0))}), {input});
    }
  }
  return layer.error(unknown_name_message("activation", name, activation_names()));
}

}  // namespace lockstep
