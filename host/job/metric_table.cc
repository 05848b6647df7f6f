#include "host/job/metric_table.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "host/core/check.h"

namespace lockstep {
namespace {

// The accumulators, in order: what the loss op measures, then the rows.
enum Accumulator : size_t { kLossSum, kCorrect, kMeasured, kRows = kMeasured, kAccumulators };

// How a value that people see comes from the sums of all accumulators.
using MetricValue = std::function<double(std::span<const double> sums)>;

MetricValue mean(Accumulator sum, Accumulator count) {
  return [=](std::span<const double> sums) { return sums[sum] / sums[count]; };
}

struct Metric {
  std::string name;  // Keras'
  MetricValue value;
};

std::vector<Metric> all_metrics() { return {{"accuracy", mean(kCorrect, kRows)}}; }

}  // namespace

std::vector<std::string> metric_names() {
  std::vector<std::string> names;
  for (const Metric& metric : all_metrics()) names.push_back(metric.name);
  return names;
}

MetricTable::MetricTable(const Job& job) : size_(kAccumulators), measured_(kMeasured) {
  add("loss", mean(kLossSum, kRows));
  const std::vector<Metric> known = all_metrics();
  for (const std::string& name : job.metrics) {
    const auto metric = std::find_if(known.begin(), known.end(),
                                     [&](const Metric& one) { return one.name == name; });
    LOCKSTEP_CHECK(metric != known.end());  // a job has no other
    add(name, metric->value);
  }
  LOCKSTEP_CHECK(size_ <= kMaxMetricSums);
}

// A metric that is listed twice is one.
void MetricTable::add(const std::string& name, Value value) {
  if (std::find(names_.begin(), names_.end(), name) != names_.end()) return;
  names_.push_back(name);
  values_.push_back(std::move(value));
}

MetricSums MetricTable::sums(std::span<const float> measured, int64_t rows) const {
  LOCKSTEP_CHECK(static_cast<int64_t>(measured.size()) == measured_);
  MetricSums sums(measured.begin(), measured.end());
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
