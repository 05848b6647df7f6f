// Losses by Keras' names.
#pragma once

#include <string>
#include <vector>

#include "host/core/result.h"
#include "host/graph/passes.h"
#include "host/nn/layer.h"

namespace lockstep {

std::vector<std::string> loss_names();

// Ends a model's forward graph with the loss and its metrics, and gives gradients and metrics their
// places in a root. Refuses a loss that is not known, and a model whose outputs are not what the
// loss reads; `last_layer` names the first output's in the message.
Result<Graph> finish_with_loss(const std::string& loss, LossMode mode,
                               const std::string& last_layer, GraphBuilder& builder,
                               const Tensors& outputs);

}  // namespace lockstep
