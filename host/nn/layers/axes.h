// Gathers that treat each axis by itself: padding, cropping, repeating, windows, resizing.
#pragma once

#include <cstdint>
#include <vector>

#include "host/nn/layer.h"

namespace lockstep::layers {

struct AxisSource {
  int64_t index = 0;  // of the input, on this axis
  float factor = 1;
};
// For each output coordinate of an axis the input coordinates that it reads.
using AxisLists = std::vector<std::vector<AxisSource>>;

AxisLists whole_axis(int64_t size);
AxisLists padded_axis(int64_t size, int64_t before, int64_t behind);
AxisLists cropped_axis(int64_t size, int64_t before, int64_t behind);
AxisLists repeated_axis(int64_t size, int64_t times);
// Windows as Keras places them; what lies outside is left out. With `mean` each counts 1 / n of the
// n inputs in its window.
AxisLists windows_of_axis(int64_t size, int64_t window, int64_t stride, bool same, bool mean);
// Half-pixel centres, edges repeated: TensorFlow's and Keras' bilinear and nearest resizing.
AxisLists bilinear_axis(int64_t size, int64_t new_size);
AxisLists nearest_axis(int64_t size, int64_t new_size);

// The lists of a row whose axes are treated so, one entry an axis: factors multiply.
IndexLists combined_axes(const Shape& input, const std::vector<AxisLists>& axes);
Shape combined_shape(const std::vector<AxisLists>& axes);

// Appends such a gather.
SymbolicTensor gather_axes(LayerContext& layer, const SymbolicTensor& input,
                           const std::vector<AxisLists>& axes,
                           Gathering gathering = Gathering::sum);

// Where a tensor's channels are, for layers with the key "data_format": the number of the first
// spatial axis (0 channels last, 1 channels first), or an error.
Result<size_t> first_spatial_axis(const LayerContext& layer, const Shape& shape, size_t spatial);

}  // namespace lockstep::layers
