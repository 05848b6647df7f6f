#include "host/nn/layers.h"

#include <fmt/format.h>

#include <algorithm>

namespace lockstep {
namespace {

// Windows and strides beyond it would overflow the arithmetic of shapes.
constexpr int64_t kLargestWindow = 65535;
const char* const kNoRoomRemedy = "use padding 'same', a smaller window or larger inputs";

nlohmann::json to_json(const Size2d& size) { return {size.height, size.width}; }

std::string to_text(const Size2d& size) { return fmt::format("({}, {})", size.height, size.width); }

bool is_allowed(const Size2d& size) {
  return std::min(size.height, size.width) >= 1 &&
         std::max(size.height, size.width) <= kLargestWindow;
}

// Where windows lie along one axis, as Keras places them: "same" gives ceil(in / stride) windows
// and puts the odd row of padding last.
struct Placement {
  int64_t count = 0;
  int64_t padding_before = 0;
};

Placement place_windows(int64_t in, int64_t window, int64_t stride, bool same) {
  if (!same) return {(in - window) / stride + 1, 0};
  const int64_t count = (in + stride - 1) / stride;
  const int64_t padding = std::max<int64_t>((count - 1) * stride + window - in, 0);
  return {count, padding / 2};
}

// Checks of a layer that slides a window; "" or what is wrong.
std::string window_fault(const std::string& window_name, const Size2d& window,
                         const Size2d& strides, const std::string& padding, const Shape& input) {
  if (!is_allowed(window)) {
    return fmt::format("{} must be between 1 and {} in each direction, not {}", window_name,
                       kLargestWindow, to_text(window));
  }
  if (!is_allowed(strides)) {
    return fmt::format("strides must be between 1 and {} in each direction, not {}", kLargestWindow,
                       to_text(strides));
  }
  if (padding == "valid" && (window.height > input[0] || window.width > input[1])) {
    return fmt::format("{} {} is larger than the input of shape {} with padding 'valid'; {}",
                       window_name, to_text(window), to_string(input), kNoRoomRemedy);
  }
  return "";
}

}  // namespace

nlohmann::json Conv2D::config() const {
  return {{"name", name()},
          {"filters", options_.filters},
          {"kernel_size", to_json(options_.kernel_size)},
          {"strides", to_json(options_.strides)},
          {"padding", options_.padding},
          {"activation", options_.activation},
          {"use_bias", options_.use_bias},
          {"kernel_initializer", "GlorotUniform"},
          {"bias_initializer", "Zeros"}};
}

Result<SymbolicTensor> Conv2D::build(GraphBuilder& builder, const SymbolicTensor& input) const {
  const Size2d kernel = options_.kernel_size;
  const Size2d strides = options_.strides;
  LOCKSTEP_RETURN_IF_ERROR(check_axes(input.shape, 3, "images of one colour have 1 channel"));
  LOCKSTEP_RETURN_IF_ERROR(check_choice("padding", options_.padding, {"valid", "same"}));
  if (options_.filters < 1) {
    return error(fmt::format("filters must be at least 1, not {}", options_.filters));
  }
  const std::string fault =
      window_fault("kernel_size", kernel, strides, options_.padding, input.shape);
  if (!fault.empty()) return error(fault);

  const bool same = options_.padding == "same";
  const Placement rows = place_windows(input.shape[0], kernel.height, strides.height, same);
  const Placement columns = place_windows(input.shape[1], kernel.width, strides.width, same);
  const Shape output_shape{rows.count, columns.count, options_.filters};
  const Shape kernel_shape{kernel.height, kernel.width, input.shape[2], options_.filters};
  LOCKSTEP_RETURN_IF_ERROR(check_size("output", output_shape));
  LOCKSTEP_RETURN_IF_ERROR(check_size("kernel", kernel_shape));

  Conv2dOp op;
  op.in_height = static_cast<int>(input.shape[0]);
  op.in_width = static_cast<int>(input.shape[1]);
  op.in_channels = static_cast<int>(input.shape[2]);
  op.out_height = static_cast<int>(rows.count);
  op.out_width = static_cast<int>(columns.count);
  op.out_channels = static_cast<int>(options_.filters);
  op.kernel_height = static_cast<int>(kernel.height);
  op.kernel_width = static_cast<int>(kernel.width);
  op.stride_height = static_cast<int>(strides.height);
  op.stride_width = static_cast<int>(strides.width);
  op.pad_top = static_cast<int>(rows.padding_before);
  op.pad_left = static_cast<int>(columns.padding_before);
  op.kernel_offset = builder.add_parameter("kernel", kernel_shape, InitializerKind::glorot_uniform);
  if (options_.use_bias) {
    op.bias_offset = builder.add_parameter("bias", {options_.filters}, InitializerKind::zeros);
  }
  return activate(builder, builder.add_op("forward", op, input, output_shape), options_.activation);
}

MaxPooling2D::MaxPooling2D(Options options) : Layer(options.name), options_(std::move(options)) {
  if (options_.strides.height == 0 && options_.strides.width == 0) {
    options_.strides = options_.pool_size;
  }
}

nlohmann::json MaxPooling2D::config() const {
  return {{"name", name()},
          {"pool_size", to_json(options_.pool_size)},
          {"strides", to_json(options_.strides)},
          {"padding", options_.padding}};
}

Result<SymbolicTensor> MaxPooling2D::build(GraphBuilder& builder,
                                           const SymbolicTensor& input) const {
  const Size2d pool = options_.pool_size;
  const Size2d strides = options_.strides;
  LOCKSTEP_RETURN_IF_ERROR(check_axes(input.shape, 3, "images of one colour have 1 channel"));
  LOCKSTEP_RETURN_IF_ERROR(check_choice("padding", options_.padding, {"valid", "same"}));
  const std::string fault = window_fault("pool_size", pool, strides, options_.padding, input.shape);
  if (!fault.empty()) return error(fault);

  const bool same = options_.padding == "same";
  const Placement rows = place_windows(input.shape[0], pool.height, strides.height, same);
  const Placement columns = place_windows(input.shape[1], pool.width, strides.width, same);
  MaxPool2dOp op;
  op.in_height = static_cast<int>(input.shape[0]);
  op.in_width = static_cast<int>(input.shape[1]);
  op.channels = static_cast<int>(input.shape[2]);
  op.out_height = static_cast<int>(rows.count);
  op.out_width = static_cast<int>(columns.count);
  op.pool_height = static_cast<int>(pool.height);
  op.pool_width = static_cast<int>(pool.width);
  op.stride_height = static_cast<int>(strides.height);
  op.stride_width = static_cast<int>(strides.width);
  op.pad_top = static_cast<int>(rows.padding_before);
  op.pad_left = static_cast<int>(columns.padding_before);
  return builder.add_op("forward", op, input, {rows.count, columns.count, input.shape[2]});
}

nlohmann::json Flatten::config() const { return {{"name", name()}}; }

Result<SymbolicTensor> Flatten::build(GraphBuilder&, const SymbolicTensor& input) const {
  return SymbolicTensor{input.value, {element_count(input.shape)}};
}

nlohmann::json Dense::config() const {
  return {{"name", name()},
          {"units", options_.units},
          {"activation", options_.activation},
          {"use_bias", options_.use_bias},
          {"kernel_initializer", "GlorotUniform"},
          {"bias_initializer", "Zeros"}};
}

Result<SymbolicTensor> Dense::build(GraphBuilder& builder, const SymbolicTensor& input) const {
  LOCKSTEP_RETURN_IF_ERROR(check_axes(input.shape, 1, "add a Flatten before this layer"));
  if (options_.units < 1) {
    return error(fmt::format("units must be at least 1, not {}", options_.units));
  }
  const Shape kernel_shape{input.shape[0], options_.units};
  LOCKSTEP_RETURN_IF_ERROR(check_size("kernel", kernel_shape));
  DenseOp op;
  op.in_features = input.shape[0];
  op.out_features = options_.units;
  op.kernel_offset = builder.add_parameter("kernel", kernel_shape, InitializerKind::glorot_uniform);
  if (options_.use_bias) {
    op.bias_offset = builder.add_parameter("bias", {options_.units}, InitializerKind::zeros);
  }
  return activate(builder, builder.add_op("forward", op, input, {options_.units}),
                  options_.activation);
}

nlohmann::json Dropout::config() const { return {{"name", name()}, {"rate", options_.rate}}; }

Result<SymbolicTensor> Dropout::build(GraphBuilder& builder, const SymbolicTensor& input) const {
  // Written so that a NaN is refused too. Keras takes a rate of 1 and gives zeros.
  if (!(options_.rate >= 0 && options_.rate < 1)) {
    return error(fmt::format("rate must be at least 0 and below 1, not {}", options_.rate));
  }
  const float rate = static_cast<float>(options_.rate);
  if (rate == 0 || !builder.training()) return input;
  if (rate == 1) return error(fmt::format("rate {} rounds to 1 in float32", options_.rate));
  DropoutOp op;
  op.features = element_count(input.shape);
  op.rate = rate;
  op.layer = static_cast<uint32_t>(builder.layer_index());
  return builder.add_op("forward", op, input, input.shape);
}

nlohmann::json ActivationLayer::config() const {
  return {{"name", name()}, {"activation", options_.activation}};
}

Result<SymbolicTensor> ActivationLayer::build(GraphBuilder& builder,
                                              const SymbolicTensor& input) const {
  return activate(builder, input, options_.activation);
}

}  // namespace lockstep
