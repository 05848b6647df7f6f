#include "host/nn/metrics.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "host/core/suggest.h"
#include "host/nn/class_config.h"
#include "host/nn/metric_types.h"

namespace lockstep {
namespace {

// Keras' classes of metrics that are not here.
struct RefusedMetric {
  const char* class_name;
  const char* name;
  const char* reason;
};
constexpr const char* kNoTargets =
    "it is of values, and knows no targets: name what is to be measured of the outputs";
constexpr const char* kClasses = "it counts classes by classes, which is not supported yet";
constexpr RefusedMetric kRefusedMetrics[] = {
    {"Mean", "mean", kNoTargets},
    {"Sum", "sum", kNoTargets},
    {"Metric", "metric", "it is the class that all metrics are made from"},
    {"MeanMetricWrapper", "mean_metric_wrapper", "it runs a function, and no code of a file runs"},
    {"IoU", "io_u", kClasses},
    {"MeanIoU", "mean_io_u", kClasses},
    {"OneHotIoU", "one_hot_io_u", kClasses},
    {"OneHotMeanIoU", "one_hot_mean_io_u", kClasses},
};

std::vector<MetricType> metric_types() {
  std::vector<MetricType> types = mean_metrics();
  for (auto* more : {count_metrics, curve_metrics, score_metrics}) {
    for (MetricType& type : more()) types.push_back(std::move(type));
  }
  return types;
}

// By one of its names, or its class.
Result<MetricType> metric_type(const std::string& name, bool is_class) {
  for (const RefusedMetric& refused : kRefusedMetrics) {
    if (name != (is_class ? refused.class_name : refused.name)) continue;
    return usage_error(fmt::format("metric '{}' cannot be used: {}", name, refused.reason));
  }
  std::vector<std::string> known;
  for (MetricType& type : metric_types()) {
    const auto& names = type.names;
    const bool found = is_class ? type.class_name == name
                                : std::find(names.begin(), names.end(), name) != names.end();
    if (found) return std::move(type);
    if (!is_class || !type.class_name.empty())
      known.push_back(is_class ? type.class_name : names[0]);
  }
  return usage_error(unknown_name_message("metric", name, known));
}

// Keys that are here for one value alone.
Status check_config(const nlohmann::json& config) {
  const std::pair<const char*, nlohmann::json> only[] = {{"ignore_class", nullptr}, {"axis", -1}};
  for (const auto& [key, value] : only) {
    const auto found = config.find(key);
    if (found == config.end() || *found == value) continue;
    return usage_error(
        fmt::format("{} {} is not supported, only {}", key, found->dump(), value.dump()));
  }
  return {};
}

// The config with every key, checked.
Result<nlohmann::json> resolve_metric_config(const std::string& name, const MetricType& type,
                                             const nlohmann::json& given) {
  const std::string owner = fmt::format("metric {}", name);
  LOCKSTEP_ASSIGN(const nlohmann::json config, resolve_keys(owner, type.keys, given));
  Status status = check_config(config);
  if (status.ok() && type.check != nullptr) status = type.check(config);
  if (!status.ok()) return usage_error(fmt::format("{}: {}", owner, status.error().message));
  return config;
}

}  // namespace

double number_or(const nlohmann::json& config, const char* key, double value) {
  const auto found = config.find(key);
  if (found == config.end() || found->is_null()) return value;
  return found->is_array() ? found->at(0).get<double>() : found->get<double>();
}

double number_or(const LayerContext& layer, const char* key, double value) {
  return number_or(layer.config(), key, value);
}

SymbolicTensor side_by_side(LayerContext& layer, const Tensors& parts) {
  int64_t features = 0;
  for (const SymbolicTensor& part : parts) features += part.features();
  std::vector<int64_t> index(static_cast<size_t>(features));
  for (size_t i = 0; i < index.size(); ++i) index[i] = static_cast<int64_t>(i);
  return layer.pick("side_by_side", index, parts, {features});
}

Result<LossInputs> flat_inputs(const std::string& what, const SymbolicTensor& y_true,
                               const SymbolicTensor& y_pred) {
  LOCKSTEP_ASSIGN(LossInputs in, loss_inputs(what, false, y_true, y_pred));
  if (in.y_pred.shape[0] == 1) return in;
  return usage_error(fmt::format("{} expects outputs of one axis, and they have the shape {}", what,
                                 to_string(y_pred.shape)));
}

Result<Metric> metric_of(const nlohmann::json& metric) {
  Metric found;
  if (metric.is_string()) {
    found.name = metric;
    LOCKSTEP_ASSIGN(found.type, metric_type(found.name, false));
    LOCKSTEP_ASSIGN(found.config,
                    resolve_metric_config(found.name, found.type, nlohmann::json::object()));
    return found;
  }
  if (!metric.is_object() || !metric.contains("class_name") || !metric["class_name"].is_string()) {
    return usage_error(
        fmt::format("metric {}: give a name, or {{\"class_name\": "
                    "\"BinaryAccuracy\", \"config\": {{\"threshold\": 0.7}}}}",
                    metric.dump()));
  }
  const std::string class_name = metric["class_name"];
  LOCKSTEP_RETURN_IF_ERROR(check_is_keras("metric " + class_name, metric));
  LOCKSTEP_ASSIGN(found.type, metric_type(class_name, true));
  const nlohmann::json given = metric.value("config", nlohmann::json::object());
  LOCKSTEP_ASSIGN(found.config, resolve_metric_config(class_name, found.type, given));
  const auto name = given.value("name", nlohmann::json());
  found.name = name.is_string() ? name.get<std::string>() : found.type.names[0];
  return found;
}

Result<nlohmann::json> resolve_metric(const nlohmann::json& metric) {
  LOCKSTEP_ASSIGN(Metric found, metric_of(metric));
  if (metric.is_string()) return metric;
  found.config["name"] = found.name;
  return nlohmann::json{{"class_name", found.type.class_name}, {"config", found.config}};
}

}  // namespace lockstep
