#include "host/job/metric_table.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "host/core/check.h"
#include "host/job/data_job.h"

namespace lockstep {

// The accumulators, in order: what the graph measures (MetricPlaces), then the rows.
MetricTable::MetricTable(const Job& job) {
  const auto places = place_metrics(objective_of(job));
  LOCKSTEP_CHECK(places.ok());  // a job has no other
  measured_ = places->count;
  size_ = measured_ + 1;
  const auto rows = static_cast<size_t>(measured_);
  add("loss", [=](std::span<const double> sums) { return sums[0] / sums[rows]; });
  for (const PlacedLoss& loss : places->losses) {
    const auto offset = static_cast<size_t>(loss.offset);
    add(loss.name, [=](std::span<const double> sums) { return sums[offset] / sums[rows]; });
  }
  for (const PlacedMetric& metric : places->metrics) {
    const auto offset = static_cast<size_t>(metric.offset);
    const auto count = static_cast<size_t>(metric.count);
    const bool of_rows = metric.total_offset < 0;
    const auto total = of_rows ? rows : static_cast<size_t>(metric.total_offset);
    if (metric.type.rises) rising_.push_back(metric.name);
    add(metric.name,
        [=, value = metric.type.value, config = metric.config](std::span<const double> sums) {
          if (!of_rows && sums[total] == 0 && sums[rows] > 0) return 0.0;  // Keras' divide_no_nan
          return value(config, {sums.subspan(offset, count), sums[total], sums[rows]});
        });
  }
  LOCKSTEP_CHECK(size_ <= kMaxMetricSums);
}

void MetricTable::add(const std::string& name, Value value) {
  names_.push_back(name);
  values_.push_back(std::move(value));
}

MetricSums MetricTable::sums(std::span<const float> measured, int64_t rows, double penalty) const {
  LOCKSTEP_CHECK(static_cast<int64_t>(measured.size()) == measured_);
  MetricSums sums(measured.begin(), measured.end());
  sums[0] += penalty * static_cast<double>(rows);
  sums.push_back(static_cast<double>(rows));
  return sums;
}

std::vector<double> MetricTable::values(std::span<const double> sums) const {
  std::vector<double> result(names_.size(), std::numeric_limits<double>::quiet_NaN());
  if (static_cast<int64_t>(sums.size()) != size_) return result;
  std::transform(values_.begin(), values_.end(), result.begin(),
                 [&](const Value& value) { return value(sums); });
  return result;
}

void MetricTable::append(std::span<const double> sums, const std::string& prefix,
                         std::map<std::string, std::vector<double>>* history) const {
  const std::vector<double> numbers = values(sums);
  for (size_t i = 0; i < names_.size(); ++i) (*history)[prefix + names_[i]].push_back(numbers[i]);
}

std::string MetricTable::text(std::span<const double> sums, const std::string& prefix) const {
  const std::vector<double> numbers = values(sums);
  std::string text;
  for (size_t i = 0; i < names_.size(); ++i) {
    text += fmt::format("{}{}{}: {:.4f}", i == 0 ? "" : " - ", prefix, names_[i], numbers[i]);
  }
  return text;
}

}  // namespace lockstep
