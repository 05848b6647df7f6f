// What a job's metrics are made of: which accumulators a step leaves, and how the values that
// people see come from their sums. The only place that knows; the cluster, the wire and the
// checkpoints carry MetricSums as they are.
//
// The first accumulators are measured: the ops of the graph leave them behind the gradients of each
// root (Graph::metric_count of them). The others the host fills in, since it knows them.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "host/core/metric_sums.h"
#include "host/job/job.h"

namespace lockstep {

class MetricTable {
 public:
  explicit MetricTable(const Job& job);

  // All accumulators, and those of them that the graph measures.
  int64_t size() const { return size_; }
  int64_t measured() const { return measured_; }
  // Of a step, or of a partition, of so many rows. `penalty`, of the weights, is added to each
  // row's loss.
  MetricSums sums(std::span<const float> measured, int64_t rows, double penalty = 0) const;

  // Of the values, in Keras' order: "loss", where several outputs have one the loss of each, then
  // the metrics as the job lists them, those of several outputs sorted by name.
  const std::vector<std::string>& names() const { return names_; }
  // Those of them of which more is better.
  const std::vector<std::string>& rising() const { return rising_; }
  // One for each name; NaN where nothing was counted, or these are not sums of such a job.
  std::vector<double> values(std::span<const double> sums) const;
  // Adds each value to the list under its name with `prefix` before it.
  void append(std::span<const double> sums, const std::string& prefix,
              std::map<std::string, std::vector<double>>* history) const;
  // "loss: 0.1360 - accuracy: 0.9587", as Keras writes it; `prefix` stands before each name.
  std::string text(std::span<const double> sums, const std::string& prefix = "") const;

 private:
  using Value = std::function<double(std::span<const double> sums)>;
  void add(const std::string& name, Value value);

  int64_t size_ = 0;
  int64_t measured_ = 0;
  std::vector<std::string> names_;
  std::vector<std::string> rising_;
  std::vector<Value> values_;
};

}  // namespace lockstep
