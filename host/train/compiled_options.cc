#include <fmt/format.h>

#include "host/keras/weights.h"
#include "host/nn/class_config.h"
#include "host/nn/metrics.h"
#include "host/nn/model_config.h"
#include "host/optim/hyperparameters.h"
#include "host/optim/optimizer.h"
#include "host/train/resolve.h"

namespace lockstep {
namespace {

using Json = nlohmann::json;

// Adds the metrics that compile() was given for an output: names, or objects of classes, in lists.
void collect_metrics(const Json& metrics, Json* names, std::vector<std::string>* notes) {
  const bool is_class = metrics.is_object() && metrics.contains("class_name");
  if (is_class && metrics["class_name"] == "function") {
    collect_metrics(metrics.value("config", Json()), names, notes);  // one of Keras' own
  } else if (metrics.is_string() || is_class) {
    if (metrics == "loss") return;
    const auto metric = resolve_metric(metrics);
    if (metric.ok()) {
      names->push_back(*metric);
    } else {
      notes->push_back(
          fmt::format("a metric of the model's file is left out: {}", metric.error().message));
    }
  } else if (metrics.is_structured()) {
    for (const Json& each : metrics) collect_metrics(each, names, notes);
  }
}

// Of several outputs an entry for each, as compile() was given them.
Json metrics_of(const Json& metrics, size_t outputs, std::vector<std::string>* notes) {
  Json names = Json::array();
  if (outputs < 2) {
    collect_metrics(metrics, &names, notes);
    return names;
  }
  if (metrics.is_null() || metrics.empty()) return Json::object();
  Json entries = metrics;
  for (Json& entry : entries) {
    Json of_output = Json::array();
    collect_metrics(entry, &of_output, notes);
    entry = std::move(of_output);
  }
  return entries;
}

// Keras' own functions go by their names.
Json loss_of(Json loss) {
  if (loss.is_object() && class_name_of(loss) == "function") {
    return loss.value("config", Json());
  }
  if (loss.is_array() || (loss.is_object() && !loss.contains("class_name"))) {
    for (Json& one : loss) one = loss_of(std::move(one));
  }
  return loss;
}

// Callbacks may have set another rate than the optimizer was made with.
Json optimizer_of(const ModelFile& file) {
  Json optimizer = file.compile.value("optimizer", Json());
  if (!optimizer.is_object() || !optimizer.contains("config")) return optimizer;
  const auto made = Optimizer::create(optimizer);
  if (!made.ok()) return optimizer;  // whose error is told where it is used
  const auto rate = stored_learning_rate(file, *made);
  if (!rate.ok() || !*rate) return optimizer;
  if (**rate == made->config().at("learning_rate").get<float>()) return optimizer;
  optimizer["config"]["learning_rate"] = **rate;
  return optimizer;
}

}  // namespace

Json options_of_compile(const ModelFile& file, std::vector<std::string>* notes) {
  Json options = Json::object();
  if (!file.compile.is_object()) return options;
  for (const char* key : {"optimizer", "loss", "loss_weights"}) {
    const Json setting = file.compile.value(key, Json());
    if (!setting.is_null()) options[key] = setting;
  }
  if (options.contains("optimizer")) options["optimizer"] = optimizer_of(file);
  if (options.contains("loss")) options["loss"] = loss_of(options["loss"]);
  for (const char* key : {"metrics", "weighted_metrics"}) {
    options[key] =
        metrics_of(file.compile.value(key, Json()), output_names(file.config).size(), notes);
  }
  return options;
}

Result<Json> compiled_options(const std::string& model, std::vector<std::string>* notes) {
  if (!is_model_path(model)) return Json::object();
  LOCKSTEP_ASSIGN(const ModelFile file, read_model_file(model));
  return options_of_compile(file, notes);
}

}  // namespace lockstep
