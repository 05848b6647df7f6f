#include "host/train/trained_model.h"

#include <fmt/format.h>

#include "host/core/files.h"
#include "host/job/data_job.h"
#include "host/job/output_options.h"
#include "host/keras/safetensors.h"
#include "host/keras/save_model.h"
#include "host/keras/weights.h"
#include "host/nn/model_config.h"
#include "host/optim/optimizer.h"
#include "host/train/output_folder.h"
#include "host/train/resolve.h"

namespace lockstep {

Result<TrainedModelFile> read_trained_model(const std::string& path) {
  if (path.empty()) return usage_error("--model is missing: give a file, or a run's output folder");
  TrainedModelFile trained;
  trained.path = path;
  if (file_exists(path + "/job.json")) {
    LOCKSTEP_ASSIGN(trained.job, read_job(path));
    trained.data_options = data_options(*trained.job);
    return trained;
  }
  LOCKSTEP_ASSIGN(trained.file, read_model_file(path));
  if (!trained.file->has_model() || !trained.file->has_weights()) {
    return usage_error(
        fmt::format("'{}' holds {}: give a .keras or .h5 file of the whole model", path,
                    trained.file->has_model() ? "no weights" : "weights, but no model"));
  }
  trained.data_options.inputs = input_names(trained.file->config);
  if (trained.data_options.inputs.size() == 1) trained.data_options.inputs.clear();
  return trained;
}

std::vector<std::string> TrainedModelFile::outputs() const {
  if (file) return output_names(file->config);
  if (job->outputs.size() == 1) return output_names(job->model_config);
  std::vector<std::string> names;
  for (const OutputObjective& output : job->outputs) names.push_back(output.name);
  return names;
}

Result<ReadyModel> TrainedModelFile::make_ready(const Dataset& dataset) const {
  ReadyModel ready;
  LOCKSTEP_ASSIGN(ready.model,
                  model_from_config(job ? job->model_config : file->config, input_rows(dataset)));
  LOCKSTEP_RETURN_IF_ERROR(check_rows(*ready.model, dataset));
  LOCKSTEP_ASSIGN(ready.graph, ready.model->predict_graph());
  if (job) {
    LOCKSTEP_ASSIGN(ready.weights,
                    read_safetensors(path + "/weights.safetensors", ready.graph.parameters));
  } else {
    LOCKSTEP_ASSIGN(ready.weights, read_weights(*file, *ready.model, ready.graph.parameters));
  }
  return ready;
}

std::span<const float> floats_of(std::string_view vector) {
  return {reinterpret_cast<const float*>(vector.data()), vector.size() / sizeof(float)};
}

Result<StateView> with_averages(const Job& job, const std::vector<Parameter>& parameters,
                                const StateView& state, std::string* memory) {
  LOCKSTEP_ASSIGN(const auto optimizer, Optimizer::create(job.optimizer));
  StateView result = state;
  if (optimizer.average_slot() < 0) return result;
  *memory = state.vectors[0];
  const std::string_view average =
      state.vectors.at(1 + static_cast<size_t>(optimizer.average_slot()));
  for (const Parameter& parameter : parameters) {
    if (parameter.role != ParameterRole::trained || parameter.gradient_offset < 0) continue;
    const auto begin = static_cast<size_t>(parameter.offset) * sizeof(float);
    const auto bytes = static_cast<size_t>(parameter.count()) * sizeof(float);
    memory->replace(begin, bytes, average.substr(begin, bytes));
  }
  result.vectors[0] = *memory;
  return result;
}

namespace {

OptimizerView optimizer_of(const Job& job, const Optimizer& optimizer, const StateView& state,
                           std::optional<double> learning_rate) {
  OptimizerView trained{&optimizer, job.optimizer_iterations + state.header.step, {}};
  for (size_t i = 1; i < state.vectors.size(); ++i) {
    trained.slots.push_back(floats_of(state.vectors[i]));
  }
  trained.learning_rate = learning_rate;
  return trained;
}

}  // namespace

Result<std::string> keras_file_of(const Job& job, const Model& model,
                                  const std::vector<Parameter>& parameters, const StateView& state,
                                  const ModelFile* source, std::optional<double> learning_rate) {
  LOCKSTEP_ASSIGN(const Optimizer optimizer, Optimizer::create(job.optimizer));
  TrainedModel trained;
  trained.model = &model;
  trained.parameters = &parameters;
  trained.weights = floats_of(state.vectors[0]);
  trained.optimizer = optimizer_of(job, optimizer, state, learning_rate);
  trained.compile = {job.optimizer, losses_json(job.outputs), metrics_json(job.outputs),
                     loss_weights_json(job.outputs), weighted_metrics_json(job.outputs)};
  trained.source = source;
  return make_keras_file(trained);
}

Result<std::string> weights_file_of(const Job& job, const Model& model,
                                    const std::vector<Parameter>& parameters,
                                    const StateView& state, std::optional<double> learning_rate) {
  LOCKSTEP_ASSIGN(const Optimizer optimizer, Optimizer::create(job.optimizer));
  return make_weights_h5(model, parameters, floats_of(state.vectors[0]),
                         optimizer_of(job, optimizer, state, learning_rate));
}

}  // namespace lockstep
