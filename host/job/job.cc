#include "host/job/job.h"

#include <fmt/format.h>

#include <algorithm>

#include "host/core/digest.h"
#include "host/core/partitions.h"
#include "host/core/suggest.h"
#include "host/job/data_job.h"
#include "host/job/fit_job.h"
#include "host/job/options.h"
#include "host/job/output_options.h"
#include "host/nn/class_config.h"
#include "host/nn/losses.h"
#include "host/optim/optimizer.h"

namespace lockstep {
namespace {

constexpr int64_t kMaxBatchSize = 1 << 20;

Status check_known(const char* what, const std::string& name,
                   const std::vector<std::string>& known) {
  if (std::find(known.begin(), known.end(), name) != known.end()) return {};
  return usage_error(unknown_name_message(what, name, known));
}

Status check_partitions(const Job& job) {
  const int nearest = default_partitions(job.batch_size);
  if (!is_power_of_two(job.partitions)) {
    return usage_error(
        fmt::format("--partitions {}: must be a power of two; this batch size's default is {}",
                    job.partitions, nearest));
  }
  if (job.partitions > job.batch_size) {
    return usage_error(fmt::format(
        "--partitions {}: more partitions than rows in a batch of {}; at most one a row: use {} or "
        "a larger --batch-size",
        job.partitions, job.batch_size, nearest));
  }
  return {};
}

// An optimizer and its schedule may be of classes of others, called as Keras' own.
Status check_optimizer_is_keras(const nlohmann::json& optimizer) {
  if (!optimizer.is_object()) return {};
  LOCKSTEP_RETURN_IF_ERROR(check_is_keras("optimizer " + class_name_of(optimizer), optimizer));
  const nlohmann::json config = optimizer.value("config", nlohmann::json());
  for (const nlohmann::json* keys : {&optimizer, &config}) {
    const auto rate = keys->find("learning_rate");
    if (!keys->is_object() || rate == keys->end() || !rate->is_object()) continue;
    LOCKSTEP_RETURN_IF_ERROR(check_is_keras("schedule " + class_name_of(*rate), *rate));
  }
  return {};
}

Result<nlohmann::json> resolve_optimizer(const nlohmann::json& options) {
  nlohmann::json config = options.at("optimizer");
  LOCKSTEP_RETURN_IF_ERROR(check_optimizer_is_keras(config));
  if (config.is_string()) config = nlohmann::json{{"name", config}};
  const auto learning_rate = options.find("learning_rate");
  if (learning_rate != options.end() && !learning_rate->is_null()) {
    config["learning_rate"] = *learning_rate;
  }
  auto optimizer = Optimizer::create(config);
  if (!optimizer.ok()) return usage_error(optimizer.error().message);
  return optimizer->config();
}

Status check_values(const Job& job) {
  LOCKSTEP_RETURN_IF_ERROR(check_range("--batch-size", job.batch_size, 1, kMaxBatchSize));
  LOCKSTEP_RETURN_IF_ERROR(check_partitions(job));
  LOCKSTEP_RETURN_IF_ERROR(check_known("strategy", job.strategy, {"synchronous"}));
  LOCKSTEP_RETURN_IF_ERROR(check_known(
      "numerics", job.numerics, {"cpu-avx2", "cpu-avx512", "cuda-fp32", "cuda-tf32", "cuda-bf16"}));
  if (!job.exact && !job.numerics.starts_with("cuda-")) {
    return usage_error(
        fmt::format("--exact off: only sums between the GPUs of a node can be given up; numerics "
                    "{} are always exact: leave it out, or use --numerics cuda-fp32",
                    job.numerics));
  }
  if (!(job.validation_split >= 0 && job.validation_split < 1)) {
    return usage_error(
        fmt::format("--validation-split {}: must be at least 0 and below 1", job.validation_split));
  }
  if (job.validation_split > 0 && !job.validation_data.empty()) {
    return usage_error("--validation-split and --validation-data exclude each other: give one");
  }
  return {};
}

// What the recipe says of the outputs beside losses and metrics.
nlohmann::json outputs_json(const Job& job) {
  nlohmann::json json = nlohmann::json::object();
  const auto weights = loss_weights_json(job.outputs);
  if (!weights.is_null()) json["loss_weights"] = weights;
  std::vector<bool> masked;
  for (const OutputObjective& output : job.outputs) masked.push_back(output.masked);
  if (std::count(masked.begin(), masked.end(), true) > 0) json["masked"] = masked;
  std::vector<int64_t> entries;
  for (const OutputObjective& output : job.outputs) entries.push_back(output.weight_entries);
  if (*std::max_element(entries.begin(), entries.end()) > 1) json["weight_entries"] = entries;
  const auto weighted = weighted_metrics_json(job.outputs);
  if (!weighted.is_null()) json["weighted_metrics"] = weighted;
  if (job.outputs.size() == 1) {
    if (reads_targets(job)) json["target_shape"] = job.outputs[0].target_shape;
    return json;
  }
  for (const OutputObjective& output : job.outputs) {
    json["outputs"].push_back(output.name);
    json["target_shape"].push_back(output.target_shape);
  }
  return json;
}

void read_outputs(const nlohmann::json& json, Job* job) {
  const auto masked = json.find("masked");
  for (size_t i = 0; masked != json.end() && i < job->outputs.size(); ++i) {
    job->outputs[i].masked = masked->at(i);
  }
  const auto entries = json.find("weight_entries");
  for (size_t i = 0; entries != json.end() && i < job->outputs.size(); ++i) {
    job->outputs[i].weight_entries = entries->at(i);
  }
  const auto shapes = json.find("target_shape");
  if (shapes == json.end()) return;
  if (job->outputs.size() == 1) {
    job->outputs[0].target_shape = shapes->get<Shape>();
    return;
  }
  for (size_t i = 0; i < job->outputs.size(); ++i) {
    job->outputs[i].target_shape = shapes->at(i).get<Shape>();
  }
}

}  // namespace

Job::BatchPlace Job::place_of_step(int64_t step) const {
  const int64_t of_all = step + initial_epoch * steps_per_epoch();
  return {of_all / batches_per_pass(), of_all % batches_per_pass()};
}

int64_t Job::rows_of_step(int64_t step) const {
  return std::min(batch_size, train_rows - place_of_step(step).batch * batch_size);
}

int64_t Job::rows_before(int64_t step) const {
  const auto of_all = [this](const BatchPlace& place) {
    return place.pass * train_rows + place.batch * batch_size;
  };
  return of_all(place_of_step(step)) - of_all(place_of_step(0));
}

bool Job::validates(int64_t epoch) const {
  const int64_t number = initial_epoch + epoch + 1;
  if (validation_freq.size() == 1) return number % validation_freq[0] == 0;
  return std::find(validation_freq.begin(), validation_freq.end(), number) != validation_freq.end();
}

int default_partitions(int64_t batch_size, int64_t least_rows) {
  int partitions = 1;
  while (partitions < 16 && partitions * 2 * least_rows <= batch_size) partitions *= 2;
  return partitions;
}

Result<Job> job_from_options(const nlohmann::json& options,
                             const std::vector<std::string>& outputs) {
  for (const char* key : {"model", "data"}) {
    if (!options.contains(key) || options.at(key).is_null() || options.at(key) == "") {
      return usage_error(fmt::format("--{} is missing: say which {} to train", key,
                                     key == std::string("model") ? "model" : "data set"));
    }
  }
  Job job;
  job.model = options.at("model");
  job.data = options.at("data");
  LOCKSTEP_RETURN_IF_ERROR(read_data_options(options, &job));
  job.batch_size = options.at("batch_size");
  LOCKSTEP_ASSIGN(job.outputs, output_objectives(options, outputs));
  job.validation_split = options.at("validation_split");
  job.validation_data = options.at("validation_data");
  job.shuffle = options.at("shuffle");
  if (options.at("seed").get<int64_t>() < 0) return usage_error("--seed: must not be negative");
  job.seed = options.at("seed");
  const int64_t partitions = options.at("partitions");
  LOCKSTEP_RETURN_IF_ERROR(check_range("--partitions", partitions, 0, kMaxBatchSize));
  job.partitions =
      partitions == 0 ? default_partitions(job.batch_size) : static_cast<int>(partitions);
  job.strategy = options.at("strategy");
  job.numerics = options.at("numerics");
  if (job.numerics == "auto") job.numerics = "cpu-avx2";  // what every node can run
  LOCKSTEP_RETURN_IF_ERROR(check_known("exact", options.at("exact"), {"off", "on"}));
  job.exact = options.at("exact") == "on";
  LOCKSTEP_RETURN_IF_ERROR(check_values(job));
  LOCKSTEP_ASSIGN(job.optimizer, resolve_optimizer(options));
  LOCKSTEP_RETURN_IF_ERROR(read_fit_options(options, &job));
  LOCKSTEP_RETURN_IF_ERROR(job_callbacks(job));
  return job;
}

nlohmann::json to_json(const Job& job) {
  nlohmann::json json = recipe(job);
  json["model"] = job.model;
  if (!job.callbacks.empty()) json["callbacks"] = job.callbacks;
  json["data"] = job.data;
  json["validation_data"] = job.validation_data;
  json["recipe_sha256"] = recipe_sha256(job);
  return json;
}

Result<Job> job_from_json(const nlohmann::json& json) try {
  Job job;
  job.model = json.at("model");
  job.data = json.at("data");
  LOCKSTEP_RETURN_IF_ERROR(read_data_options(json, &job));
  LOCKSTEP_RETURN_IF_ERROR(read_fit_options(json, &job));
  job.batch_size = json.at("batch_size");
  job.optimizer = json.at("optimizer");
  LOCKSTEP_ASSIGN(job.outputs,
                  output_objectives(json, json.value("outputs", std::vector<std::string>{})));
  read_outputs(json, &job);
  job.validation_split = json.at("validation_split");
  job.validation_data = json.at("validation_data");
  job.shuffle = json.at("shuffle");
  job.seed = json.at("seed");
  job.partitions = json.at("partitions");
  job.strategy = json.at("strategy");
  job.numerics = json.at("numerics");
  job.exact = json.value("exact", "on") == "on";
  job.model_config = json.at("model_config");
  job.input_shape = json.at("input_shape").get<Shape>();
  job.classes = json.at("classes");
  job.weighted = json.value("weighted", false);
  job.train_rows = json.at("train_rows");
  job.validation_rows = json.at("validation_rows");
  job.data_digest = json.at("data_digest");
  job.validation_digest = json.at("validation_digest");
  job.initial_weights_sha256 = json.at("initial_weights_sha256");
  job.inputs = json.value("inputs", std::vector<std::string>{});
  job.initial_optimizer_sha256 = json.value("initial_optimizer_sha256", "");
  job.optimizer_iterations = json.value("optimizer_iterations", int64_t{0});
  return job;
} catch (const nlohmann::json::exception& error) {
  return Error{fmt::format("the job cannot be read: {}", error.what())};
}

nlohmann::json recipe(const Job& job) {
  nlohmann::json json = {{"model_config", job.model_config},
                         {"input_shape", job.input_shape},
                         {"classes", job.classes},
                         {"initial_weights_sha256", job.initial_weights_sha256},
                         {"data_digest", job.data_digest},
                         {"validation_digest", job.validation_digest},
                         {"train_rows", job.train_rows},
                         {"validation_rows", job.validation_rows},
                         {"validation_split", job.validation_split},
                         {"epochs", job.epochs},
                         {"batch_size", job.batch_size},
                         {"optimizer", job.optimizer},
                         {"loss", losses_json(job.outputs)},
                         {"metrics", metrics_json(job.outputs)},
                         {"shuffle", job.shuffle},
                         {"seed", job.seed},
                         {"partitions", job.partitions},
                         {"strategy", job.strategy},
                         {"numerics", job.numerics},
                         {"numerics_version", kNumericsVersion}};
  json.update(data_options_json(job));
  json.update(fit_options_json(job));
  json.update(outputs_json(job));
  if (!job.exact) json["exact"] = "off";
  if (job.weighted) json["weighted"] = true;
  if (!job.inputs.empty()) json["inputs"] = job.inputs;
  if (!job.initial_optimizer_sha256.empty()) {
    json["initial_optimizer_sha256"] = job.initial_optimizer_sha256;
    json["optimizer_iterations"] = job.optimizer_iterations;
  }
  return json;
}

std::string recipe_sha256(const Job& job) { return sha256_hex(recipe(job).dump()); }

}  // namespace lockstep
