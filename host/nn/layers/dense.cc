#include "host/nn/layer_table.h"

namespace lockstep::layers {
namespace {

// Over the last of several axes: a convolution whose kernel is one place.
Result<SymbolicTensor> build_for_each_place(LayerContext& layer, const SymbolicTensor& input,
                                            int64_t units) {
  const int64_t channels = input.shape.back();
  Shape output = input.shape;
  output.back() = units;
  LOCKSTEP_RETURN_IF_ERROR(layer.check_size("output", output));
  Conv2dOp op;
  op.in_height = op.out_height = op.kernel_height = op.kernel_width = 1;
  op.in_width = op.out_width = static_cast<int>(input.features() / channels);
  op.in_channels = static_cast<int>(channels);
  op.out_channels = static_cast<int>(units);
  op.kernel_offset = layer.parameter("kernel", {channels, units});
  if (layer.flag("use_bias")) op.bias_offset = layer.parameter("bias", {units});
  return layer.activate(layer.op("forward", op, {input}, output), layer.at("activation"));
}

Result<SymbolicTensor> build_dense(LayerContext& layer, const Tensors& inputs) {
  LOCKSTEP_RETURN_IF_ERROR(layer.check_inputs(inputs, 1));
  const SymbolicTensor& input = inputs[0];
  LOCKSTEP_RETURN_IF_ERROR(layer.check_positive("units"));
  const int64_t units = layer.integer("units");
  const Shape kernel_shape{input.shape.back(), units};
  LOCKSTEP_RETURN_IF_ERROR(layer.check_size("kernel", kernel_shape));
  if (input.shape.size() > 1) return build_for_each_place(layer, input, units);
  DenseOp op;
  op.in_features = input.shape[0];
  op.out_features = units;
  op.kernel_offset = layer.parameter("kernel", kernel_shape);
  if (layer.flag("use_bias")) op.bias_offset = layer.parameter("bias", {units});
  return layer.activate(layer.op("forward", op, {input}, {units}), layer.at("activation"));
}

}  // namespace

// Kernel (in, units).
LayerType dense() {
  return {"Dense",
          "activation(inputs · kernel + bias), over the last axis",
          {{"units", KeyKind::integer},
           {"activation", KeyKind::activation, nullptr},
           {"use_bias", KeyKind::flag, true},
           {"kernel_initializer", KeyKind::initializer, "GlorotUniform"},
           {"bias_initializer", KeyKind::initializer, "Zeros"},
           {"kernel_regularizer", KeyKind::regularizer, nullptr},
           {"bias_regularizer", KeyKind::regularizer, nullptr},
           {"activity_regularizer", KeyKind::regularizer, nullptr},
           {"kernel_constraint", KeyKind::constraint, nullptr},
           {"bias_constraint", KeyKind::constraint, nullptr},
           {"lora_rank", KeyKind::any, nullptr},
           {"quantization_config", KeyKind::any, nullptr}},
          build_dense,
          Masking::pass};
}

}  // namespace lockstep::layers
