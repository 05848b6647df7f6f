// Keras' regularizers: what weights or activations add to the loss.
#pragma once

#include <nlohmann/json.hpp>

#include "host/core/result.h"
#include "host/nn/layer.h"

namespace lockstep {

// A regularizer as {"class_name", "config"} with all its keys: from a name ("l2", "L2") or Keras'
// object; null stays null. An unknown name or key is an error.
Result<nlohmann::json> resolve_regularizer(const nlohmann::json& regularizer);

// l1 * sum(|x|) + l2 * sum(x^2).
struct Penalty {
  double l1 = 0, l2 = 0;
  bool is_none() const { return l1 == 0 && l2 == 0; }
};
// Of a resolved regularizer, or of null.
Penalty penalty_of(const nlohmann::json& regularizer);

// Whether it is Keras' OrthogonalRegularizer, whose penalty is none of each element.
bool is_orthogonal(const nlohmann::json& regularizer);
// Its penalty of a parameter, which alone the graph holds: over one row without inputs, gradients
// and then the penalty in the root. Refuses a parameter that is no matrix.
Result<Graph> orthogonal_penalty(const Parameter& parameter);

// Adds a penalty of what a layer computes to each row's loss: Keras divides it by the rows.
void add_activity_loss(LayerContext& layer, const SymbolicTensor& output, const Penalty& penalty);

// Whether a layer of a model's config, however deep, has an activity_regularizer.
bool has_activity_losses(const nlohmann::json& model_config);

}  // namespace lockstep
