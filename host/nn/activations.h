// Keras' activations by name (https://keras.io/api/layers/activations).
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "host/nn/layer.h"

namespace lockstep {

std::vector<std::string> activation_names();

// Appends an activation: null, a name, or {"class_name": "relu", "config": {…}} as Keras' layers
// write it. An unknown one is an error of the layer.
Result<SymbolicTensor> apply_activation(LayerContext& layer, const SymbolicTensor& input,
                                        const nlohmann::json& activation);

}  // namespace lockstep
