// Losses by Keras' names.
#pragma once

#include <string>
#include <vector>

#include "host/core/result.h"
#include "host/graph/graph.h"
#include "host/graph/passes.h"

namespace lockstep {

std::vector<std::string> loss_names();

// Ends a model's forward graph with the loss. Refuses a loss that is not known, and a model whose
// last layer does not give what the loss reads; `last_layer` names it in the message.
Status attach_loss(const std::string& loss, LossMode mode, const std::string& last_layer,
                   Graph* graph);

}  // namespace lockstep
