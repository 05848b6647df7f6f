// A model with weights, from the output folder of a run or from a file of Keras.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "host/core/result.h"
#include "host/data/dataset.h"
#include "host/graph/graph.h"
#include "host/job/job.h"
#include "host/keras/model_file.h"
#include "host/nn/model.h"
#include "host/runtime/state_file.h"

namespace lockstep {

// A model for rows of known shape.
struct ReadyModel {
  std::shared_ptr<const Model> model;
  Graph graph;                 // to predict
  std::vector<float> weights;  // flat
};

struct TrainedModelFile {
  std::string path;
  std::optional<Job> job;         // of the run, where it is the output folder of one
  std::optional<ModelFile> file;  // else
  DataOptions data_options;       // how its data is read

  // The names of the model's outputs.
  std::vector<std::string> outputs() const;
  // Binds dimensions that are left open to the rows, and reads the weights.
  Result<ReadyModel> make_ready(const Dataset& dataset) const;
};

// `path`: the output folder of a run, or a file. Errors say what is missing in it.
Result<TrainedModelFile> read_trained_model(const std::string& path);

// The floats of a state's vector.
std::span<const float> floats_of(std::string_view vector);

// The state with the moving averages of the weights that the job's optimizer keeps in their place,
// if it does, as Keras' fit() ends. `memory` holds them.
Result<StateView> with_averages(const Job& job, const std::vector<Parameter>& parameters,
                                const StateView& state, std::string* memory);

// The bytes of a .keras file with a job's state: weights, and the optimizer's. `source`: the file
// that the job's model was read from, if any. `learning_rate`: what callbacks have set, if they
// have.
Result<std::string> keras_file_of(const Job& job, const Model& model,
                                  const std::vector<Parameter>& parameters, const StateView& state,
                                  const ModelFile* source,
                                  std::optional<double> learning_rate = {});
// Of a .weights.h5 file.
Result<std::string> weights_file_of(const Job& job, const Model& model,
                                    const std::vector<Parameter>& parameters,
                                    const StateView& state,
                                    std::optional<double> learning_rate = {});

}  // namespace lockstep
