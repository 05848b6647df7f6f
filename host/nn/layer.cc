#include "host/nn/layer.h"

#include <fmt/format.h>

#include <algorithm>

#include "host/core/suggest.h"

namespace lockstep {

bool is_allowed_shape(const Shape& shape) {
  int64_t count = 1;
  for (const int64_t dimension : shape) {
    if (dimension < 1 || dimension > kLargestTensor / count) return false;
    count *= dimension;
  }
  return true;
}

Error Layer::error(const std::string& what) const {
  return usage_error(fmt::format("layer '{}' ({}): {}", name_, class_name(), what));
}

Status Layer::check_axes(const Shape& shape, size_t axes, const std::string& remedy) const {
  if (shape.size() == axes) return {};
  const std::string expected =
      axes == 1 ? "one axis (features)" : "three axes (height, width, channels)";
  return error(
      fmt::format("expected an input of {}, got shape {}; {}", expected, to_string(shape), remedy));
}

Status Layer::check_size(const std::string& what, const Shape& shape) const {
  if (is_allowed_shape(shape)) return {};
  return error(fmt::format("its {} of shape {} has more than {} entries; make the layer smaller",
                           what, to_string(shape), kLargestTensor));
}

Status Layer::check_choice(const std::string& what, const std::string& value,
                           const std::vector<std::string>& known) const {
  if (std::find(known.begin(), known.end(), value) != known.end()) return {};
  return error(unknown_name_message(what, value, known));
}

Result<SymbolicTensor> Layer::activate(GraphBuilder& builder, const SymbolicTensor& input,
                                       const std::string& activation) const {
  LOCKSTEP_RETURN_IF_ERROR(check_choice("activation", activation, {"linear", "relu", "softmax"}));
  const int64_t features = element_count(input.shape);
  if (activation == "relu") {
    return builder.add_op("relu", ReluOp{.features = features}, input, input.shape);
  }
  if (activation == "softmax") {
    LOCKSTEP_RETURN_IF_ERROR(check_axes(input.shape, 1, "add a Flatten before the softmax"));
    return builder.add_op("softmax", SoftmaxOp{.features = features}, input, input.shape);
  }
  return input;
}

}  // namespace lockstep
