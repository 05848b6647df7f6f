// Convolutions of each channel by itself: DepthwiseConv and SeparableConv of one and two axes.
#include <fmt/format.h>

#include "host/nn/layer_table.h"
#include "host/nn/layers/convolution.h"

namespace lockstep::layers {
namespace {

// Keras' kernel (sizes…, in, multiplier) is, in memory, that of groups of one channel each:
// (sizes…, 1, in * multiplier).
struct Depthwise {
  ConvCall call;
  Conv2dOp op;
  Shape output_shape;
};

Result<Depthwise> read_depthwise(LayerContext& layer, const Tensors& inputs, size_t axes,
                                 const char* kernel_name) {
  LOCKSTEP_ASSIGN(const ConvCall call, read_conv_call(layer, inputs, axes));
  LOCKSTEP_RETURN_IF_ERROR(layer.check_positive("depth_multiplier"));
  const int64_t multiplier = layer.integer("depth_multiplier");
  const Shape kernel_shape = call.kernel_shape(call.channels(), multiplier);
  LOCKSTEP_RETURN_IF_ERROR(layer.check_size("kernel", kernel_shape));
  const Shape output_shape = call.output_shape(call.channels() * multiplier);
  LOCKSTEP_RETURN_IF_ERROR(layer.check_size("output", output_shape));
  Conv2dOp op = conv_op(call, call.channels() * multiplier, call.channels());
  op.kernel_offset = kernel_parameter(layer, kernel_name, "depthwise", kernel_shape);
  return Depthwise{call, op, output_shape};
}

template <size_t kAxes>
Result<SymbolicTensor> build_depthwise(LayerContext& layer, const Tensors& inputs) {
  LOCKSTEP_ASSIGN(Depthwise part, read_depthwise(layer, inputs, kAxes, "kernel"));
  if (layer.flag("use_bias")) {
    part.op.bias_offset = layer.parameter("bias", {part.output_shape.back()});
  }
  return finish_conv(layer, layer.op("forward", part.op, {part.call.input}, part.output_shape));
}

template <size_t kAxes>
Result<SymbolicTensor> build_separable(LayerContext& layer, const Tensors& inputs) {
  LOCKSTEP_RETURN_IF_ERROR(layer.check_positive("filters"));
  LOCKSTEP_ASSIGN(Depthwise part, read_depthwise(layer, inputs, kAxes, "depthwise_kernel"));
  const int64_t filters = layer.integer("filters");
  ConvCall pointwise;
  pointwise.input = layer.op("forward", part.op, {part.call.input}, part.output_shape);
  pointwise.spatial = Shape(part.output_shape.begin(), part.output_shape.end() - 1);
  pointwise.kernel = pointwise.strides = pointwise.dilation = std::vector<int64_t>(kAxes, 1);
  pointwise.padding = "valid";
  const Shape kernel_shape = pointwise.kernel_shape(pointwise.channels(), filters);
  const Shape output_shape = pointwise.output_shape(filters);
  LOCKSTEP_RETURN_IF_ERROR(layer.check_size("pointwise kernel", kernel_shape));
  LOCKSTEP_RETURN_IF_ERROR(layer.check_size("output", output_shape));
  Conv2dOp op = conv_op(pointwise, filters, 1);
  op.kernel_offset = kernel_parameter(layer, "pointwise_kernel", "pointwise", kernel_shape);
  if (layer.flag("use_bias")) op.bias_offset = layer.parameter("bias", {filters});
  return finish_conv(layer, layer.op("forward", op, {pointwise.input}, output_shape));
}

template <size_t kAxes>
LayerType depthwise(const char* summary) {
  std::vector<ConfigKey> keys = conv_keys(kAxes, {"depthwise"});
  keys.push_back({"depth_multiplier", KeyKind::integer, 1});
  return {fmt::format("DepthwiseConv{}D", kAxes), summary, std::move(keys), build_depthwise<kAxes>};
}

template <size_t kAxes>
LayerType separable(const char* summary) {
  std::vector<ConfigKey> keys = conv_keys(kAxes, {"depthwise", "pointwise"});
  keys.push_back({"filters", KeyKind::integer});
  keys.push_back({"depth_multiplier", KeyKind::integer, 1});
  return {fmt::format("SeparableConv{}D", kAxes), summary, std::move(keys), build_separable<kAxes>};
}

}  // namespace

LayerType depthwise_conv1d() { return depthwise<1>("convolution of each channel of sequences"); }
LayerType depthwise_conv2d() { return depthwise<2>("convolution of each channel of images"); }
LayerType separable_conv1d() {
  return separable<1>("convolution of each channel of sequences, then of each step");
}
LayerType separable_conv2d() {
  return separable<2>("convolution of each channel of images, then of each pixel");
}

}  // namespace lockstep::layers
