// The job: one training run, resolved, and its recipe.
#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "host/core/result.h"
#include "host/nn/losses.h"
#include "host/tensor/shape.h"

namespace lockstep {

// Raised whenever the bits of any numerics change.
inline constexpr int kNumericsVersion = 4;

struct Job {
  // As asked for, defaults filled in.
  std::string model;                // a name, or a file's place; model_config is what counts
  std::string data;                 // a place, not part of the recipe: its digest is
  std::vector<std::string> target;  // names of columns or arrays; empty: as DataOptions says
  std::optional<double> missing;
  int64_t epochs = 1;
  int64_t batch_size = 32;
  nlohmann::json optimizer;  // every argument
  // Losses and metrics, as output_objectives() has them; their target shapes come from the data.
  std::vector<OutputObjective> outputs = std::vector<OutputObjective>(1);
  double validation_split = 0;
  std::string validation_data;   // a place
  int64_t validation_steps = 0;  // batches; 0: all
  std::map<int64_t, double> class_weight;
  int64_t steps_of_epoch = 0;  // --steps-per-epoch; 0: a pass over the rows
  int64_t initial_epoch = 0;
  std::vector<int64_t> validation_freq = {1};  // every so many epochs; several: after just these
  nlohmann::json callbacks = nlohmann::json::array();  // as resolve_callbacks() has it
  bool shuffle = true;
  bool exact = true;  // else NCCL adds the gradients of a node's GPUs, in an order of its own
  uint64_t seed = 0;
  int partitions = 1;
  std::string strategy;
  std::string numerics;

  // Found when the job was resolved.
  nlohmann::json model_config;
  std::vector<std::string> inputs;  // the model's, where it has several: names of arrays
  Shape input_shape;                // of the only one; (features) where there are several
  int64_t classes = 0;
  bool weighted = false;  // rows have weights, by class or by sample
  int64_t train_rows = 0;
  int64_t validation_rows = 0;
  std::string data_digest;
  std::string validation_digest;  // "" without validation
  std::string initial_weights_sha256;
  // Of the optimizer's state in the model's file, where the job goes on from it.
  std::string initial_optimizer_sha256;
  int64_t optimizer_iterations = 0;  // updates that are in it

  // Each pass over the rows has an order of its own. Epochs need not begin with a pass.
  int64_t batches_per_pass() const { return (train_rows + batch_size - 1) / batch_size; }
  int64_t steps_per_epoch() const {
    return steps_of_epoch > 0 ? steps_of_epoch : batches_per_pass();
  }
  // Epochs are counted from 0 inside the cluster; people see them with initial_epoch before them.
  int64_t epochs_to_train() const { return epochs - initial_epoch; }
  int64_t total_steps() const { return steps_per_epoch() * epochs_to_train(); }
  bool has_validation() const { return validation_rows > 0; }
  // Whether the epoch's end is measured on the validation rows.
  bool validates(int64_t epoch) const;
  // Where the rows of step t come from.
  struct BatchPlace {
    int64_t pass = 0;
    int64_t batch = 0;  // of the pass
  };
  BatchPlace place_of_step(int64_t step) const;
  // Rows of step t's global batch, and of all steps before it.
  int64_t rows_of_step(int64_t step) const;
  int64_t rows_before(int64_t step) const;
};

// A job from checked options (see job_options()); what must come from the data is left empty.
// `outputs`: the names of the model's, where it has several. Errors name the option and the remedy.
Result<Job> job_from_options(const nlohmann::json& options,
                             const std::vector<std::string>& outputs = {});

// The default P: 4 rows or more a partition (16 where a model normalizes batches), at most 16.
int default_partitions(int64_t batch_size, int64_t least_rows = 4);

nlohmann::json to_json(const Job& job);
// Reads what to_json wrote.
Result<Job> job_from_json(const nlohmann::json& json);

// All that decides bits, and nothing else.
nlohmann::json recipe(const Job& job);
std::string recipe_sha256(const Job& job);

}  // namespace lockstep
