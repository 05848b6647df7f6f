// Max and average pooling over 1, 2 and 3 axes, and over all of them.
#include <fmt/format.h>

#include "host/nn/layer_table.h"
#include "host/nn/layers/axes.h"
#include "host/nn/layers/windows.h"

namespace lockstep::layers {
namespace {

constexpr const char* kKinds[] = {"a sequence", "an image", "a volume"};

// The pool of an image whose channels are last has an op of its own.
SymbolicTensor max_pool_image(LayerContext& layer, const SymbolicTensor& input,
                              const std::vector<int64_t>& pool, const std::vector<int64_t>& strides,
                              bool same) {
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
  return layer.op("forward", op, {input}, {rows.count, columns.count, input.shape[2]});
}

template <size_t kAxes, bool kMaximum>
Result<SymbolicTensor> build_pool(LayerContext& layer, const Tensors& inputs) {
  LOCKSTEP_RETURN_IF_ERROR(layer.check_inputs(inputs, 1));
  const SymbolicTensor& input = inputs[0];
  LOCKSTEP_ASSIGN(const size_t first, first_spatial_axis(layer, input.shape, kAxes));
  const std::vector<int64_t> pool = layer.sizes("pool_size");
  const std::vector<int64_t> strides = layer.is_null("strides") ? pool : layer.sizes("strides");
  const Shape spatial(input.shape.begin() + static_cast<std::ptrdiff_t>(first),
                      input.shape.begin() + static_cast<std::ptrdiff_t>(first + kAxes));
  LOCKSTEP_RETURN_IF_ERROR(check_windows(layer, "pool_size", pool, strides, spatial));
  const bool same = layer.text("padding") == "same";
  if (kMaximum && kAxes == 2 && first == 0) {
    return max_pool_image(layer, input, pool, strides, same);
  }
  std::vector<AxisLists> axes;
  for (const int64_t size : input.shape) axes.push_back(whole_axis(size));
  for (size_t axis = 0; axis < kAxes; ++axis) {
    axes[first + axis] = windows_of_axis(spatial[axis], pool[axis], strides[axis], same, !kMaximum);
  }
  return gather_axes(layer, input, axes, kMaximum ? Gathering::maximum : Gathering::sum);
}

template <size_t kAxes, bool kMaximum>
LayerType pool() {
  return {fmt::format("{}Pooling{}D", kMaximum ? "Max" : "Average", kAxes),
          fmt::format("the {} of each window of {}", kMaximum ? "largest entry" : "mean",
                      kKinds[kAxes - 1]),
          {{"pool_size", KeyKind::sizes, 2, kAxes},
           {"strides", KeyKind::sizes, nullptr, kAxes},
           {"padding", KeyKind::text, "valid"},
           {"data_format", KeyKind::any, nullptr}},
          build_pool<kAxes, kMaximum>};
}

// The mean over the steps that count; NaN where none does, as in Keras.
SymbolicTensor masked_mean(LayerContext& layer, const SymbolicTensor& input) {
  const SymbolicTensor mask{input.mask, input.mask_shape};
  const Broadcast step{input.shape[1], input.shape[0]};
  ExpressionBuilder s;
  const SymbolicTensor kept =
      layer.map("kept", s.finish({s.select(s.operand(1), s.operand(0), s.constant(0))}),
                {input, mask}, {whole_operand(0, input), {1, 0, step}}, input.shape);
  const bool keep = layer.flag("keepdims");
  const SymbolicTensor sum = layer.reduce("sum", kept, {0}, LayerContext::Reduction::sum, keep);
  const SymbolicTensor count = layer.reduce("count", mask, {0}, LayerContext::Reduction::sum, true);
  ExpressionBuilder e;
  return layer.map("forward", e.finish({e.operand(0) / e.operand(1)}), {sum, count},
                   {whole_operand(0, sum), {1, 0, {1, 1}}}, sum.shape);
}

template <size_t kAxes, bool kMaximum>
Result<SymbolicTensor> build_global(LayerContext& layer, const Tensors& inputs) {
  LOCKSTEP_RETURN_IF_ERROR(layer.check_inputs(inputs, 1));
  LOCKSTEP_ASSIGN(const size_t first, first_spatial_axis(layer, inputs[0].shape, kAxes));
  if (kAxes == 1 && !kMaximum && inputs[0].mask >= 0) {
    if (first != 0 || inputs[0].mask_shape != Shape{inputs[0].shape[0]}) {
      return layer.error("an input with a mask must have its channels last, and one axis of steps");
    }
    return masked_mean(layer, inputs[0]);
  }
  std::vector<size_t> axes;
  for (size_t axis = first; axis < first + kAxes; ++axis) axes.push_back(axis);
  return layer.reduce("forward", inputs[0], axes,
                      kMaximum ? LayerContext::Reduction::maximum : LayerContext::Reduction::mean,
                      layer.flag("keepdims"));
}

template <size_t kAxes, bool kMaximum>
LayerType global_pool() {
  return {fmt::format("Global{}Pooling{}D", kMaximum ? "Max" : "Average", kAxes),
          fmt::format("the {} of each channel of {}", kMaximum ? "largest entry" : "mean",
                      kKinds[kAxes - 1]),
          {{"data_format", KeyKind::any, nullptr}, {"keepdims", KeyKind::flag, false}},
          build_global<kAxes, kMaximum>};
}

}  // namespace

LayerType max_pooling1d() { return pool<1, true>(); }
LayerType max_pooling2d() { return pool<2, true>(); }
LayerType max_pooling3d() { return pool<3, true>(); }
LayerType average_pooling1d() { return pool<1, false>(); }
LayerType average_pooling2d() { return pool<2, false>(); }
LayerType average_pooling3d() { return pool<3, false>(); }
LayerType global_max_pooling1d() { return global_pool<1, true>(); }
LayerType global_max_pooling2d() { return global_pool<2, true>(); }
LayerType global_max_pooling3d() { return global_pool<3, true>(); }
LayerType global_average_pooling1d() { return global_pool<1, false>(); }
LayerType global_average_pooling2d() { return global_pool<2, false>(); }
LayerType global_average_pooling3d() { return global_pool<3, false>(); }

}  // namespace lockstep::layers
