// What layers that convolve share: their windows, and their data format.
#pragma once

#include <string>
#include <vector>

#include "host/nn/layer.h"
#include "host/nn/layers/windows.h"

namespace lockstep::layers {

// A call's input with its channels last, and its windows axis by axis.
struct ConvCall {
  SymbolicTensor input;
  Shape spatial;                                   // of the input
  std::vector<int64_t> kernel, strides, dilation;  // dilation is 1 where the kernel is
  std::string padding;
  int64_t channels() const { return input.shape.back(); }
  int64_t window(size_t axis) const { return (kernel[axis] - 1) * dilation[axis] + 1; }
  // Where the windows lie, not of transposed convolutions.
  std::vector<WindowPlacement> placements() const;
  // The sizes of a kernel that ends in (a, b), and of an output.
  Shape kernel_shape(int64_t a, int64_t b) const;
  Shape output_shape(int64_t filters) const;
};

// Reads the keys "kernel_size", "strides", "padding", "dilation_rate" and "data_format"; with
// `transposed` windows may be larger than the input.
Result<ConvCall> read_conv_call(LayerContext& layer, const Tensors& inputs, size_t axes,
                                bool transposed = false);
// With nothing but geometry. A sequence is an image of height 1.
Conv2dOp conv_op(const ConvCall& call, int64_t filters, int64_t groups);
// Brings the output to the layer's data format and applies its activation.
Result<SymbolicTensor> finish_conv(LayerContext& layer, const SymbolicTensor& output);

// The keys of all convolutions but those of the kernels, for `axes` axes.
std::vector<ConfigKey> conv_keys(int axes, const std::vector<std::string>& kernels);
// A kernel whose initializer is the config's key "<key>_initializer" and so on.
int64_t kernel_parameter(LayerContext& layer, const std::string& name, const std::string& key,
                         const Shape& shape);

}  // namespace lockstep::layers
