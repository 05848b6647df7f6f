// Keras' initializers, drawn from the counter-based generator.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "host/core/result.h"
#include "host/graph/graph.h"

namespace lockstep {

// An initializer as {"class_name", "config"} with all its keys: from a name ("glorot_uniform",
// "GlorotUniform") or Keras' object. An unknown name or key is an error.
Result<nlohmann::json> resolve_initializer(const nlohmann::json& initializer);

// The initial flat parameters: a pure function of the graph's parameters and the seed.
std::vector<float> initial_weights(const Graph& graph, uint64_t seed);

}  // namespace lockstep
