// Keras' metrics by name: what the graph sums over rows, and the value that comes from the sums.
#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "host/core/result.h"
#include "host/nn/layer.h"

namespace lockstep {

// The sums of a metric's accumulators, and what they are over.
struct MeasuredSums {
  std::span<const double> values;
  double total = 0;  // rows, or their weights, or the shares of them that count
  double rows = 0;
};

struct MetricType {
  std::vector<std::string> names;  // the first is Keras' default for an object of the class
  std::string class_name;          // "": a name alone, since Keras' class of it is something else
  std::vector<ConfigKey> keys;     // beside name and dtype
  bool rises = false;              // the more the better
  // It is the mean of what `measure` gives for each position of a row; masks count in it.
  bool is_mean = false;
  bool whole_weights = false;  // Keras cuts weights to whole numbers: refused
  // Appends what a row adds to the accumulators, of so many features.
  std::function<Result<SymbolicTensor>(LayerContext& layer, const SymbolicTensor& y_true,
                                       const SymbolicTensor& y_pred)>
      measure;
  double (*value)(const nlohmann::json& config, const MeasuredSums& sums) = nullptr;
  // How many accumulators it has, where it is not one; `target`: of a row.
  int64_t (*count)(const nlohmann::json& config, const Shape& target) = nullptr;
  Status (*check)(const nlohmann::json& config) = nullptr;  // what the keys' kinds do not say
};

// A metric as a recipe holds it: Keras' name ("accuracy", or a loss's), or {"class_name", "config"}
// with every key and "name". Refuses what is not known, with the nearest, or not here.
Result<nlohmann::json> resolve_metric(const nlohmann::json& metric);

struct Metric {
  std::string name;  // of its values
  MetricType type;
  nlohmann::json config;  // resolved
};
// What resolve_metric has resolved, or could.
Result<Metric> metric_of(const nlohmann::json& metric);

}  // namespace lockstep
