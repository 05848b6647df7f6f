// Metrics that are means over positions, as Keras' MeanMetricWrapper has them.
#include <cmath>
#include <utility>

#include "host/nn/metric_types.h"

namespace lockstep {
namespace {

using Builder = ExpressionBuilder;
using Reduction = LayerContext::Reduction;

constexpr double kTop = 5;

double mean_value(const nlohmann::json&, const MeasuredSums& sums) {
  return sums.values[0] / sums.total;
}

double root_value(const nlohmann::json&, const MeasuredSums& sums) {
  return std::sqrt(sums.values[0] / sums.total);
}

SymbolicTensor equal(LayerContext& layer, const SymbolicTensor& a, const SymbolicTensor& b) {
  return map_two(layer, "matches", a, b, [](Builder& e, Term x, Term y) { return e.equal(x, y); });
}

Result<SymbolicTensor> binary_accuracy(LayerContext& layer, const SymbolicTensor& y_true,
                                       const SymbolicTensor& y_pred) {
  LOCKSTEP_ASSIGN(const LossInputs in, loss_inputs("'binary_accuracy'", false, y_true, y_pred));
  const double threshold = number_or(layer, "threshold", kDefaultThreshold);
  return map_two(layer, "matches", in.y_true, in.y_pred, [&](Builder& e, Term t, Term p) {
    return e.equal(t, e.greater(p, e.constant(threshold)));
  });
}

// The number of the first largest value at each position, {n, 1}.
SymbolicTensor first_largest(LayerContext& layer, const SymbolicTensor& x) {
  const SymbolicTensor top = reduce_last(layer, "largest", x, Reduction::maximum);
  const auto classes = static_cast<double>(x.shape.back());
  Builder e;
  const Term is_top = e.equal(e.operand(0), e.operand(1));
  const SymbolicTensor negated = map_positions(
      layer, "candidates", e.finish({e.select(is_top, -e.operand(2), e.constant(-classes))}),
      {x, top, class_numbers(layer, x)});
  const SymbolicTensor least = reduce_last(layer, "first", negated, Reduction::maximum);
  Builder f;
  return map_positions(layer, "number", f.finish({-f.operand(0)}), {least});
}

Result<SymbolicTensor> sparse_categorical_accuracy(LayerContext& layer,
                                                   const SymbolicTensor& y_true,
                                                   const SymbolicTensor& y_pred) {
  LOCKSTEP_ASSIGN(const LossInputs in,
                  loss_inputs("'sparse_categorical_accuracy'", true, y_true, y_pred));
  return equal(layer, in.y_true, first_largest(layer, in.y_pred));
}

Result<SymbolicTensor> categorical_accuracy(LayerContext& layer, const SymbolicTensor& y_true,
                                            const SymbolicTensor& y_pred) {
  LOCKSTEP_ASSIGN(const LossInputs in,
                  loss_inputs("'categorical_accuracy'", false, y_true, y_pred));
  return equal(layer, first_largest(layer, in.y_true), first_largest(layer, in.y_pred));
}

// As Keras chooses by the shapes of target and output.
Result<SymbolicTensor> accuracy(LayerContext& layer, const SymbolicTensor& y_true,
                                const SymbolicTensor& y_pred) {
  const int64_t last = y_pred.shape.empty() ? 1 : y_pred.shape.back();
  const int64_t last_target = y_true.shape.empty() ? 1 : y_true.shape.back();
  if (last == 1) return binary_accuracy(layer, y_true, y_pred);
  if (y_true.shape.size() < y_pred.shape.size() || last_target == 1) {
    return sparse_categorical_accuracy(layer, y_true, y_pred);
  }
  return categorical_accuracy(layer, y_true, y_pred);
}

// Whether fewer than k values are greater than that of the class.
SymbolicTensor in_top(LayerContext& layer, const SymbolicTensor& label, const SymbolicTensor& x) {
  Builder e;
  const Term is_label = e.equal(e.operand(0), e.operand(1));
  const SymbolicTensor kept =
      map_positions(layer, "of_label", e.finish({e.select(is_label, e.operand(2), e.constant(0))}),
                    {label, class_numbers(layer, x), x});
  const SymbolicTensor at_label = reduce_last(layer, "at_label", kept, Reduction::sum);
  const SymbolicTensor greater =
      map_two(layer, "greater", x, at_label,
              [](Builder& f, Term value, Term limit) { return f.greater(value, limit); });
  const SymbolicTensor rank = reduce_last(layer, "rank", greater, Reduction::sum);
  Builder f;
  const Term k = f.constant(number_or(layer, "k", kTop));
  return map_positions(layer, "hit", f.finish({f.greater(k, f.operand(0))}), {rank});
}

Result<SymbolicTensor> sparse_top_k(LayerContext& layer, const SymbolicTensor& y_true,
                                    const SymbolicTensor& y_pred) {
  LOCKSTEP_ASSIGN(const LossInputs in,
                  loss_inputs("'sparse_top_k_categorical_accuracy'", true, y_true, y_pred));
  return in_top(layer, in.y_true, in.y_pred);
}

Result<SymbolicTensor> top_k(LayerContext& layer, const SymbolicTensor& y_true,
                             const SymbolicTensor& y_pred) {
  LOCKSTEP_ASSIGN(const LossInputs in,
                  loss_inputs("'top_k_categorical_accuracy'", false, y_true, y_pred));
  return in_top(layer, first_largest(layer, in.y_true), in.y_pred);
}

// Keras' metric of this name has the sign that the loss has not.
Result<SymbolicTensor> cosine_similarity(LayerContext& layer, const SymbolicTensor& y_true,
                                         const SymbolicTensor& y_pred) {
  LOCKSTEP_ASSIGN(const SymbolicTensor loss,
                  find_loss_type("cosine_similarity")->of_positions(layer, y_true, y_pred));
  Builder e;
  return map_positions(layer, "similarity", e.finish({-e.operand(0)}), {loss});
}

Result<SymbolicTensor> mean_squares(LayerContext& layer, const SymbolicTensor& y_true,
                                    const SymbolicTensor& y_pred) {
  LOCKSTEP_ASSIGN(const SymbolicTensor squares,
                  find_loss_type("mean_squared_error")->of_positions(layer, y_true, y_pred));
  return mean_of_row(layer, squares);
}

// Whether an output is its target.
Result<SymbolicTensor> equality(LayerContext& layer, const SymbolicTensor& y_true,
                                const SymbolicTensor& y_pred) {
  LOCKSTEP_ASSIGN(const LossInputs in, loss_inputs("'Accuracy'", false, y_true, y_pred));
  return equal(layer, in.y_true, in.y_pred);
}

// What stands along the last axis, about its mean.
struct Spread {
  SymbolicTensor mean, centred, variance;
};
Spread spread_of(LayerContext& layer, const SymbolicTensor& x) {
  Spread spread;
  spread.mean = reduce_last(layer, "mean", x, Reduction::mean);
  spread.centred = map_two(layer, "centred", x, spread.mean,
                           [](Builder&, Term value, Term mean) { return value - mean; });
  spread.variance = reduce_last(layer, "variance",
                                map_each(layer, "squares", spread.centred,
                                         [](Builder&, Term value) { return square(value); }),
                                Reduction::mean);
  return spread;
}

Result<SymbolicTensor> pearson_correlation(LayerContext& layer, const SymbolicTensor& y_true,
                                           const SymbolicTensor& y_pred) {
  LOCKSTEP_ASSIGN(const LossInputs in, loss_inputs("'pearson_correlation'", false, y_true, y_pred));
  const Spread truth = spread_of(layer, in.y_true);
  const Spread prediction = spread_of(layer, in.y_pred);
  const SymbolicTensor covariance =
      reduce_last(layer, "covariance",
                  map_two(layer, "products", truth.centred, prediction.centred,
                          [](Builder&, Term t, Term p) { return t * p; }),
                  Reduction::mean);
  Builder e;
  const Term norm = e.square_root(e.operand(1)) * e.square_root(e.operand(2));
  return map_positions(layer, "correlation", e.finish({e.operand(0) / norm}),
                       {covariance, truth.variance, prediction.variance});
}

// As Keras computes it: both are taken about the mean of y_pred.
Result<SymbolicTensor> concordance_correlation(LayerContext& layer, const SymbolicTensor& y_true,
                                               const SymbolicTensor& y_pred) {
  LOCKSTEP_ASSIGN(const LossInputs in,
                  loss_inputs("'concordance_correlation'", false, y_true, y_pred));
  const Spread truth = spread_of(layer, in.y_true);
  const Spread prediction = spread_of(layer, in.y_pred);
  Builder e;
  const SymbolicTensor products =
      map_positions(layer, "products", e.finish({(e.operand(0) - e.operand(1)) * e.operand(2)}),
                    {in.y_true, prediction.mean, prediction.centred});
  const SymbolicTensor covariance = reduce_last(layer, "covariance", products, Reduction::mean);
  Builder f;
  const Term norm =
      f.operand(1) + f.operand(2) + square(f.operand(3) - f.operand(4)) + f.constant(kEpsilon);
  return map_positions(
      layer, "correlation", f.finish({2.0 * f.operand(0) / norm}),
      {covariance, truth.variance, prediction.variance, truth.mean, prediction.mean});
}

using Measure = Result<SymbolicTensor> (*)(LayerContext& layer, const SymbolicTensor& y_true,
                                           const SymbolicTensor& y_pred);

MetricType mean_of(std::vector<std::string> names, const char* class_name,
                   std::vector<ConfigKey> keys, Measure measure) {
  MetricType type{std::move(names), class_name, std::move(keys), true};
  type.is_mean = true;
  type.measure = measure;
  type.value = mean_value;
  return type;
}

}  // namespace

std::vector<MetricType> mean_metrics() {
  const ConfigKey k{"k", KeyKind::integer, 5};
  const ConfigKey axis{"axis", KeyKind::integer, -1};
  const ConfigKey threshold{"threshold", KeyKind::number, kDefaultThreshold};
  std::vector<MetricType> types = {
      mean_of({"accuracy", "acc"}, "", {}, accuracy),
      mean_of({"accuracy"}, "Accuracy", {}, equality),
      mean_of({"binary_accuracy"}, "BinaryAccuracy", {threshold}, binary_accuracy),
      mean_of({"categorical_accuracy"}, "CategoricalAccuracy", {}, categorical_accuracy),
      mean_of({"sparse_categorical_accuracy"}, "SparseCategoricalAccuracy", {},
              sparse_categorical_accuracy),
      mean_of({"top_k_categorical_accuracy"}, "TopKCategoricalAccuracy", {k}, top_k),
      mean_of({"sparse_top_k_categorical_accuracy"}, "SparseTopKCategoricalAccuracy", {k},
              sparse_top_k),
      mean_of({"cosine_similarity"}, "CosineSimilarity", {axis}, cosine_similarity),
      mean_of({"pearson_correlation"}, "PearsonCorrelation", {axis}, pearson_correlation),
      mean_of({"concordance_correlation"}, "ConcordanceCorrelation", {axis},
              concordance_correlation),
  };
  MetricType root{{"root_mean_squared_error"}, "RootMeanSquaredError"};
  root.measure = mean_squares;
  root.value = root_value;
  types.push_back(std::move(root));
  for (const LossType& loss : loss_types()) {
    if (loss.name() == "cosine_similarity") continue;
    const bool log_cosh = loss.class_name == "LogCosh";  // whose metric has another name
    MetricType type{loss.names, log_cosh ? "LogCoshError" : loss.class_name, loss.keys};
    if (log_cosh) type.names.emplace_back("log_cosh_error");
    type.is_mean = true;
    type.measure = [&loss](LayerContext& layer, const SymbolicTensor& y_true,
                           const SymbolicTensor& y_pred) {
      return loss.of_positions(layer, y_true, y_pred);
    };
    type.value = mean_value;
    types.push_back(std::move(type));
  }
  return types;
}

}  // namespace lockstep
