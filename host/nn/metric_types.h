// The rows of the table of metrics, and what their files share.
#pragma once

#include <limits>
#include <string>
#include <vector>

#include "host/nn/loss_functions.h"
#include "host/nn/metrics.h"

namespace lockstep {

std::vector<MetricType> mean_metrics();   // means of what a position gives: accuracies, losses
std::vector<MetricType> count_metrics();  // of entries that are true and predicted, or not
std::vector<MetricType> curve_metrics();  // of those counts at many thresholds
std::vector<MetricType> score_metrics();  // of sums by class, or by output

inline constexpr double kDefaultThreshold = 0.5;
inline constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

// Of the metric's config, where it has the key and a value; of a list its only entry.
double number_or(const LayerContext& layer, const char* key, double value);
double number_or(const nlohmann::json& config, const char* key, double value);

// An expression over two tensors of whole rows.
template <class Formula>
SymbolicTensor map_two(LayerContext& layer, const std::string& what, const SymbolicTensor& a,
                       const SymbolicTensor& b, const Formula& formula) {
  ExpressionBuilder e;
  return map_positions(layer, what, e.finish({formula(e, e.operand(0), e.operand(1))}), {a, b});
}

template <class Formula>
SymbolicTensor map_each(LayerContext& layer, const std::string& what, const SymbolicTensor& x,
                        const Formula& formula) {
  ExpressionBuilder e;
  return map_positions(layer, what, e.finish({formula(e, e.operand(0))}), {x});
}

// Truth, as 1 and 0, and prediction of the entries that the config's top_k and class_id leave, {n,
// c}.
Result<LossInputs> counted_entries(LayerContext& layer, const SymbolicTensor& y_true,
                                   const SymbolicTensor& y_pred);
Status check_top(const nlohmann::json& config);  // those two keys

// Keras' divide_no_nan.
inline double share(double part, double whole) { return whole == 0 ? 0 : part / whole; }

// Tensors of a row end to end.
SymbolicTensor side_by_side(LayerContext& layer, const Tensors& parts);
// Both as {1, c}: a row of one axis. An error that names `what` where they are not.
Result<LossInputs> flat_inputs(const std::string& what, const SymbolicTensor& y_true,
                               const SymbolicTensor& y_pred);

}  // namespace lockstep
