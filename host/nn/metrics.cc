#include "host/nn/metrics.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "host/core/suggest.h"
#include "host/nn/loss_functions.h"

namespace lockstep {
namespace {

using Builder = ExpressionBuilder;
using Reduction = LayerContext::Reduction;

constexpr double kThreshold = 0.5;
constexpr double kTop = 5;

// Of the metric's config, where it has the key and a value; of a list its only entry.
double number_or(const LayerContext& layer, const char* key, double value) {
  const auto* found = layer.find(key);
  if (found == nullptr || found->is_null()) return value;
  return found->is_array() ? found->at(0).get<double>() : found->get<double>();
}

double mean_value(std::span<const double> sums, double rows) { return sums[0] / rows; }
double root_value(std::span<const double> sums, double rows) { return std::sqrt(sums[0] / rows); }
// Of two counts; Keras' divide_no_nan.
double share_value(std::span<const double> sums, double rows) {
  if (!(rows > 0)) return std::nan("");
  const double total = sums[0] + sums[1];
  return total == 0 ? 0 : sums[0] / total;
}

// 1 or 0 at each element.
template <class Formula>
SymbolicTensor map_two(LayerContext& layer, const std::string& what, const SymbolicTensor& a,
                       const SymbolicTensor& b, const Formula& formula) {
  Builder e;
  return map_positions(layer, what, e.finish({formula(e, e.operand(0), e.operand(1))}), {a, b});
}

SymbolicTensor equal(LayerContext& layer, const SymbolicTensor& a, const SymbolicTensor& b) {
  return map_two(layer, "matches", a, b, [](Builder& e, Term x, Term y) { return e.equal(x, y); });
}

Result<SymbolicTensor> binary_accuracy(LayerContext& layer, const SymbolicTensor& y_true,
                                       const SymbolicTensor& y_pred) {
  LOCKSTEP_ASSIGN(const LossInputs in, loss_inputs("'binary_accuracy'", false, y_true, y_pred));
  const double threshold = number_or(layer, "threshold", kThreshold);
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

SymbolicTensor count_of_row(LayerContext& layer, const SymbolicTensor& x) {
  const SymbolicTensor flat{x.value, {x.features()}};
  return layer.reduce("count", flat, {0}, Reduction::sum, true);
}

// Two counts: entries that are true and predicted; and the entries of `others` beside them.
template <class Formula>
Result<SymbolicTensor> two_counts(LayerContext& layer, const char* what,
                                  const SymbolicTensor& y_true, const SymbolicTensor& y_pred,
                                  const Formula& others) {
  LOCKSTEP_ASSIGN(const LossInputs in, loss_inputs(what, false, y_true, y_pred));
  const double threshold = number_or(layer, "thresholds", kThreshold);
  const auto counted = [&](const char* name, const auto& formula) {
    return count_of_row(layer,
                        map_two(layer, name, in.y_true, in.y_pred, [&](Builder& e, Term t, Term p) {
                          const Term truth = e.select(t, e.constant(1), e.constant(0));
                          return formula(truth, e.greater(p, e.constant(threshold)));
                        }));
  };
  const SymbolicTensor hits = counted("hits", [](Term t, Term p) { return t * p; });
  const SymbolicTensor misses = counted("misses", others);
  return layer.pick("counts", {0, 1}, {hits, misses}, {2});
}

Result<SymbolicTensor> precision(LayerContext& layer, const SymbolicTensor& y_true,
                                 const SymbolicTensor& y_pred) {
  return two_counts(layer, "'precision'", y_true, y_pred,
                    [](Term t, Term p) { return (1.0 - t) * p; });
}

Result<SymbolicTensor> recall(LayerContext& layer, const SymbolicTensor& y_true,
                              const SymbolicTensor& y_pred) {
  return two_counts(layer, "'recall'", y_true, y_pred,
                    [](Term t, Term p) { return t * (1.0 - p); });
}

// Keras' metric of this name has the sign that the loss has not.
Result<SymbolicTensor> cosine_similarity(LayerContext& layer, const SymbolicTensor& y_true,
                                         const SymbolicTensor& y_pred) {
  LOCKSTEP_ASSIGN(const SymbolicTensor loss,
                  find_loss_type("cosine_similarity")->of_positions(layer, y_true, y_pred));
  Builder e;
  return map_positions(layer, "similarity", e.finish({-e.operand(0)}), {loss});
}

Result<SymbolicTensor> mean_squared_error(LayerContext& layer, const SymbolicTensor& y_true,
                                          const SymbolicTensor& y_pred) {
  LOCKSTEP_ASSIGN(const SymbolicTensor squares,
                  find_loss_type("mean_squared_error")->of_positions(layer, y_true, y_pred));
  return mean_of_row(layer, squares);
}

using Measure = Result<SymbolicTensor> (*)(LayerContext& layer, const SymbolicTensor& y_true,
                                           const SymbolicTensor& y_pred);

// Keras' MeanMetricWrapper around a function.
MetricType mean_of(std::vector<std::string> names, const char* class_name,
                   std::vector<ConfigKey> keys, Measure measure) {
  return {std::move(names), class_name, std::move(keys), true, 1, true, measure, mean_value};
}

std::vector<MetricType> metric_types() {
  const ConfigKey k{"k", KeyKind::integer, 5};
  const ConfigKey axis{"axis", KeyKind::integer, -1};
  const ConfigKey threshold{"threshold", KeyKind::number, kThreshold};
  const std::vector<ConfigKey> counts = {{"thresholds", KeyKind::any, nullptr},
                                         {"top_k", KeyKind::any, nullptr},
                                         {"class_id", KeyKind::any, nullptr}};
  std::vector<MetricType> types = {
      mean_of({"accuracy", "acc"}, "", {}, accuracy),
      mean_of({"binary_accuracy"}, "BinaryAccuracy", {threshold}, binary_accuracy),
      mean_of({"categorical_accuracy"}, "CategoricalAccuracy", {}, categorical_accuracy),
      mean_of({"sparse_categorical_accuracy"}, "SparseCategoricalAccuracy", {},
              sparse_categorical_accuracy),
      mean_of({"top_k_categorical_accuracy"}, "TopKCategoricalAccuracy", {k}, top_k),
      mean_of({"sparse_top_k_categorical_accuracy"}, "SparseTopKCategoricalAccuracy", {k},
              sparse_top_k),
      {{"precision"}, "Precision", counts, true, 2, false, precision, share_value},
      {{"recall"}, "Recall", counts, true, 2, false, recall, share_value},
      {{"root_mean_squared_error"},
       "RootMeanSquaredError",
       {},
       false,
       1,
       false,
       mean_squared_error,
       root_value},
      mean_of({"cosine_similarity"}, "CosineSimilarity", {axis}, cosine_similarity),
  };
  for (const LossType& loss : loss_types()) {
    if (loss.name() == "cosine_similarity") continue;
    const bool log_cosh = loss.class_name == "LogCosh";  // whose metric has another name
    types.push_back(
        {loss.names, log_cosh ? "LogCoshError" : loss.class_name, loss.keys, false, 1, true,
         [&loss](LayerContext& layer, const SymbolicTensor& y_true, const SymbolicTensor& y_pred) {
           return loss.of_positions(layer, y_true, y_pred);
         },
         mean_value});
  }
  return types;
}

// By one of its names, or its class.
Result<MetricType> metric_type(const std::string& name, bool is_class) {
  std::vector<std::string> known;
  for (MetricType& type : metric_types()) {
    const auto& names = type.names;
    const bool found = is_class ? type.class_name == name
                                : std::find(names.begin(), names.end(), name) != names.end();
    if (found) return std::move(type);
    if (!is_class || !type.class_name.empty())
      known.push_back(is_class ? type.class_name : names[0]);
  }
  return usage_error(unknown_name_message("metric", name, known));
}

// Keys that are here for one value alone.
Status check_config(const std::string& name, const nlohmann::json& config) {
  const std::pair<const char*, nlohmann::json> only[] = {
      {"top_k", nullptr}, {"class_id", nullptr}, {"ignore_class", nullptr}, {"axis", -1}};
  for (const auto& [key, value] : only) {
    const auto found = config.find(key);
    if (found == config.end() || *found == value) continue;
    return usage_error(fmt::format("metric {}: {} {} is not supported, only {}", name, key,
                                   found->dump(), value.dump()));
  }
  const auto thresholds = config.find("thresholds");
  if (thresholds == config.end() || thresholds->is_null() || thresholds->is_number()) return {};
  if (thresholds->is_array() && thresholds->size() == 1 && thresholds->at(0).is_number()) return {};
  return usage_error(
      fmt::format("metric {}: thresholds {} are not supported: give one number, and a metric for "
                  "each",
                  name, thresholds->dump()));
}

}  // namespace

Result<Metric> metric_of(const nlohmann::json& metric) {
  Metric found;
  if (metric.is_string()) {
    found.name = metric;
    LOCKSTEP_ASSIGN(found.type, metric_type(found.name, false));
    LOCKSTEP_ASSIGN(found.config,
                    resolve_keys(found.name, found.type.keys, nlohmann::json::object()));
    return found;
  }
  if (!metric.is_object() || !metric.contains("class_name") || !metric["class_name"].is_string()) {
    return usage_error(
        fmt::format("metric {}: give a name, or {{\"class_name\": "
                    "\"BinaryAccuracy\", \"config\": {{\"threshold\": 0.7}}}}",
                    metric.dump()));
  }
  const std::string class_name = metric["class_name"];
  LOCKSTEP_ASSIGN(found.type, metric_type(class_name, true));
  const nlohmann::json given = metric.value("config", nlohmann::json::object());
  LOCKSTEP_ASSIGN(found.config,
                  resolve_keys(fmt::format("metric {}", class_name), found.type.keys, given));
  LOCKSTEP_RETURN_IF_ERROR(check_config(class_name, found.config));
  const auto name = given.value("name", nlohmann::json());
  found.name = name.is_string() ? name.get<std::string>() : found.type.names[0];
  return found;
}

Result<nlohmann::json> resolve_metric(const nlohmann::json& metric) {
  LOCKSTEP_ASSIGN(Metric found, metric_of(metric));
  if (metric.is_string()) return metric;
  found.config["name"] = found.name;
  return nlohmann::json{{"class_name", found.type.class_name}, {"config", found.config}};
}

}  // namespace lockstep
