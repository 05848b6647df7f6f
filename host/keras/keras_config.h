// A model of Lockstep's as Keras' config, with the keys that Keras 3.3 writes and every later
// version reads.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "host/core/result.h"
#include "host/nn/model.h"
#include "host/optim/optimizer.h"

namespace lockstep {

// What Keras compiles a model with.
struct CompileSettings {
  nlohmann::json optimizer;  // Optimizer::config()
  // Of several outputs lists with an entry for each.
  nlohmann::json loss;  // as resolve_loss() has it
  nlohmann::json metrics = nlohmann::json::array();
  nlohmann::json loss_weights;
  nlohmann::json weighted_metrics;
};

// The version of Keras whose form this is.
inline constexpr const char* kKerasVersion = "3.3.3";

// config.json of a model that is not of a user's file.
Result<nlohmann::json> keras_config(const Model& model,
                                    const std::optional<CompileSettings>& compile);

// metadata.json of a file that is written now.
std::string keras_metadata();

}  // namespace lockstep
