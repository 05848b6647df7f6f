// Metrics of sums by class or by output: F scores, R2, intersections over unions.
#include <cmath>

#include "host/nn/metric_types.h"

namespace lockstep {
namespace {

using Builder = ExpressionBuilder;
using Reduction = LayerContext::Reduction;
using Json = nlohmann::json;

constexpr double kLeastPrediction = 1e-9;  // of Keras' FBetaScore and IoU

SymbolicTensor sum_last(LayerContext& layer, const std::string& what, const SymbolicTensor& x) {
  return reduce_last(layer, what, x, Reduction::sum);
}

// --- F scores ---

bool is_micro(const Json& config) { return config.at("average") == "micro"; }

// 1 at the largest of a row's values, or above the threshold.
SymbolicTensor chosen(LayerContext& layer, const SymbolicTensor& y_pred) {
  const double threshold = number_or(layer, "threshold", -1);
  if (threshold > 0) {
    return map_each(layer, "chosen", y_pred,
                    [&](Builder& e, Term p) { return e.greater(p, e.constant(threshold)); });
  }
  const SymbolicTensor largest = reduce_last(layer, "largest", y_pred, Reduction::maximum);
  return map_two(layer, "chosen", y_pred, largest, [](Builder& e, Term p, Term limit) {
    return e.greater_equal(p, limit) * e.greater(e.absolute(p), e.constant(kLeastPrediction));
  });
}

// For each class, or all together: true positives, false positives, false negatives, what is true.
Result<SymbolicTensor> measure_f(LayerContext& layer, const SymbolicTensor& y_true,
                                 const SymbolicTensor& y_pred) {
  LOCKSTEP_ASSIGN(const LossInputs in, flat_inputs("'" + layer.name() + "'", y_true, y_pred));
  const SymbolicTensor p = chosen(layer, in.y_pred);
  const bool micro = is_micro(layer.config());
  Tensors parts = {
      map_two(layer, "hits", in.y_true, p, [](Builder&, Term t, Term c) { return t * c; }),
      map_two(layer, "extra", in.y_true, p, [](Builder&, Term t, Term c) { return (1.0 - t) * c; }),
      map_two(layer, "missed", in.y_true, p,
              [](Builder&, Term t, Term c) { return t * (1.0 - c); }),
      in.y_true};
  for (SymbolicTensor& part : parts) {
    if (micro) part = sum_last(layer, "of_all", part);
  }
  return side_by_side(layer, parts);
}

double f_value(const Json& config, const MeasuredSums& sums) {
  if (!(sums.total > 0)) return kNan;
  const size_t classes = sums.values.size() / 4;
  const double beta = config.value("beta", 1.0);
  double score = 0, weights = 0;
  for (size_t c = 0; c < classes; ++c) {
    const double hits = sums.values[c], truths = sums.values[3 * classes + c];
    const double precision = hits / (hits + sums.values[classes + c] + kEpsilon);
    const double recall = hits / (hits + sums.values[2 * classes + c] + kEpsilon);
    const double f =
        precision * recall / (beta * beta * precision + recall + kEpsilon) * (1 + beta * beta);
    const double weight = config.at("average") == "weighted" ? truths : 1;
    score += f * weight;
    weights += weight;
  }
  return score / (weights + (config.at("average") == "weighted" ? kEpsilon : 0));
}

int64_t count_of_f(const Json& config, const Shape& target) {
  return 4 * (is_micro(config) ? 1 : element_count(target));
}

Status check_f(const Json& config) {
  const Json& average = config.at("average");
  if (average.is_null()) {
    return usage_error(
        "average null gives a value for each class, and a metric here is one number: use 'micro', "
        "'macro' or 'weighted'");
  }
  if (average != "micro" && average != "macro" && average != "weighted") {
    return usage_error("average " + average.dump() + " is none of 'micro', 'macro', 'weighted'");
  }
  const Json& threshold = config.at("threshold");
  if (!threshold.is_null() && !(threshold.is_number() && threshold > 0 && threshold <= 1)) {
    return usage_error("threshold must be above 0 and at most 1");
  }
  if (!(config.value("beta", 1.0) > 0)) return usage_error("beta must be above 0");
  return {};
}

MetricType f_type(std::vector<std::string> names, const char* class_name, bool has_beta) {
  MetricType type{std::move(names), class_name, {}, true};
  type.keys = {{"average", KeyKind::any, nullptr}, {"threshold", KeyKind::any, nullptr}};
  if (has_beta) type.keys.push_back({"beta", KeyKind::number, 1.0});
  type.measure = measure_f;
  type.value = f_value;
  type.count = count_of_f;
  type.check = check_f;
  return type;
}

// --- R2 ---

// For each output: the target's square, the target, the square of the difference.
Result<SymbolicTensor> measure_r2(LayerContext& layer, const SymbolicTensor& y_true,
                                  const SymbolicTensor& y_pred) {
  LOCKSTEP_ASSIGN(const LossInputs in, flat_inputs("'" + layer.name() + "'", y_true, y_pred));
  const auto square = [&](const char* what, const SymbolicTensor& x) {
    return map_each(layer, what, x, [](Builder&, Term t) { return t * t; });
  };
  const SymbolicTensor difference = map_two(layer, "difference", in.y_true, in.y_pred,
                                            [](Builder&, Term t, Term p) { return t - p; });
  return side_by_side(layer, {square("square", in.y_true), in.y_true, square("error", difference)});
}

double r2_value(const Json& config, const MeasuredSums& sums) {
  if (!(sums.total > 0)) return kNan;
  const size_t outputs = sums.values.size() / 3;
  const bool by_variance = config.at("class_aggregation") == "variance_weighted_average";
  double score = 0, weights = 0;
  for (size_t i = 0; i < outputs; ++i) {
    const double sum = sums.values[outputs + i];
    const double variance = sums.values[i] - sum * (sum / sums.total);
    double raw = 1 - sums.values[2 * outputs + i] / variance;
    if (std::isinf(raw)) raw = 0;
    score += by_variance ? variance * raw : raw;
    weights += by_variance ? variance : 1;
  }
  score /= weights;
  const double regressors = config.at("num_regressors");
  const double samples = sums.rows * static_cast<double>(outputs);  // as Keras counts them
  if (regressors == 0 || regressors >= samples - 1) return score;
  return 1 - (1 - score) * (samples - 1) / (samples - regressors - 1);
}

Status check_r2(const Json& config) {
  const Json& aggregation = config.at("class_aggregation");
  if (aggregation.is_null()) {
    return usage_error(
        "class_aggregation null gives a value for each output, and a metric here is one number: "
        "use "
        "'uniform_average'");
  }
  if (aggregation != "uniform_average" && aggregation != "variance_weighted_average") {
    return usage_error("class_aggregation " + aggregation.dump() +
                       " is none of 'uniform_average', 'variance_weighted_average'");
  }
  if (config.at("num_regressors") < 0) return usage_error("num_regressors must be at least 0");
  return {};
}

MetricType r2_type() {
  MetricType type{{"r2_score"}, "R2Score", {}, true};
  type.keys = {{"class_aggregation", KeyKind::any, "uniform_average"},
               {"num_regressors", KeyKind::integer, 0}};
  type.measure = measure_r2;
  type.value = r2_value;
  type.count = [](const Json&, const Shape& target) { return 3 * element_count(target); };
  type.check = check_r2;
  return type;
}

// --- intersection over union ---

// Entries of class 0 and of class 1, each predicted as 0 and as 1; targets are cut to whole
// numbers, and others than 0 and 1 do not count.
Result<SymbolicTensor> measure_binary_iou(LayerContext& layer, const SymbolicTensor& y_true,
                                          const SymbolicTensor& y_pred) {
  LOCKSTEP_ASSIGN(const LossInputs in,
                  loss_inputs("'" + layer.name() + "'", false, y_true, y_pred));
  const double threshold = layer.number("threshold");
  Tensors parts;
  for (const int truth : {0, 1}) {
    for (const int predicted : {0, 1}) {
      const SymbolicTensor each =
          map_two(layer, "counted", in.y_true, in.y_pred, [&](Builder& e, Term t, Term p) {
            const Term above = e.greater(t, e.constant(-1)),
                       least = e.greater_equal(t, e.constant(1));
            const Term is_class = truth == 0 ? above * (1.0 - least)
                                             : least * (1.0 - e.greater_equal(t, e.constant(2)));
            const Term one = e.greater_equal(p, e.constant(threshold));
            return is_class * (predicted == 1 ? one : 1.0 - one);
          });
      parts.push_back(sum_of_row(layer, each));
    }
  }
  return side_by_side(layer, parts);
}

double binary_iou_value(const Json& config, const MeasuredSums& sums) {
  if (!(sums.total > 0)) return kNan;
  double score = 0, valid = 0;
  for (const Json& id : config.at("target_class_ids")) {
    const size_t c = id.get<size_t>();
    const double hits = sums.values[3 * c];
    const double all = hits + sums.values[1] + sums.values[2];
    if (!(all > kLeastPrediction)) continue;
    score += hits / (all + kEpsilon);
    ++valid;
  }
  return score / (valid + kEpsilon);
}

Status check_binary_iou(const Json& config) {
  const Json& ids = config.at("target_class_ids");
  const bool known =
      ids.is_array() && !ids.empty() &&
      std::all_of(ids.begin(), ids.end(), [](const Json& id) { return id == 0 || id == 1; });
  if (known) return {};
  return usage_error("target_class_ids " + ids.dump() + " must be a list of 0, 1 or both");
}

MetricType binary_iou_type() {
  MetricType type{{"binary_io_u"}, "BinaryIoU", {}, true};
  type.keys = {{"target_class_ids", KeyKind::any, Json::array({0, 1})},
               {"threshold", KeyKind::number, kDefaultThreshold}};
  type.measure = measure_binary_iou;
  type.value = binary_iou_value;
  type.count = [](const Json&, const Shape&) -> int64_t { return 4; };
  type.check = check_binary_iou;
  type.whole_weights = true;
  return type;
}

}  // namespace

std::vector<MetricType> score_metrics() {
  return {f_type({"f1_score"}, "F1Score", false),
          f_type({"fbeta_score", "f_beta_score"}, "FBetaScore", true), r2_type(),
          binary_iou_type()};
}

}  // namespace lockstep
