// Keras' metrics by name: what the graph sums over rows, and the value that comes from the sums.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "host/core/result.h"
#include "host/nn/layer.h"

namespace lockstep {

struct MetricType {
  std::vector<std::string> names;
  int64_t accumulators = 1;
  // Appends what a row adds to the accumulators, of so many features.
  std::function<Result<SymbolicTensor>(LayerContext& layer, const SymbolicTensor& y_true,
                                       const SymbolicTensor& y_pred)>
      measure;
  // From the sums of its accumulators over so many rows.
  double (*value)(std::span<const double> sums, double rows) = nullptr;
};

// By Keras' name, "accuracy" or a loss's; refuses others with the nearest.
Result<MetricType> metric_type(const std::string& name);
std::vector<std::string> metric_names();

}  // namespace lockstep
