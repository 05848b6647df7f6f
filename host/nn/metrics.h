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

struct MetricType {
  std::vector<std::string> names;  // the first is Keras' default for an object of the class
  std::string class_name;          // "": a name alone, since Keras' class of it is something else
  std::vector<ConfigKey> keys;     // beside name and dtype
  bool rises = false;              // the more the better
  int64_t accumulators = 1;
  // It is the mean of what `measure` gives for each position of a row; masks count in it.
  bool is_mean = false;
  // Appends what a row adds to the accumulators, of so many features.
  std::function<Result<SymbolicTensor>(LayerContext& layer, const SymbolicTensor& y_true,
                                       const SymbolicTensor& y_pred)>
      measure;
  // From the sums of its accumulators over so many rows, or so much weight.
  double (*value)(std::span<const double> sums, double total) = nullptr;
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
