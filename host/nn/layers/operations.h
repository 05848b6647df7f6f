// The operations of keras.ops that arithmetic, indexing and preprocess_input leave in a functional
// graph. They are layers without weights, of the class "keras.ops.<Keras' class>".
//
// The argument "operands" of a call holds its positional arguments as Keras writes them, null in
// the place of each tensor: x * 2 is {"operands": [null, 2]}. Without it all are tensors.
#pragma once

#include <string>
#include <vector>

#include "host/nn/layer.h"

namespace lockstep::layers {

std::vector<LayerType> operation_types();

}  // namespace lockstep::layers
