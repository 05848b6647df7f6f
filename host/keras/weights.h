// Weights and optimizer state between Keras' files and the flat vectors of a graph.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "host/core/result.h"
#include "host/graph/graph.h"
#include "host/keras/model_file.h"
#include "host/nn/model.h"
#include "host/optim/optimizer.h"

namespace lockstep {

// The flat weights of the model's graph, whose `parameters` these are, from a file that has
// weights. Errors name the layer, what it needs and what the file holds.
Result<std::vector<float>> read_weights(const ModelFile& file, const Model& model,
                                        const std::vector<Parameter>& parameters);

// What an optimizer knows beside the weights.
struct OptimizerState {
  int64_t iterations = 0;                 // updates that were made
  std::vector<std::vector<float>> slots;  // flat, as the weights; 0 where a parameter is frozen
};

// The state that the file has for this very optimizer; nothing where it has none, or one of
// another. `why_not` then says which, for people.
Result<std::optional<OptimizerState>> read_optimizer_state(const ModelFile& file,
                                                           const Optimizer& optimizer,
                                                           const std::vector<Parameter>& parameters,
                                                           std::string* why_not);

// The learning rate that stands with the optimizer's state, where the file was compiled with this
// one. Keras takes it instead of that of the config. None: there is no state, or the rate is a
// schedule.
Result<std::optional<float>> stored_learning_rate(const ModelFile& file,
                                                  const Optimizer& optimizer);

// Views of a state that is to be written.
struct OptimizerView {
  const Optimizer* optimizer = nullptr;
  int64_t iterations = 0;
  std::vector<std::span<const float>> slots;
  bool before_3_10 = false;                  // the order of the variables
  std::optional<double> learning_rate = {};  // that holds now; none: the config's
};

// model.weights.h5 as Keras 3.3 and later read it.
Result<std::string> make_weights_h5(const Model& model, const std::vector<Parameter>& parameters,
                                    std::span<const float> weights,
                                    const std::optional<OptimizerView>& optimizer);

}  // namespace lockstep
