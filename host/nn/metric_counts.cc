// Metrics made of counts of entries: true or not, predicted or not, at one threshold or many. A
// target counts as true where it is not 0, as in Keras.
#include <limits>

#include "host/nn/metric_types.h"

namespace lockstep {
namespace {

using Builder = ExpressionBuilder;
using Reduction = LayerContext::Reduction;
using Json = nlohmann::json;

constexpr double kLeftOut = -1e10;  // Keras' NEG_INF
constexpr int64_t kMostPairs = 1 << 20;
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

// --- the entries of a row ---

// x where it is among the k largest of its position, of equal ones the first; else kLeftOut.
SymbolicTensor only_top(LayerContext& layer, const SymbolicTensor& x, double k) {
  const int64_t classes = x.shape[1], pairs = x.features() * classes;
  const Shape of_pairs{x.shape[0], classes, classes};  // the entry, then the one beside it
  std::vector<int64_t> entry, other;
  std::vector<float> before;
  for (int64_t i = 0; i < pairs; ++i) {
    const int64_t position = i / (classes * classes), a = i / classes % classes, b = i % classes;
    entry.push_back(position * classes + a);
    other.push_back(position * classes + b);
    before.push_back(b < a ? 1 : 0);
  }
  Builder e;
  const Term greater = e.greater(e.operand(1), e.operand(0));
  const Term first = e.equal(e.operand(1), e.operand(0)) * e.operand(2);
  const SymbolicTensor ahead = layer.map(
      "ahead", e.finish({greater + first}),
      {layer.pick("entries", entry, {x}, of_pairs), layer.pick("others", other, {x}, of_pairs),
       layer.constant("before", before, of_pairs)});
  const SymbolicTensor rank = layer.reduce("rank", ahead, {2}, Reduction::sum, false);
  return map_two(layer, "top", x, SymbolicTensor{rank.value, x.shape},
                 [k](Builder& f, Term value, Term before_it) {
                   return f.select(f.greater(f.constant(k), before_it), value,
                                   f.constant(kLeftOut));
                 });
}

SymbolicTensor column(LayerContext& layer, const std::string& what, const SymbolicTensor& x,
                      int64_t number) {
  std::vector<int64_t> index;
  for (int64_t i = 0; i < x.shape[0]; ++i) index.push_back(i * x.shape[1] + number);
  return layer.pick(what, index, {x}, {x.shape[0], 1});
}

}  // namespace

Result<LossInputs> counted_entries(LayerContext& layer, const SymbolicTensor& y_true,
                                   const SymbolicTensor& y_pred) {
  LOCKSTEP_ASSIGN(LossInputs in, loss_inputs("'" + layer.name() + "'", false, y_true, y_pred));
  in.y_true = map_each(layer, "truth", in.y_true, [](Builder& e, Term t) {
    return e.select(t, e.constant(1), e.constant(0));
  });
  const double top_k = number_or(layer, "top_k", 0);
  if (top_k > 0 && in.y_pred.features() * in.y_pred.shape[1] > kMostPairs) {
    return layer.error("top_k compares all classes with each other, and there are too many");
  }
  if (top_k > 0) in.y_pred = only_top(layer, in.y_pred, top_k);
  const auto class_id = static_cast<int64_t>(number_or(layer, "class_id", -1));
  if (class_id < 0) return in;
  if (class_id >= in.y_pred.shape[1]) {
    return layer.error("class_id " + std::to_string(class_id) + " is none of the output's " +
                       std::to_string(in.y_pred.shape[1]) + " classes");
  }
  in.y_true = column(layer, "truth_of_class", in.y_true, class_id);
  in.y_pred = column(layer, "prediction_of_class", in.y_pred, class_id);
  return in;
}

namespace {

// --- at one threshold ---

// Entries for which `formula` of truth and prediction, 1 or 0 each, is 1.
template <class Formula>
SymbolicTensor count_at(LayerContext& layer, const char* what, const LossInputs& in,
                        const Formula& formula) {
  const bool top = number_or(layer, "top_k", 0) > 0;
  const double threshold = number_or(layer, "thresholds", top ? kLeftOut : kDefaultThreshold);
  return sum_of_row(layer,
                    map_two(layer, what, in.y_true, in.y_pred, [&](Builder& e, Term t, Term p) {
                      return formula(t, e.greater(p, e.constant(threshold)));
                    }));
}

Term true_positive(Term t, Term p) { return t * p; }
Term false_positive(Term t, Term p) { return (1.0 - t) * p; }
Term false_negative(Term t, Term p) { return t * (1.0 - p); }
Term true_negative(Term t, Term p) { return (1.0 - t) * (1.0 - p); }

using Formula = Term (*)(Term t, Term p);

template <Formula formula>
Result<SymbolicTensor> count(LayerContext& layer, const SymbolicTensor& y_true,
                             const SymbolicTensor& y_pred) {
  LOCKSTEP_ASSIGN(const LossInputs in, counted_entries(layer, y_true, y_pred));
  return count_at(layer, "counted", in, formula);
}

// True positives, and what `others` counts beside them.
template <Formula others>
Result<SymbolicTensor> two_counts(LayerContext& layer, const SymbolicTensor& y_true,
                                  const SymbolicTensor& y_pred) {
  LOCKSTEP_ASSIGN(const LossInputs in, counted_entries(layer, y_true, y_pred));
  const SymbolicTensor hits = count_at(layer, "hits", in, true_positive);
  return side_by_side(layer, {hits, count_at(layer, "misses", in, others)});
}

double count_value(const Json&, const MeasuredSums& sums) { return sums.values[0]; }

double share_value(const Json&, const MeasuredSums& sums) {
  if (!(sums.total > 0)) return kNan;
  return share(sums.values[0], sums.values[0] + sums.values[1]);
}

Status check_threshold(const Json& config) {
  const Json& given = config.at("thresholds");
  const Json& one = given.is_array() && given.size() == 1 ? given[0] : given;
  if (given.is_null() || one.is_number()) return {};
  return usage_error("thresholds " + given.dump() +
                     " are not supported: give one number, and a metric for each");
}

// --- the table ---

template <Formula formula>
MetricType count_type(const char* name, const char* class_name) {
  MetricType type{{name}, class_name, {{"thresholds", KeyKind::any, nullptr}}};
  type.check = check_threshold;
  type.measure = count<formula>;
  type.value = count_value;
  return type;
}

template <Formula others>
MetricType share_type(const char* name, const char* class_name) {
  MetricType type{{name}, class_name, {}, true};
  type.keys = {{"thresholds", KeyKind::any, nullptr},
               {"top_k", KeyKind::any, nullptr},
               {"class_id", KeyKind::any, nullptr}};
  type.measure = two_counts<others>;
  type.value = share_value;
  type.count = [](const Json&, const Shape&) -> int64_t { return 2; };
  type.check = [](const Json& config) -> Status {
    LOCKSTEP_RETURN_IF_ERROR(check_threshold(config));
    return check_top(config);
  };
  return type;
}

}  // namespace

Status check_top(const Json& config) {
  for (const char* key : {"top_k", "class_id"}) {
    const auto found = config.find(key);
    if (found == config.end() || found->is_null()) continue;
    const int64_t least = key == std::string("top_k") ? 1 : 0;
    if (found->is_number_integer() && *found >= least) continue;
    return usage_error(std::string(key) + " " + found->dump() + " must be a whole number of at " +
                       "least " + std::to_string(least));
  }
  return {};
}

std::vector<MetricType> count_metrics() {
  return {
      share_type<false_positive>("precision", "Precision"),
      share_type<false_negative>("recall", "Recall"),
      count_type<true_positive>("true_positives", "TruePositives"),
      count_type<true_negative>("true_negatives", "TrueNegatives"),
      count_type<false_positive>("false_positives", "FalsePositives"),
      count_type<false_negative>("false_negatives", "FalseNegatives"),
  };
}

}  // namespace lockstep
