#include "host/nn/loss_functions.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numbers>

#include "host/core/check.h"

namespace lockstep {
namespace {

using Builder = ExpressionBuilder;
using Reduction = LayerContext::Reduction;

// log(1 + e^x) without overflow.
Term softplus(Builder& e, Term x) {
  return e.maximum(x, e.constant(0)) + e.log1p(e.exp(-e.absolute(x)));
}

// An expression of y_true and y_pred, elementwise; its mean over the last axis.
template <class Formula>
SymbolicTensor mean_of(LayerContext& loss, const LossInputs& in, const Formula& formula) {
  Builder e;
  const Term y = formula(e, e.operand(0), e.operand(1));
  const SymbolicTensor entries =
      map_positions(loss, "entries", e.finish({y}), {in.y_true, in.y_pred});
  return reduce_last(loss, "mean", entries, Reduction::mean);
}

// The same, summed.
template <class Formula>
SymbolicTensor sum_of(LayerContext& loss, const LossInputs& in, const Formula& formula) {
  Builder e;
  const Term y = formula(e, e.operand(0), e.operand(1));
  const SymbolicTensor entries =
      map_positions(loss, "entries", e.finish({y}), {in.y_true, in.y_pred});
  return reduce_last(loss, "sum", entries, Reduction::sum);
}

template <class Formula>
SymbolicTensor map_one(LayerContext& loss, const std::string& what, const SymbolicTensor& x,
                       const Formula& formula) {
  Builder e;
  return map_positions(loss, what, e.finish({formula(e, e.operand(0))}), {x});
}

// --- regression ---

SymbolicTensor mean_squared_error(LayerContext& loss, const LossInputs& in) {
  return mean_of(loss, in, [](Builder&, Term t, Term p) { return square(t - p); });
}

SymbolicTensor mean_absolute_error(LayerContext& loss, const LossInputs& in) {
  return mean_of(loss, in, [](Builder& e, Term t, Term p) { return e.absolute(t - p); });
}

SymbolicTensor mean_absolute_percentage_error(LayerContext& loss, const LossInputs& in) {
  const SymbolicTensor mean = mean_of(loss, in, [](Builder& e, Term t, Term p) {
    return e.absolute((t - p) / e.maximum(e.absolute(t), e.constant(kEpsilon)));
  });
  return map_one(loss, "percent", mean, [](Builder&, Term x) { return 100.0 * x; });
}

SymbolicTensor mean_squared_logarithmic_error(LayerContext& loss, const LossInputs& in) {
  return mean_of(loss, in, [](Builder& e, Term t, Term p) {
    const auto logarithm = [&](Term x) { return e.log(e.maximum(x, e.constant(kEpsilon)) + 1.0); };
    return square(logarithm(p) - logarithm(t));
  });
}

SymbolicTensor huber(LayerContext& loss, const LossInputs& in) {
  const double delta = loss.number("delta");
  return mean_of(loss, in, [=](Builder& e, Term t, Term p) {
    const Term size = e.absolute(p - t);
    return e.select(e.greater_equal(e.constant(delta), size), 0.5 * square(p - t),
                    delta * size - 0.5 * delta * delta);
  });
}

SymbolicTensor log_cosh(LayerContext& loss, const LossInputs& in) {
  return mean_of(loss, in, [](Builder& e, Term t, Term p) {
    const Term x = p - t;
    return x + softplus(e, x * -2.0) - std::numbers::ln2;
  });
}

SymbolicTensor poisson(LayerContext& loss, const LossInputs& in) {
  return mean_of(loss, in, [](Builder& e, Term t, Term p) { return p - t * e.log(p + kEpsilon); });
}

// x / |x| along the last axis, as keras.ops.normalize has it.
SymbolicTensor normalized(LayerContext& loss, const SymbolicTensor& x) {
  const SymbolicTensor squares =
      map_one(loss, "squares", x, [](Builder&, Term value) { return square(value); });
  const SymbolicTensor total = reduce_last(loss, "square_sum", squares, Reduction::sum);
  const SymbolicTensor inverse = map_one(loss, "inverse_norm", total, [](Builder& e, Term sum) {
    return e.minimum(1.0 / e.square_root(sum), e.constant(1 / kEpsilon));
  });
  Builder e;
  return map_positions(loss, "normalized", e.finish({e.operand(0) * e.operand(1)}), {x, inverse});
}

SymbolicTensor cosine_similarity(LayerContext& loss, const LossInputs& in) {
  const LossInputs units{normalized(loss, in.y_true), normalized(loss, in.y_pred)};
  const SymbolicTensor sum = sum_of(loss, units, [](Builder&, Term t, Term p) { return t * p; });
  return map_one(loss, "negated", sum, [](Builder&, Term x) { return -x; });
}

// --- margins ---

// Keras turns classes 0 and 1 into -1 and 1 where a whole batch has no others; here each 0 becomes
// -1, which is the same for targets of either kind and needs no other row.
Term signed_class(Builder& e, Term t) {
  return e.select(e.equal(t, e.constant(0)), e.constant(-1), t);
}

SymbolicTensor hinge(LayerContext& loss, const LossInputs& in) {
  return mean_of(loss, in, [](Builder& e, Term t, Term p) {
    return e.maximum(1.0 - signed_class(e, t) * p, e.constant(0));
  });
}

SymbolicTensor squared_hinge(LayerContext& loss, const LossInputs& in) {
  return mean_of(loss, in, [](Builder& e, Term t, Term p) {
    return square(e.maximum(1.0 - signed_class(e, t) * p, e.constant(0)));
  });
}

SymbolicTensor categorical_hinge(LayerContext& loss, const LossInputs& in) {
  const SymbolicTensor positive = sum_of(loss, in, [](Builder&, Term t, Term p) { return t * p; });
  Builder e;
  const SymbolicTensor others = map_positions(
      loss, "others", e.finish({(1.0 - e.operand(0)) * e.operand(1)}), {in.y_true, in.y_pred});
  const SymbolicTensor negative = reduce_last(loss, "largest", others, Reduction::maximum);
  Builder f;
  const Term margin = f.operand(0) - f.operand(1) + 1.0;
  return map_positions(loss, "margin", f.finish({f.maximum(margin, f.constant(0))}),
                       {negative, positive});
}

// --- probabilities ---

SymbolicTensor kl_divergence(LayerContext& loss, const LossInputs& in) {
  return sum_of(loss, in, [](Builder& e, Term t, Term p) {
    const Term target = e.clip(t, kEpsilon, 1);
    return target * e.log(target / e.clip(p, kEpsilon, 1));
  });
}

Term binary_crossentropy_of(Builder& e, Term t, Term p) {
  const Term output = e.clip(p, kEpsilon, 1 - kEpsilon);
  return -(t * e.log(output) + (1.0 - t) * e.log(1.0 - output));
}

Term smoothed_binary(Term t, double smoothing) {
  return smoothing == 0 ? t : t * (1 - smoothing) + 0.5 * smoothing;
}

SymbolicTensor binary_crossentropy(LayerContext& loss, const LossInputs& in) {
  const double smoothing = loss.number("label_smoothing");
  const bool logits = loss.flag("from_logits");
  return mean_of(loss, in, [=](Builder& e, Term t, Term p) {
    const Term target = smoothed_binary(t, smoothing);
    if (!logits) return binary_crossentropy_of(e, target, p);
    return target * softplus(e, -p) + (1.0 - target) * softplus(e, p);
  });
}

SymbolicTensor binary_focal_crossentropy(LayerContext& loss, const LossInputs& in) {
  const double smoothing = loss.number("label_smoothing");
  const double alpha = loss.number("alpha");
  const double gamma = loss.number("gamma");
  const bool logits = loss.flag("from_logits");
  const bool balanced = loss.flag("apply_class_balancing");
  return mean_of(loss, in, [=](Builder& e, Term t, Term p) {
    const Term target = smoothed_binary(t, smoothing);
    const Term output = logits ? e.sigmoid(p) : p;
    const Term of_truth = target * output + (1.0 - target) * (1.0 - output);
    const Term focal =
        e.power(1.0 - of_truth, e.constant(gamma)) * binary_crossentropy_of(e, target, output);
    if (!balanced) return focal;
    return (target * alpha + (1.0 - target) * (1 - alpha)) * focal;
  });
}

// y_true, smoothed as Keras' categorical losses do.
SymbolicTensor smoothed(LayerContext& loss, const SymbolicTensor& y_true) {
  const double smoothing = loss.number("label_smoothing");
  if (smoothing == 0) return y_true;
  const auto classes = static_cast<double>(y_true.shape.back());
  return map_one(loss, "smoothed", y_true,
                 [&](Builder&, Term t) { return t * (1 - smoothing) + smoothing / classes; });
}

// An activation of y_pred over its last axis.
SymbolicTensor activated(LayerContext& loss, const SymbolicTensor& x, const char* activation) {
  auto result = loss.activate(x, activation);
  LOCKSTEP_CHECK(result.ok());  // these know every shape
  return *result;
}

// Probabilities that add up to 1, clipped.
SymbolicTensor clipped(LayerContext& loss, const SymbolicTensor& y_pred) {
  const SymbolicTensor total = reduce_last(loss, "total", y_pred, Reduction::sum);
  Builder e;
  return map_positions(loss, "probabilities",
                       e.finish({e.clip(e.operand(0) / e.operand(1), kEpsilon, 1 - kEpsilon)}),
                       {y_pred, total});
}

SymbolicTensor log_probabilities(LayerContext& loss, const SymbolicTensor& y_pred) {
  if (loss.flag("from_logits")) return activated(loss, y_pred, "log_softmax");
  return map_one(loss, "logarithms", clipped(loss, y_pred),
                 [](Builder& e, Term p) { return e.log(p); });
}

SymbolicTensor crossentropy_of(LayerContext& loss, const SymbolicTensor& target,
                               const SymbolicTensor& y_pred) {
  const SymbolicTensor sum = sum_of(loss, {target, log_probabilities(loss, y_pred)},
                                    [](Builder&, Term t, Term l) { return t * l; });
  return map_one(loss, "negated", sum, [](Builder&, Term x) { return -x; });
}

SymbolicTensor categorical_crossentropy(LayerContext& loss, const LossInputs& in) {
  return crossentropy_of(loss, smoothed(loss, in.y_true), in.y_pred);
}

SymbolicTensor one_hot(LayerContext& loss, const LossInputs& in) {
  Builder e;
  return map_positions(loss, "one_hot", e.finish({e.equal(e.operand(0), e.operand(1))}),
                       {in.y_true, class_numbers(loss, in.y_pred)});
}

SymbolicTensor sparse_categorical_crossentropy(LayerContext& loss, const LossInputs& in) {
  return crossentropy_of(loss, one_hot(loss, in), in.y_pred);
}

SymbolicTensor categorical_focal_crossentropy(LayerContext& loss, const LossInputs& in) {
  const double alpha = loss.number("alpha");
  const double gamma = loss.number("gamma");
  const SymbolicTensor target = smoothed(loss, in.y_true);
  const SymbolicTensor y_pred =
      loss.flag("from_logits") ? activated(loss, in.y_pred, "softmax") : in.y_pred;
  return sum_of(loss, {target, clipped(loss, y_pred)}, [=](Builder& e, Term t, Term p) {
    return e.power(1.0 - p, e.constant(gamma)) * alpha * (-t * e.log(p));
  });
}

// --- the table ---

ConfigKey flag_key(const char* name) { return {name, KeyKind::flag, false}; }
ConfigKey number_key(const char* name, double value) { return {name, KeyKind::number, value}; }

std::vector<LossType> make_loss_types() {
  const ConfigKey logits = flag_key("from_logits");
  const ConfigKey smoothing = number_key("label_smoothing", 0.0);
  const ConfigKey axis{"axis", KeyKind::integer, -1};
  const ConfigKey alpha = number_key("alpha", 0.25);
  const ConfigKey gamma = number_key("gamma", 2.0);
  return {
      {"MeanSquaredError", {"mean_squared_error", "mse", "MSE"}, {}, false, mean_squared_error},
      {"MeanAbsoluteError", {"mean_absolute_error", "mae", "MAE"}, {}, false, mean_absolute_error},
      {"MeanAbsolutePercentageError",
       {"mean_absolute_percentage_error", "mape", "MAPE"},
       {},
       false,
       mean_absolute_percentage_error},
      {"MeanSquaredLogarithmicError",
       {"mean_squared_logarithmic_error", "msle", "MSLE"},
       {},
       false,
       mean_squared_logarithmic_error},
      {"BinaryCrossentropy",
       {"binary_crossentropy", "bce", "BCE"},
       {logits, smoothing, axis},
       false,
       binary_crossentropy},
      {"BinaryFocalCrossentropy",
       {"binary_focal_crossentropy"},
       {flag_key("apply_class_balancing"), alpha, gamma, logits, smoothing, axis},
       false,
       binary_focal_crossentropy},
      {"CategoricalCrossentropy",
       {"categorical_crossentropy"},
       {logits, smoothing, axis},
       false,
       categorical_crossentropy},
      {"CategoricalFocalCrossentropy",
       {"categorical_focal_crossentropy"},
       {alpha, gamma, logits, smoothing, axis},
       false,
       categorical_focal_crossentropy},
      {"SparseCategoricalCrossentropy",
       {"sparse_categorical_crossentropy"},
       {logits, {"ignore_class", KeyKind::any, nullptr}, axis},
       true,
       sparse_categorical_crossentropy},
      {"Huber", {"huber"}, {number_key("delta", 1.0)}, false, huber},
      {"LogCosh", {"log_cosh", "logcosh"}, {}, false, log_cosh},
      {"Hinge", {"hinge"}, {}, false, hinge},
      {"SquaredHinge", {"squared_hinge"}, {}, false, squared_hinge},
      {"CategoricalHinge", {"categorical_hinge"}, {}, false, categorical_hinge},
      {"KLDivergence",
       {"kl_divergence", "kld", "KLD", "kullback_leibler_divergence"},
       {},
       false,
       kl_divergence},
      {"Poisson", {"poisson"}, {}, false, poisson},
      {"CosineSimilarity", {"cosine_similarity"}, {axis}, false, cosine_similarity},
  };
}

}  // namespace

SymbolicTensor map_positions(LayerContext& loss, const std::string& what,
                             const Expression& expression, const Tensors& inputs) {
  const SymbolicTensor* largest = &inputs[0];
  for (const SymbolicTensor& input : inputs) {
    if (input.features() > largest->features()) largest = &input;
  }
  std::vector<MapOperand> operands;
  for (size_t i = 0; i < inputs.size(); ++i) {
    const int64_t features = inputs[i].features();
    operands.push_back({static_cast<int>(i), 0, {largest->features() / features, features}});
  }
  return loss.map(what, expression, inputs, operands, largest->shape);
}

SymbolicTensor reduce_last(LayerContext& loss, const std::string& what, const SymbolicTensor& x,
                           Reduction reduction) {
  return loss.reduce(what, x, {1}, reduction, true);
}

SymbolicTensor mean_of_row(LayerContext& loss, const SymbolicTensor& x) {
  const SymbolicTensor flat{x.value, {x.features()}};
  if (x.features() == 1) return flat;
  return loss.reduce("row", flat, {0}, Reduction::mean, true);
}

SymbolicTensor sum_of_row(LayerContext& loss, const SymbolicTensor& x) {
  const SymbolicTensor flat{x.value, {x.features()}};
  if (x.features() == 1) return flat;
  return loss.reduce("row", flat, {0}, Reduction::sum, true);
}

SymbolicTensor class_numbers(LayerContext& loss, const SymbolicTensor& y_pred) {
  Builder e;
  const SymbolicTensor one = loss.map("one", e.finish({e.constant(1)}), {}, {}, {1});
  IndexLists lists;
  lists.begin.push_back(0);
  for (int64_t i = 0; i < y_pred.features(); ++i) {
    lists.index.push_back(0);
    lists.factor.push_back(static_cast<float>(i % y_pred.shape.back()));
    lists.begin.push_back(i + 1);
  }
  return loss.gather("class_numbers", std::move(lists), {one}, y_pred.shape);
}

Result<LossInputs> loss_inputs(const std::string& what, bool sparse, const SymbolicTensor& y_true,
                               const SymbolicTensor& y_pred) {
  // As Keras squeezes it: what is compared along the last axis of y_true is then one position.
  const size_t axes = y_pred.shape.size();
  const bool squeezed =
      !sparse && axes > 1 && y_pred.shape[axes - 1] == 1 && y_true.shape.size() + 1 == axes;
  const int64_t classes = y_pred.shape.empty() ? 1 : y_pred.shape[squeezed ? axes - 2 : axes - 1];
  const int64_t positions = y_pred.features() / classes;
  if (y_true.features() != (sparse ? positions : y_pred.features())) {
    return usage_error(fmt::format(
        "{} compares outputs of shape {} with targets of shape {}: {}", what,
        to_string(y_pred.shape), to_string(y_true.shape),
        sparse ? "it reads a class, a whole number, for each row of the last axis"
               : "it reads as many targets as outputs; classes need a sparse loss, or an output "
                 "of one value"));
  }
  return LossInputs{{y_true.value, {positions, sparse ? 1 : classes}},
                    {y_pred.value, {positions, classes}}};
}

Result<SymbolicTensor> LossType::of_positions(LayerContext& loss, const SymbolicTensor& y_true,
                                              const SymbolicTensor& y_pred) const {
  LOCKSTEP_ASSIGN(const LossInputs in,
                  loss_inputs(fmt::format("'{}'", name()), sparse, y_true, y_pred));
  return build(loss, in);
}

const std::vector<LossType>& loss_types() {
  // Lives as long as the program.
  static const auto* types = new std::vector<LossType>(make_loss_types());
  return *types;
}

const LossType* find_loss_type(const std::string& name) {
  for (const LossType& type : loss_types()) {
    const bool named = std::find(type.names.begin(), type.names.end(), name) != type.names.end();
    if (named || type.class_name == name) return &type;
  }
  return nullptr;
}

}  // namespace lockstep
