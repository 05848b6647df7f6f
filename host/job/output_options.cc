#include "host/job/output_options.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "host/core/suggest.h"

namespace lockstep {
namespace {

using Json = nlohmann::json;
using Names = std::vector<std::string>;

// Keras' object of a class, and not an entry for each output by name.
bool is_class(const Json& value) { return value.is_object() && value.contains("class_name"); }

std::string flag_of(const char* key) {
  std::string flag = std::string("--") + key;
  std::replace(flag.begin() + 2, flag.end(), '_', '-');
  return flag;
}

// The entry for each output, null where it has none. `names` has one for each output; that of an
// only one may be "".
Result<std::vector<Json>> entries_of(const char* key, const Json& value, const Names& names) {
  std::vector<Json> entries(names.size());
  if (value.is_array()) {
    if (value.size() != names.size()) {
      return usage_error(
          fmt::format("{}: {} entries for the model's {} outputs ({}): give one each", flag_of(key),
                      value.size(), names.size(), fmt::join(names, ", ")));
    }
    std::copy(value.begin(), value.end(), entries.begin());
    return entries;
  }
  for (const auto& [name, entry] : value.items()) {
    const auto at = std::find(names.begin(), names.end(), name) - names.begin();
    if (at == std::ssize(names)) {
      return usage_error(
          fmt::format("{}: {}", flag_of(key), unknown_name_message("output", name, names)));
    }
    entries[static_cast<size_t>(at)] = entry;
  }
  return entries;
}

Status read_losses(const Json& value, const Names& names, std::vector<OutputObjective>* outputs) {
  std::vector<Json> losses(names.size(), value);  // one alone is that of every output
  if (value.is_array() || (value.is_object() && !is_class(value))) {
    LOCKSTEP_ASSIGN(losses, entries_of("loss", value, names));
  }
  bool any = false;
  for (size_t i = 0; i < names.size(); ++i) {
    if (losses[i].is_null()) continue;
    LOCKSTEP_ASSIGN((*outputs)[i].loss, resolve_loss(losses[i]));
    any = true;
  }
  if (any) return {};
  return usage_error("--loss: no output has one; name what is to be minimized");
}

Status read_loss_weights(const Json& value, const Names& names,
                         std::vector<OutputObjective>* outputs) {
  if (value.is_null()) return {};
  if (value.is_number() && names.size() > 1) {
    return usage_error(fmt::format("--loss-weights {}: the model has {} outputs ({}): give a list",
                                   value.dump(), names.size(), fmt::join(names, ", ")));
  }
  const bool alone = !value.is_array() && !value.is_object();
  LOCKSTEP_ASSIGN(const auto weights,
                  entries_of("loss_weights", alone ? Json::array({value}) : value, names));
  for (size_t i = 0; i < names.size(); ++i) {
    if (weights[i].is_null()) continue;
    if (!weights[i].is_number() || !std::isfinite(weights[i].get<double>())) {
      return usage_error(fmt::format("--loss-weights: {} is no number", weights[i].dump()));
    }
    (*outputs)[i].loss_weight = weights[i];
  }
  return {};
}

// "accuracy,mae", or a list of names and objects, or one object.
Result<std::vector<Json>> metric_list(const Json& value) {
  std::vector<Json> metrics;
  if (value.is_null()) return metrics;
  if (value.is_string()) {
    const std::string text = value;
    for (size_t begin = 0; begin <= text.size();) {
      const size_t end = std::min(text.find(',', begin), text.size());
      if (end > begin) metrics.push_back(text.substr(begin, end - begin));
      begin = end + 1;
    }
  } else if (is_class(value)) {
    metrics.push_back(value);
  } else {
    metrics.assign(value.begin(), value.end());
  }
  for (Json& metric : metrics) {
    LOCKSTEP_ASSIGN(metric, resolve_metric(metric));
  }
  return metrics;
}

using MetricNames = std::vector<Json> OutputObjective::*;

Status read_metrics(const char* key, const Json& value, const Names& names, MetricNames to,
                    std::vector<OutputObjective>* outputs) {
  const bool of_outputs =
      (value.is_object() && !is_class(value)) || (value.is_array() && names.size() > 1);
  if (!of_outputs && names.size() > 1) {
    return usage_error(
        fmt::format("{} {}: the model has several outputs: say of which, as in "
                    "'{{\"{}\": [\"{}\"]}}'",
                    flag_of(key), value.is_string() ? value.get<std::string>() : value.dump(),
                    names[0], value.is_string() ? value.get<std::string>() : "accuracy"));
  }
  std::vector<Json> entries = {value};
  if (of_outputs) {
    LOCKSTEP_ASSIGN(entries, entries_of(key, value, names));
  }
  for (size_t i = 0; i < names.size(); ++i) {
    LOCKSTEP_ASSIGN((*outputs)[i].*to, metric_list(entries[i]));
  }
  return {};
}

}  // namespace

Result<std::vector<OutputObjective>> output_objectives(const Json& options, const Names& asked) {
  const Names names = asked.empty() ? Names{""} : asked;
  if (std::set<std::string>(names.begin(), names.end()).size() != names.size()) {
    return usage_error(
        fmt::format("two outputs of the model have one name ({}): let them come from "
                    "layers of their own",
                    fmt::join(names, ", ")));
  }
  std::vector<OutputObjective> outputs(names.size());
  if (names.size() > 1) {
    for (size_t i = 0; i < names.size(); ++i) outputs[i].name = names[i];
  }
  LOCKSTEP_RETURN_IF_ERROR(read_losses(options.value("loss", Json()), names, &outputs));
  LOCKSTEP_RETURN_IF_ERROR(
      read_loss_weights(options.value("loss_weights", Json()), names, &outputs));
  Json metrics = options.value("metrics", Json());
  if (metrics.is_null() && names.size() == 1) metrics = "accuracy";
  const Json weighted = options.value("weighted_metrics", Json());
  using Output = OutputObjective;
  if (!metrics.is_null()) {
    LOCKSTEP_RETURN_IF_ERROR(read_metrics("metrics", metrics, names, &Output::metrics, &outputs));
  }
  if (!weighted.is_null()) {
    LOCKSTEP_RETURN_IF_ERROR(
        read_metrics("weighted_metrics", weighted, names, &Output::weighted_metrics, &outputs));
  }
  return outputs;
}

Json losses_json(const std::vector<OutputObjective>& outputs) {
  if (outputs.size() == 1) return outputs[0].loss;
  Json losses = Json::array();
  for (const OutputObjective& output : outputs) losses.push_back(output.loss);
  return losses;
}

namespace {

Json lists_json(const std::vector<OutputObjective>& outputs, MetricNames metrics) {
  if (outputs.size() == 1) return outputs[0].*metrics;
  Json lists = Json::array();
  for (const OutputObjective& output : outputs) lists.push_back(output.*metrics);
  return lists;
}

}  // namespace

Json metrics_json(const std::vector<OutputObjective>& outputs) {
  return lists_json(outputs, &OutputObjective::metrics);
}

Json weighted_metrics_json(const std::vector<OutputObjective>& outputs) {
  const bool none = std::all_of(outputs.begin(), outputs.end(),
                                [](const auto& output) { return output.weighted_metrics.empty(); });
  if (none) return nullptr;
  return lists_json(outputs, &OutputObjective::weighted_metrics);
}

Json loss_weights_json(const std::vector<OutputObjective>& outputs) {
  const bool plain = std::all_of(outputs.begin(), outputs.end(),
                                 [](const auto& output) { return output.loss_weight == 1; });
  if (plain) return nullptr;
  Json weights = Json::array();
  for (const OutputObjective& output : outputs) weights.push_back(output.loss_weight);
  return weights;
}

}  // namespace lockstep
