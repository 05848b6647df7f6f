// A Model from Keras' config of it: the inverse of Model::config(), and what files hold.
#pragma once

#include <memory>
#include <nlohmann/json.hpp>
#include <vector>

#include "host/core/result.h"
#include "host/nn/model.h"

namespace lockstep {

// `config`: {"class_name": "Sequential" | "Functional", "config": {…}} as Keras 2 or 3 writes it,
// with models as layers, shared layers and frozen ones. Dimensions of inputs that it leaves open
// are those of `rows`: the shape of each input's rows, in the order of the inputs; none where
// nothing is known. Layers stand in the order of Keras' model.layers, which follows from the graph
// alone, and parameters thus in that of get_weights().
//
// Refused, all that is wrong in one message: layers that are not known, Lambda, custom objects and
// whatever else would have to be imported, options that are not supported, nesting over a limit.
Result<std::unique_ptr<Model>> model_from_config(const nlohmann::json& config,
                                                 const std::vector<Shape>& rows = {});

// The names of its inputs, in their order. Empty where they have none, as in a Sequential model, or
// the config is none.
std::vector<std::string> input_names(const nlohmann::json& config);

// The names of its outputs, in their order: of the layers that they come from, or the keys that
// they have in a dictionary. Empty where the config is none.
std::vector<std::string> output_names(const nlohmann::json& config);

}  // namespace lockstep
