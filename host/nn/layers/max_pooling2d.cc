#include "host/nn/layer_table.h"
#include "host/nn/layers/windows.h"

namespace lockstep::layers {
namespace {

Result<SymbolicTensor> build(LayerContext& layer, const Tensors& inputs) {
  LOCKSTEP_RETURN_IF_ERROR(layer.check_inputs(inputs, 1));
  const SymbolicTensor& input = inputs[0];
  LOCKSTEP_RETURN_IF_ERROR(layer.check_axes(input.shape, 3, "images of one colour have 1 channel"));
  const std::vector<int64_t> pool = layer.sizes("pool_size");
  const std::vector<int64_t> strides = layer.is_null("strides") ? pool : layer.sizes("strides");
  LOCKSTEP_RETURN_IF_ERROR(check_windows(layer, "pool_size", pool, strides, input.shape));
  const bool same = layer.text("padding") == "same";
  const WindowPlacement rows = place_windows(input.shape[0], pool[0], strides[0], same);
  const WindowPlacement columns = place_windows(input.shape[1], pool[1], strides[1], same);
  MaxPool2dOp op;
  op.in_height = static_cast<int>(input.shape[0]);
  op.in_width = static_cast<int>(input.shape[1]);
  op.channels = static_cast<int>(input.shape[2]);
  op.out_height = static_cast<int>(rows.count);
  op.out_width = static_cast<int>(columns.count);
  op.pool_height = static_cast<int>(pool[0]);
  op.pool_width = static_cast<int>(pool[1]);
  op.stride_height = static_cast<int>(strides[0]);
  op.stride_width = static_cast<int>(strides[1]);
  op.pad_top = static_cast<int>(rows.padding_before);
  op.pad_left = static_cast<int>(columns.padding_before);
  return layer.op("forward", op, inputs, {rows.count, columns.count, input.shape[2]});
}

}  // namespace

// Input (height, width, channels).
LayerType max_pooling2d() {
  return {"MaxPooling2D",
          "the largest entry of each window of an image",
          {{"pool_size", KeyKind::sizes, 2, 2},
           {"strides", KeyKind::sizes, nullptr, 2},
           {"padding", KeyKind::text, "valid"}},
          build};
}

}  // namespace lockstep::layers
