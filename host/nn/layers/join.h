// What Concatenate, its operation and its mask share.
#pragma once

#include <string>

#include "host/nn/layer.h"

namespace lockstep::layers {

// The inputs one behind the other along an axis of the row; in all other axes their sizes are the
// same. `what` names the op.
SymbolicTensor joined_along(LayerContext& layer, const std::string& what, const Tensors& inputs,
                            size_t axis);

}  // namespace lockstep::layers
