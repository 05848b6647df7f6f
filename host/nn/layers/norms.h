// What layers that normalize share.
#pragma once

#include <vector>

#include "host/nn/layer.h"

namespace lockstep::layers {

// x over its Euclidean norm along some axes of the row, or times 1 / epsilon where that is less:
// Keras' ops.normalize.
SymbolicTensor normalize_along(LayerContext& layer, const SymbolicTensor& x,
                               const std::vector<size_t>& axes, double epsilon);

}  // namespace lockstep::layers
