#include <fmt/format.h>

#include "host/nn/metrics.h"
#include "host/optim/hyperparameters.h"
#include "host/train/resolve.h"

namespace lockstep {
namespace {

using Json = nlohmann::json;

// "mean_squared_error" of "MeanSquaredError"; the class itself where there is no such metric.
std::string name_of_class(const std::string& class_name) {
  for (const std::string& name : metric_names()) {
    std::string letters = name;
    std::erase(letters, '_');
    if (letters == lower_case(class_name)) return name;
  }
  return class_name;
}

// Metrics that compile() was given: names, or objects of classes, in lists or under the names of
// outputs.
void collect_metrics(const Json& metrics, std::vector<std::string>* names,
                     std::vector<std::string>* notes) {
  if (metrics.is_string()) {
    names->push_back(metrics);
  } else if (metrics.is_object() && metrics.contains("class_name")) {
    const std::string class_name = metrics.value("class_name", "");
    names->push_back(name_of_class(class_name));
    notes->push_back(
        fmt::format("metric {} of the model's file is measured with its defaults", class_name));
  } else if (metrics.is_structured()) {
    for (const Json& each : metrics) collect_metrics(each, names, notes);
  }
}

}  // namespace

Result<Json> compiled_options(const std::string& model, std::vector<std::string>* notes) {
  Json options = Json::object();
  if (!is_model_path(model)) return options;
  LOCKSTEP_ASSIGN(const ModelFile file, read_model_file(model));
  if (!file.compile.is_object()) return options;
  const Json none;
  const auto setting = [&](const char* key) -> const Json& {
    const auto found = file.compile.find(key);
    return found == file.compile.end() ? none : *found;
  };
  if (!setting("optimizer").is_null()) options["optimizer"] = setting("optimizer");
  Json loss = setting("loss");
  if (loss.is_array() && loss.size() == 1) loss = Json(loss[0]);
  if (!loss.is_null()) options["loss"] = loss;
  for (const char* key : {"loss_weights", "weighted_metrics"}) {
    if (setting(key).is_null() || setting(key).empty()) continue;
    notes->push_back(fmt::format("{} of the model's file are not used", key));
  }
  std::vector<std::string> named;
  collect_metrics(setting("metrics"), &named, notes);
  std::vector<std::string> metrics;
  for (const std::string& name : named) {
    if (name == "loss") continue;
    if (metric_type(name).ok()) {
      metrics.push_back(name);
    } else {
      notes->push_back(fmt::format("metric '{}' of the model's file is not supported", name));
    }
  }
  options["metrics"] = metrics;
  return options;
}

}  // namespace lockstep
