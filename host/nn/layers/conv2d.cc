#include "host/nn/layer_table.h"
#include "host/nn/layers/windows.h"

namespace lockstep::layers {
namespace {

Result<SymbolicTensor> build(LayerContext& layer, const Tensors& inputs) {
  LOCKSTEP_RETURN_IF_ERROR(layer.check_inputs(inputs, 1));
  const SymbolicTensor& input = inputs[0];
  LOCKSTEP_RETURN_IF_ERROR(layer.check_axes(input.shape, 3, "images of one colour have 1 channel"));
  LOCKSTEP_RETURN_IF_ERROR(layer.check_positive("filters"));
  if (layer.at("data_format") != "channels_last" && !layer.is_null("data_format")) {
    return layer.error("data_format 'channels_first' is not supported yet: use channels_last");
  }
  if (layer.integer("groups") != 1) return layer.error("groups are not supported yet");
  if (layer.sizes("dilation_rate") != std::vector<int64_t>{1, 1}) {
    return layer.error("dilation_rate is not supported yet");
  }
  const std::vector<int64_t> kernel = layer.sizes("kernel_size");
  const std::vector<int64_t> strides = layer.sizes("strides");
  LOCKSTEP_RETURN_IF_ERROR(check_windows(layer, "kernel_size", kernel, strides, input.shape));
  const int64_t filters = layer.integer("filters");
  const bool same = layer.text("padding") == "same";
  const WindowPlacement rows = place_windows(input.shape[0], kernel[0], strides[0], same);
  const WindowPlacement columns = place_windows(input.shape[1], kernel[1], strides[1], same);
  const Shape output_shape{rows.count, columns.count, filters};
  const Shape kernel_shape{kernel[0], kernel[1], input.shape[2], filters};
  LOCKSTEP_RETURN_IF_ERROR(layer.check_size("output", output_shape));
  LOCKSTEP_RETURN_IF_ERROR(layer.check_size("kernel", kernel_shape));
  Conv2dOp op;
  op.in_height = static_cast<int>(input.shape[0]);
  op.in_width = static_cast<int>(input.shape[1]);
  op.in_channels = static_cast<int>(input.shape[2]);
  op.out_height = static_cast<int>(rows.count);
  op.out_width = static_cast<int>(columns.count);
  op.out_channels = static_cast<int>(filters);
  op.kernel_height = static_cast<int>(kernel[0]);
  op.kernel_width = static_cast<int>(kernel[1]);
  op.stride_height = static_cast<int>(strides[0]);
  op.stride_width = static_cast<int>(strides[1]);
  op.pad_top = static_cast<int>(rows.padding_before);
  op.pad_left = static_cast<int>(columns.padding_before);
  op.kernel_offset = layer.parameter("kernel", kernel_shape);
  if (layer.flag("use_bias")) op.bias_offset = layer.parameter("bias", {filters});
  return layer.activate(layer.op("forward", op, inputs, output_shape), layer.at("activation"));
}

}  // namespace

// Input (height, width, channels); kernel (height, width, in, out).
LayerType conv2d() {
  return {"Conv2D",
          "convolution of images",
          {{"filters", KeyKind::integer},
           {"kernel_size", KeyKind::sizes, nlohmann::json::value_t::discarded, 2},
           {"strides", KeyKind::sizes, 1, 2},
           {"padding", KeyKind::text, "valid"},
           {"activation", KeyKind::activation, nullptr},
           {"use_bias", KeyKind::flag, true},
           {"kernel_initializer", KeyKind::initializer, "GlorotUniform"},
           {"bias_initializer", KeyKind::initializer, "Zeros"},
           {"kernel_regularizer", KeyKind::regularizer, nullptr},
           {"bias_regularizer", KeyKind::regularizer, nullptr},
           {"activity_regularizer", KeyKind::regularizer, nullptr},
           {"kernel_constraint", KeyKind::constraint, nullptr},
           {"bias_constraint", KeyKind::constraint, nullptr},
           {"data_format", KeyKind::any, "channels_last"},
           {"dilation_rate", KeyKind::sizes, 1, 2},
           {"groups", KeyKind::integer, 1}},
          build};
}

}  // namespace lockstep::layers
