// Metrics of the counts at many thresholds: areas under curves, the best of one rate at another.
#include <algorithm>
#include <cmath>

#include "host/core/math_double.h"
#include "host/nn/metric_types.h"

namespace lockstep {
namespace {

using Builder = ExpressionBuilder;
using Reduction = LayerContext::Reduction;
using Json = nlohmann::json;

// A prediction is above limit k where prediction * scale > limits[k]: the thresholds, or where
// these are even, as Keras rounds them, whole numbers.
struct Thresholds {
  bool even = false;
  std::vector<float> limits;
  double scale() const { return static_cast<double>(limits.size()) - 1; }
};

bool is_even(const std::vector<double>& limits) {
  const auto last = static_cast<double>(limits.size() - 1);
  for (size_t i = 0; i < limits.size(); ++i) {
    const double at = static_cast<double>(i) / last;
    if (std::abs(limits[i] - at) > kEpsilon + 1e-5 * at) return false;
  }
  return limits.size() > 2;
}

// As AUC has them, with an end below 0 and one above 1.
Thresholds thresholds_of_curve(const Json& config) {
  std::vector<double> given;
  const bool own = !config.at("thresholds").is_null();
  if (own) given = config.at("thresholds").get<std::vector<double>>();
  std::sort(given.begin(), given.end());
  given.insert(given.begin(), 0);
  given.push_back(1);
  const size_t count = own ? given.size() : config.at("num_thresholds").get<size_t>();
  Thresholds thresholds;
  thresholds.even = !own || is_even(given);
  for (size_t k = 0; k < count; ++k) {
    const bool first = k == 0, last = k + 1 == count;
    const double beyond = first ? -kEpsilon : last ? kEpsilon : 0;
    const double limit =
        thresholds.even ? (first ? -1 : static_cast<double>(k)) : given[k] + beyond;
    thresholds.limits.push_back(static_cast<float>(limit));
  }
  return thresholds;
}

Thresholds even_thresholds(const Json& config) {
  const auto count = config.at("num_thresholds").get<size_t>();
  if (count == 1) return {false, {static_cast<float>(kDefaultThreshold)}};
  Thresholds thresholds{true, {}};
  for (size_t k = 0; k < count; ++k) thresholds.limits.push_back(static_cast<float>(k));
  return thresholds;
}

// For each threshold, and each label where labels count apart: true and false positives, then all
// that is true, and all that is not. An entry counts as the weight of its label says, if any.
SymbolicTensor counts_at(LayerContext& layer, const LossInputs& in, const Thresholds& thresholds,
                         bool by_label, const std::vector<float>& label_weights = {}) {
  const auto count = static_cast<int64_t>(thresholds.limits.size());
  const int64_t entries = in.y_pred.features();
  const SymbolicTensor limits = layer.constant("limits", thresholds.limits, {count});
  SymbolicTensor scaled = in.y_pred;
  if (thresholds.even) {
    scaled = map_each(layer, "scaled", in.y_pred, [&](Builder& e, Term p) {
      return e.minimum(e.maximum(p, e.constant(0)), e.constant(1)) * thresholds.scale();
    });
  }
  SymbolicTensor true_ones = in.y_true;
  SymbolicTensor false_ones =
      map_each(layer, "untrue", in.y_true, [](Builder&, Term t) { return 1.0 - t; });
  if (!label_weights.empty()) {
    const auto labels = static_cast<int64_t>(label_weights.size());
    const SymbolicTensor weights = layer.constant("label_weights", label_weights, {labels});
    for (SymbolicTensor* of : {&true_ones, &false_ones}) {
      Builder w;
      *of = layer.map("weighted", w.finish({w.operand(0) * w.operand(1)}), {*of, weights},
                      {whole_operand(0, *of), {1, 0, {1, labels}}}, of->shape);
    }
  }
  Tensors parts;
  for (SymbolicTensor of : {true_ones, false_ones}) {
    Builder e;
    const Term above = e.greater(e.operand(1), e.operand(2));
    const SymbolicTensor each = layer.map(
        "above", e.finish({e.operand(0) * above}), {of, scaled, limits},
        {{0, 0, {1, entries}}, {1, 0, {1, entries}}, {2, 0, {entries, count}}}, {count, entries});
    parts.push_back(by_label ? each : layer.reduce("at", each, {1}, Reduction::sum, false));
  }
  for (const SymbolicTensor& of : {true_ones, false_ones}) {
    parts.push_back(by_label ? of : sum_of_row(layer, of));
  }
  return side_by_side(layer, parts);
}

// Those counts of one label.
struct Confusion {
  std::vector<double> true_positives, false_positives, false_negatives, true_negatives;
  size_t size() const { return true_positives.size(); }
};

Confusion confusion_of(const MeasuredSums& sums, size_t thresholds, size_t labels, size_t label) {
  const auto at = [&](size_t number) { return sums.values[number * labels + label]; };
  const double truths = at(2 * thresholds), untruths = at(2 * thresholds + 1);
  Confusion confusion;
  for (size_t k = 0; k < thresholds; ++k) {
    confusion.true_positives.push_back(at(k));
    confusion.false_positives.push_back(at(thresholds + k));
    confusion.false_negatives.push_back(truths - at(k));
    confusion.true_negatives.push_back(untruths - at(thresholds + k));
  }
  return confusion;
}

std::vector<double> shares(const std::vector<double>& parts, const std::vector<double>& others) {
  std::vector<double> result;
  for (size_t k = 0; k < parts.size(); ++k) result.push_back(share(parts[k], parts[k] + others[k]));
  return result;
}
std::vector<double> recalls(const Confusion& c) {
  return shares(c.true_positives, c.false_negatives);
}
std::vector<double> precisions(const Confusion& c) {
  return shares(c.true_positives, c.false_positives);
}
std::vector<double> specificities(const Confusion& c) {
  return shares(c.true_negatives, c.false_positives);
}

// --- the best of one at a least of another ---

Result<SymbolicTensor> measure_best(LayerContext& layer, const SymbolicTensor& y_true,
                                    const SymbolicTensor& y_pred) {
  LOCKSTEP_ASSIGN(const LossInputs in, counted_entries(layer, y_true, y_pred));
  return counts_at(layer, in, even_thresholds(layer.config()), false);
}

using Rates = std::vector<double> (*)(const Confusion& confusion);

template <Rates constrained, Rates dependent>
double best_value(const Json& config, const MeasuredSums& sums) {
  if (!(sums.total > 0)) return kNan;
  double least = 0;
  for (const char* key : {"sensitivity", "specificity", "recall", "precision"}) {
    least = config.value(key, least);
  }
  const auto count = config.at("num_thresholds").get<size_t>();
  const Confusion confusion = confusion_of(sums, count, 1, 0);
  const std::vector<double> limits = constrained(confusion), values = dependent(confusion);
  double best = 0;
  for (size_t k = 0; k < count; ++k) {
    if (limits[k] >= least) best = std::max(best, values[k]);
  }
  return best;
}

int64_t count_of_best(const Json& config, const Shape&) {
  return 2 * config.at("num_thresholds").get<int64_t>() + 2;
}

Status check_best(const Json& config) {
  LOCKSTEP_RETURN_IF_ERROR(check_top(config));
  if (config.at("num_thresholds") < 1) return usage_error("num_thresholds must be at least 1");
  for (const char* key : {"sensitivity", "specificity", "recall", "precision"}) {
    const double value = config.value(key, 0.0);
    if (value >= 0 && value <= 1) continue;
    return usage_error(std::string(key) + " must be between 0 and 1");
  }
  return {};
}

template <Rates constrained, Rates dependent>
MetricType best_of(const char* name, const char* class_name, const char* key) {
  MetricType type{{name}, class_name, {}, true};
  type.keys = {{key, KeyKind::number},
               {"num_thresholds", KeyKind::integer, 200},
               {"class_id", KeyKind::any, nullptr}};
  type.measure = measure_best;
  type.value = best_value<constrained, dependent>;
  type.count = count_of_best;
  type.check = check_best;
  return type;
}

// --- the area under a curve ---

bool by_label(const Json& config) { return config.at("multi_label").get<bool>(); }

// A list, or a tensor as Keras writes it.
Json label_weights_of(const Json& config) {
  const Json& given = config.at("label_weights");
  if (!given.is_object()) return given;
  const Json tensor = given.value("config", Json());
  return tensor.is_object() ? tensor.value("value", Json()) : tensor;
}

std::string lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(),
                 [](unsigned char letter) { return static_cast<char>(std::tolower(letter)); });
  return text;
}

Result<SymbolicTensor> measure_area(LayerContext& layer, const SymbolicTensor& y_true,
                                    const SymbolicTensor& y_pred) {
  LOCKSTEP_ASSIGN(LossInputs in, counted_entries(layer, y_true, y_pred));
  if (layer.flag("from_logits")) {
    in.y_pred =
        map_each(layer, "sigmoid", in.y_pred, [](Builder& e, Term p) { return e.sigmoid(p); });
  }
  const bool apart = by_label(layer.config());
  const Json weights = label_weights_of(layer.config());
  const int64_t labels = in.y_pred.shape[1];
  if (apart && in.y_pred.shape[0] != 1) return layer.error("multi_label needs rows of one axis");
  if (!weights.is_null() && std::ssize(weights) != labels) {
    return layer.error("label_weights are " + std::to_string(weights.size()) + " for " +
                       std::to_string(labels) + " labels");
  }
  // Areas of single labels are weighed when all is counted.
  std::vector<float> of_entries;
  if (!apart && !weights.is_null()) of_entries = weights.get<std::vector<float>>();
  return counts_at(layer, in, thresholds_of_curve(layer.config()), apart, of_entries);
}

using Curve = std::vector<double>;

// Keras' interpolate_pr_auc.
double interpolated_area(const Confusion& c) {
  double area = 0;
  for (size_t k = 0; k + 1 < c.size(); ++k) {
    const double positives = c.true_positives[k] + c.false_positives[k];
    const double next = c.true_positives[k + 1] + c.false_positives[k + 1];
    const double hits = c.true_positives[k] - c.true_positives[k + 1];
    const double slope = share(hits, std::max(positives - next, 0.0));
    const double intercept = c.true_positives[k + 1] - slope * next;
    const double ratio = positives > 0 && next > 0 ? positives / next : 1;
    const double truths = std::max(c.true_positives[k + 1] + c.false_negatives[k + 1], 0.0);
    area += share(slope * (hits + intercept * math::log_double(ratio)), truths);
  }
  return area;
}

// The gains of precision and recall (Flach and Kull).
void gain_curve(const Confusion& c, Curve* x, Curve* y) {
  for (size_t k = 0; k < c.size(); ++k) {
    const double hits = c.true_positives[k];
    const double factor =
        share(hits + c.false_negatives[k], c.true_negatives[k] + c.false_positives[k]);
    const double recall = hits == 0 ? 0 : 1 - factor * share(c.false_negatives[k], hits);
    x->push_back(std::max(recall, 0.0));
    y->push_back(hits == 0 ? 1 : 1 - factor * share(c.false_positives[k], hits));
  }
}

double area_of(const Json& config, const Confusion& c) {
  const std::string curve = lower(config.at("curve")),
                    method = lower(config.at("summation_method"));
  if (curve == "pr" && method == "interpolation") return interpolated_area(c);
  Curve x, y;
  if (curve == "roc") {
    x = shares(c.false_positives, c.true_negatives);
    y = recalls(c);
  } else if (curve == "pr") {
    x = recalls(c);
    y = precisions(c);
  } else {
    gain_curve(c, &x, &y);
  }
  double area = 0;
  for (size_t k = 0; k + 1 < c.size(); ++k) {
    const double height = method == "interpolation" ? (y[k] + y[k + 1]) / 2
                          : method == "minoring"    ? std::min(y[k], y[k + 1])
                                                    : std::max(y[k], y[k + 1]);
    area += (x[k] - x[k + 1]) * height;
  }
  return area;
}

size_t threshold_count(const Json& config) {
  const Json& own = config.at("thresholds");
  return own.is_null() ? config.at("num_thresholds").get<size_t>() : own.size() + 2;
}

double area_value(const Json& config, const MeasuredSums& sums) {
  if (!(sums.total > 0)) return kNan;
  const size_t thresholds = threshold_count(config);
  const size_t labels = sums.values.size() / (2 * thresholds + 2);
  const Json given = by_label(config) ? label_weights_of(config) : Json();
  double area = 0, weights = 0;
  for (size_t label = 0; label < labels; ++label) {
    const double weight = given.is_null() ? 1 : given.at(label).get<double>();
    area += weight * area_of(config, confusion_of(sums, thresholds, labels, label));
    weights += weight;
  }
  return share(area, weights);
}

int64_t count_of_area(const Json& config, const Shape& target) {
  const int64_t labels = by_label(config) ? element_count(target) : 1;
  return labels * (2 * static_cast<int64_t>(threshold_count(config)) + 2);
}

bool are_numbers(const Json& list) {
  return list.is_array() &&
         std::all_of(list.begin(), list.end(), [](const Json& one) { return one.is_number(); });
}

Status check_area(const Json& config) {
  const std::string curve = lower(config.at("curve")),
                    method = lower(config.at("summation_method"));
  if (curve != "roc" && curve != "pr" && curve != "prgain") {
    return usage_error("curve '" + curve + "' is none of ROC, PR, PRGAIN");
  }
  if (method != "interpolation" && method != "minoring" && method != "majoring") {
    return usage_error("summation_method '" + method +
                       "' is none of interpolation, minoring, majoring");
  }
  const Json& own = config.at("thresholds");
  if (!own.is_null() && !are_numbers(own)) return usage_error("thresholds are no list of numbers");
  if (config.at("num_thresholds") < 2) return usage_error("num_thresholds must be at least 2");
  const bool has_weights = !config.at("label_weights").is_null();
  if (!has_weights || are_numbers(label_weights_of(config))) return {};
  return usage_error("label_weights are no list of numbers");
}

MetricType area_type() {
  MetricType type{{"auc"}, "AUC", {}, true};
  type.keys = {{"num_thresholds", KeyKind::integer, 200},
               {"curve", KeyKind::text, "ROC"},
               {"summation_method", KeyKind::text, "interpolation"},
               {"thresholds", KeyKind::any, nullptr},
               {"multi_label", KeyKind::flag, false},
               {"num_labels", KeyKind::any, nullptr},
               {"label_weights", KeyKind::any, nullptr},
               {"from_logits", KeyKind::flag, false}};
  type.measure = measure_area;
  type.value = area_value;
  type.count = count_of_area;
  type.check = check_area;
  return type;
}

}  // namespace

std::vector<MetricType> curve_metrics() {
  return {
      area_type(),
      best_of<specificities, recalls>("sensitivity_at_specificity", "SensitivityAtSpecificity",
                                      "specificity"),
      best_of<recalls, specificities>("specificity_at_sensitivity", "SpecificityAtSensitivity",
                                      "sensitivity"),
      best_of<recalls, precisions>("precision_at_recall", "PrecisionAtRecall", "recall"),
      best_of<precisions, recalls>("recall_at_precision", "RecallAtPrecision", "precision"),
  };
}

}  // namespace lockstep
