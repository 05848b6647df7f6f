// Where a graph puts what it measures, and the weights that it reads.
#include <fmt/format.h>

#include <algorithm>

#include "host/core/metric_sums.h"
#include "host/nn/loss_functions.h"
#include "host/nn/losses.h"

namespace lockstep {

WeightColumn::Divisor divisor_of(const OutputObjective& output, bool weighted) {
  using Divisor = WeightColumn::Divisor;
  const auto found = find_loss(output.loss);
  const nlohmann::json reduction =
      found.ok() ? found->config.value("reduction", nlohmann::json()) : nlohmann::json();
  if (reduction == "sum") return Divisor::one;
  const bool by_weights = weighted && reduction == "mean_with_sample_weight";
  if (output.masked) return by_weights ? Divisor::weighted_entries : Divisor::entries;
  return by_weights ? Divisor::weights : Divisor::rows;
}

PlacedWeights place_weights(const Objective& objective) {
  PlacedWeights placed;
  placed.outputs.resize(objective.outputs.size());
  const auto add = [&](const WeightColumn& column) {
    placed.columns.push_back(column);
    return static_cast<int>(placed.columns.size()) - 1;
  };
  size_t target = 0, mask = 0;
  for (size_t i = 0; i < objective.outputs.size(); ++i) {
    const OutputObjective& output = objective.outputs[i];
    if (!output.is_asked()) continue;
    const bool has_loss = !output.loss.is_null();
    const auto divisor =
        has_loss ? divisor_of(output, objective.weighted) : WeightColumn::Divisor::rows;
    const bool plain_loss = has_loss && divisor == WeightColumn::Divisor::rows;
    PlacedWeights::Columns& columns = placed.outputs[i];
    if (objective.weighted && (plain_loss || !output.weighted_metrics.empty())) {
      columns.sample = add({target, WeightColumn::Divisor::rows, 0, output.weight_entries});
    }
    if (plain_loss) columns.loss = columns.sample;
    if (has_loss && !plain_loss) {
      columns.loss = add({target, divisor, mask, output.weight_entries});
    }
    ++target;
    if (output.masked) ++mask;
  }
  return placed;
}

bool Objective::is_fused() const {
  return outputs.size() == 1 && outputs[0].loss == kSparseCategoricalCrossentropy &&
         outputs[0].loss_weight == 1 && !weighted && !has_activity_losses && !outputs[0].masked &&
         element_count(outputs[0].target_shape) == 1;
}

bool MetricPlaces::read_targets() const {
  return std::any_of(metrics.begin(), metrics.end(),
                     [](const PlacedMetric& metric) { return !metric.by_loss; });
}

namespace {

std::string name_at(const OutputObjective& output, const std::string& what) {
  return output.name.empty() ? what : output.name + "_" + what;
}

void place_losses(const Objective& objective, MetricPlaces* places) {
  const auto count = std::count_if(objective.outputs.begin(), objective.outputs.end(),
                                   [](const auto& output) { return !output.loss.is_null(); });
  if (count < 2) return;
  for (size_t i = 0; i < objective.outputs.size(); ++i) {
    const OutputObjective& output = objective.outputs[i];
    if (output.loss.is_null()) continue;
    places->losses.push_back({name_at(output, "loss"), i, places->count++});
  }
}

bool is_placed(const MetricPlaces& places, const std::string& name) {
  return std::any_of(places.metrics.begin(), places.metrics.end(),
                     [&](const PlacedMetric& other) { return other.name == name; });
}

// Where the sum stands that a metric is divided by; -1 where that is the rows.
int64_t place_total(const PlacedMetric& metric, MetricPlaces* places) {
  if (!metric.weighted && !metric.masked) return -1;
  for (const PlacedTotal& total : places->totals) {
    const bool same = total.output == metric.output && total.weighted == metric.weighted &&
                      total.masked == metric.masked;
    if (same) return total.offset;
  }
  places->totals.push_back({metric.output, metric.weighted, metric.masked, places->count++});
  return places->totals.back().offset;
}

// Metrics of output number i. A weighted one that is there unweighted has another name in Keras.
Status place_output_metrics(const Objective& objective, size_t i, bool weighted, bool fused,
                            MetricPlaces* places) {
  const OutputObjective& output = objective.outputs[i];
  for (const nlohmann::json& asked : weighted ? output.weighted_metrics : output.metrics) {
    LOCKSTEP_ASSIGN(Metric metric, metric_of(asked));
    std::string name = name_at(output, metric.name);
    if (weighted && is_placed(*places, name)) name = name_at(output, "weighted_" + metric.name);
    if (is_placed(*places, name) && asked.is_string()) continue;  // it is the same
    const std::string first = name;
    for (int again = 1; is_placed(*places, name); ++again) {
      name = fmt::format("{}_{}", first, again);
    }
    const std::string& kind = metric.type.names[0];
    const bool of_classes = kind == "accuracy" || kind == "sparse_categorical_accuracy";
    PlacedMetric placed;
    placed.by_loss = fused && of_classes && metric.type.class_name != "Accuracy";
    placed.weighted = weighted && objective.weighted;
    if (placed.weighted && metric.type.whole_weights) {
      return usage_error(
          fmt::format("metric '{}': Keras cuts its weights to whole numbers; name it among the "
                      "metrics that are "
                      "not weighted",
                      metric.name));
    }
    if (placed.weighted && output.weight_entries > 1 && !metric.type.is_mean) {
      return usage_error(fmt::format(
          "metric '{}' takes one sample weight a row, and a row has {}: name it among the metrics "
          "that are not weighted",
          metric.name, output.weight_entries));
    }
    placed.name = name;
    placed.output = i;
    placed.masked = output.masked && metric.type.is_mean;
    placed.offset = placed.by_loss ? 1 : places->count;
    if (metric.type.count != nullptr) {
      placed.count = metric.type.count(metric.config, output.target_shape);
    }
    if (!placed.by_loss) places->count += placed.count;
    placed.type = std::move(metric.type);
    placed.config = std::move(metric.config);
    places->metrics.push_back(std::move(placed));
  }
  return {};
}

}  // namespace

Result<MetricPlaces> place_metrics(const Objective& objective) {
  MetricPlaces places;
  const bool fused = objective.is_fused();
  places.count = fused ? kMetricCount : 1;
  place_losses(objective, &places);
  for (const bool weighted : {false, true}) {
    for (size_t i = 0; i < objective.outputs.size(); ++i) {
      LOCKSTEP_RETURN_IF_ERROR(place_output_metrics(objective, i, weighted, fused, &places));
    }
  }
  for (PlacedMetric& metric : places.metrics) metric.total_offset = place_total(metric, &places);
  if (places.count >= kMaxMetricSums) {
    return usage_error(fmt::format(
        "the metrics need {} sums, of at most {}: leave some out, or give AUC fewer num_thresholds",
        places.count, kMaxMetricSums - 1));
  }
  if (objective.outputs.size() > 1) {
    std::sort(places.metrics.begin(), places.metrics.end(),
              [](const PlacedMetric& a, const PlacedMetric& b) { return a.name < b.name; });
  }
  return places;
}

}  // namespace lockstep
