// What nodes that measure or predict are told to do.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "host/cluster/batch_queue.h"
#include "host/core/result.h"
#include "host/data/data_options.h"
#include "host/job/job.h"
#include "host/tensor/shape.h"

namespace lockstep {

struct BatchTask {
  std::optional<Job> measured;  // loss and metrics of this job; nothing: what the model puts out
  nlohmann::json model_config;  // with every dimension known
  std::string data;             // a place
  DataOptions data_options;
  std::string data_digest;
  int64_t batch_size = 32;
  std::string numerics;
  std::string weights_sha256;  // of the flat weights, which are fetched by it
};

nlohmann::json to_json(const BatchTask& task);
// Whether the job that a coordinator sent is of this kind.
bool is_batch_task(const nlohmann::json& job);
// Reads what to_json wrote.
Result<BatchTask> batch_task_from_json(const nlohmann::json& json);

int64_t batches_of(const BatchTask& task, int64_t rows);
// The results for so many rows: each output's float32 values, or of a measurement the sums of each
// batch as doubles. `outputs`: the shapes of a row of each output.
std::vector<ResultArray> result_arrays(const BatchTask& task, const std::vector<Shape>& outputs,
                                       int64_t rows);

}  // namespace lockstep
