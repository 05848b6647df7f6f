// The key noise_shape of layers that drop entries.
#pragma once

#include "host/nn/layer.h"

namespace lockstep::layers {

// The shape of a row's noise: 1 for the axes that share a number. The input's where the config
// names none. Rows never share: numbers are counted by row.
Result<Shape> noise_shape_of(const LayerContext& layer, const Shape& input);

}  // namespace lockstep::layers
