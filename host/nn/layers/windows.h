// What layers that slide a window share: their checks.
#pragma once

#include <string>
#include <vector>

#include "host/nn/layer.h"

namespace lockstep::layers {

// Windows and strides beyond it would overflow the arithmetic of shapes.
inline constexpr int64_t kLargestWindow = 65535;

// Checks the keys `window_key`, "strides" and "padding" of a layer whose windows go over
// `input` (its spatial axes alone). Strides of null are the window's sizes. Padding may be "causal"
// where the layer knows it.
Status check_windows(const LayerContext& layer, const char* window_key,
                     const std::vector<int64_t>& window, const std::vector<int64_t>& strides,
                     const Shape& input, bool causal = false);

}  // namespace lockstep::layers
