#include "host/job/data_job.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include "host/job/mask_counter.h"
#include "host/job/options.h"
#include "host/nn/regularizers.h"

namespace lockstep {
namespace {

Error bad_class_weight(const std::string& what) {
  return usage_error(fmt::format(
      "--class-weight: {}; give classes and their weights, as in '{{\"0\": 1.0, \"1\": 3.5}}'",
      what));
}

Result<std::map<int64_t, double>> class_weights_from(const nlohmann::json& json) {
  std::map<int64_t, double> weights;
  if (!json.is_object()) return bad_class_weight(json.dump() + " is no JSON object");
  for (const auto& [key, value] : json.items()) {
    int64_t label = -1;
    const char* end = key.data() + key.size();
    const auto parsed = std::from_chars(key.data(), end, label);
    if (parsed.ec != std::errc() || parsed.ptr != end || label < 0 || label > INT32_MAX) {
      return bad_class_weight(fmt::format("'{}' is no class", key));
    }
    const double weight = value.is_number() ? value.get<double>() : -1;
    if (!(weight >= 0 && std::isfinite(static_cast<float>(weight)))) {
      return bad_class_weight(
          fmt::format("class {} has the weight {}, not a number of at least 0", key, value.dump()));
    }
    weights[label] = weight;
  }
  return weights;
}

LoaderOptions loader_options(const Job& job, RowRange rows, bool shuffle) {
  LoaderOptions options{rows, job.batch_size, job.partitions, job.seed, shuffle};
  options.targets = reads_targets(job);
  options.weights = place_weights(objective_of(job)).columns;
  const bool masked = std::any_of(options.weights.begin(), options.weights.end(),
                                  [](const WeightColumn& one) { return one.reads_mask(); });
  if (masked) options.count_masks = mask_counter(job);
  return options;
}

}  // namespace

Status read_data_options(const nlohmann::json& json, Job* job) {
  const nlohmann::json none;
  const auto& target = json.contains("target") ? json.at("target") : none;
  for (const nlohmann::json& name : target) {
    if (!name.is_string()) {
      return usage_error(
          fmt::format("--target: {} are no names; give names of columns or arrays, with commas",
                      target.dump()));
    }
    job->target.push_back(name);
  }
  const auto& missing = json.contains("missing") ? json.at("missing") : none;
  if (!missing.is_null()) job->missing = missing.get<double>();
  job->validation_steps = json.value("validation_steps", int64_t{0});
  if (job->validation_steps < 0 || job->validation_steps > kMaxSteps) {
    return usage_error(fmt::format("--validation-steps {}: must be between 0 and {}",
                                   job->validation_steps, kMaxSteps));
  }
  const auto& weights = json.contains("class_weight") ? json.at("class_weight") : none;
  if (weights.is_null()) return {};
  LOCKSTEP_ASSIGN(job->class_weight, class_weights_from(weights));
  return {};
}

nlohmann::json data_options_json(const Job& job) {
  nlohmann::json json = nlohmann::json::object();
  if (!job.target.empty()) json["target"] = job.target;
  if (job.missing) json["missing"] = *job.missing;
  if (job.validation_steps > 0) json["validation_steps"] = job.validation_steps;
  for (const auto& [label, weight] : job.class_weight) {
    json["class_weight"][std::to_string(label)] = weight;
  }
  return json;
}

DataOptions data_options(const Job& job) {
  DataOptions options;
  options.inputs = job.inputs;
  options.targets = job.target;
  if (options.targets.empty()) options.targets = target_names(job);
  options.missing = job.missing;
  return options;
}

Objective objective_of(const Job& job) {
  Objective objective;
  objective.outputs = job.outputs;
  objective.weighted = job.weighted;
  objective.has_activity_losses = has_activity_losses(job.model_config);
  return objective;
}

bool reads_classes(const OutputObjective& output) {
  return !output.loss.is_null() && element_count(output.target_shape) == 1 &&
         is_sparse_loss(output.loss);
}

std::vector<OutputObjective*> asked_outputs(Job* job) {
  std::vector<OutputObjective*> asked;
  for (OutputObjective& output : job->outputs) {
    if (output.is_asked()) asked.push_back(&output);
  }
  return asked;
}

std::vector<const OutputObjective*> asked_outputs(const Job& job) {
  std::vector<const OutputObjective*> asked;
  for (const OutputObjective& output : job.outputs) {
    if (output.is_asked()) asked.push_back(&output);
  }
  return asked;
}

std::vector<std::string> target_names(const Job& job) {
  std::vector<std::string> names;
  if (job.outputs.size() == 1) return names;
  for (const OutputObjective* output : asked_outputs(job)) names.push_back(output->name);
  return names;
}

bool reads_targets(const Job& job) {
  const Objective objective = objective_of(job);
  const auto places = place_metrics(objective);
  return !objective.is_fused() || !places.ok() || places->read_targets();
}

LoaderOptions training_loader(const Job& job, RowRange rows) {
  LoaderOptions options = loader_options(job, rows, job.shuffle);
  for (const auto& [label, weight] : job.class_weight) {
    options.class_weights[label] = static_cast<float>(weight);
  }
  return options;
}

LoaderOptions measuring_loader(const Job& job, RowRange rows) {
  return loader_options(job, rows, false);
}

RowRange validated_rows(const Job& job, RowRange rows) {
  if (job.validation_steps == 0) return rows;
  const int64_t most = std::min(rows.size(), job.validation_steps * job.batch_size);
  return {rows.begin, rows.begin + most};
}

}  // namespace lockstep
