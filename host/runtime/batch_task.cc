#include "host/runtime/batch_task.h"

#include <fmt/format.h>

#include "host/job/metric_table.h"

namespace lockstep {

nlohmann::json to_json(const BatchTask& task) {
  const DataOptions& data = task.data_options;
  nlohmann::json json = {{"task", task.measured ? "evaluate" : "predict"},
                         {"model_config", task.model_config},
                         {"data", task.data},
                         {"inputs", data.inputs},
                         {"targets", data.targets},
                         {"needs_targets", data.needs_targets},
                         {"data_digest", task.data_digest},
                         {"batch_size", task.batch_size},
                         {"numerics", task.numerics},
                         {"weights_sha256", task.weights_sha256}};
  if (data.missing) json["missing"] = *data.missing;
  if (task.measured) json["job"] = to_json(*task.measured);
  return json;
}

bool is_batch_task(const nlohmann::json& job) { return job.is_object() && job.contains("task"); }

Result<BatchTask> batch_task_from_json(const nlohmann::json& json) try {
  BatchTask task;
  if (json.contains("job")) {
    LOCKSTEP_ASSIGN(task.measured, job_from_json(json.at("job")));
  }
  task.model_config = json.at("model_config");
  task.data = json.at("data");
  task.data_options.inputs = json.at("inputs");
  task.data_options.targets = json.at("targets");
  task.data_options.needs_targets = json.at("needs_targets");
  if (json.contains("missing")) task.data_options.missing = json.at("missing").get<double>();
  task.data_digest = json.at("data_digest");
  task.batch_size = json.at("batch_size");
  if (task.batch_size < 1) return Error{"the task's batch size is less than 1"};
  task.numerics = json.at("numerics");
  task.weights_sha256 = json.at("weights_sha256");
  return task;
} catch (const nlohmann::json::exception& error) {
  return Error{fmt::format("the task cannot be read: {}", error.what())};
}

int64_t batches_of(const BatchTask& task, int64_t rows) {
  return (rows + task.batch_size - 1) / task.batch_size;
}

std::vector<ResultArray> result_arrays(const BatchTask& task, const std::vector<Shape>& outputs,
                                       int64_t rows) {
  if (task.measured) {
    const int64_t bytes = MetricTable(*task.measured).size() * static_cast<int64_t>(sizeof(double));
    return {{batches_of(task, rows) * bytes, bytes}};
  }
  std::vector<ResultArray> arrays;
  for (const Shape& shape : outputs) {
    const int64_t bytes = element_count(shape) * static_cast<int64_t>(sizeof(float));
    arrays.push_back({rows * bytes, task.batch_size * bytes});
  }
  return arrays;
}

}  // namespace lockstep
