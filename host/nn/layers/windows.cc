#include "host/nn/layers/windows.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

namespace lockstep::layers {
namespace {

bool is_allowed(const std::vector<int64_t>& sizes) {
  return std::all_of(sizes.begin(), sizes.end(),
                     [](int64_t size) { return 1 <= size && size <= kLargestWindow; });
}

std::string to_text(const std::vector<int64_t>& sizes) {
  return fmt::format("({})", fmt::join(sizes, ", "));
}

}  // namespace

Status check_windows(const LayerContext& layer, const char* window_key,
                     const std::vector<int64_t>& window, const std::vector<int64_t>& strides,
                     const Shape& input, bool causal) {
  std::vector<std::string> paddings = {"valid", "same"};
  if (causal) paddings.push_back("causal");
  LOCKSTEP_RETURN_IF_ERROR(layer.check_choice("padding", layer.text("padding"), paddings));
  if (!is_allowed(window)) {
    return layer.error(fmt::format("{} must be between 1 and {} in each direction, not {}",
                                   window_key, kLargestWindow, to_text(window)));
  }
  if (!is_allowed(strides)) {
    return layer.error(fmt::format("strides must be between 1 and {} in each direction, not {}",
                                   kLargestWindow, to_text(strides)));
  }
  if (layer.text("padding") != "valid") return {};
  for (size_t axis = 0; axis < window.size(); ++axis) {
    if (window[axis] <= input[axis]) continue;
    return layer.error(fmt::format(
        "{} {} is larger than the input of shape {} with padding 'valid'; use padding 'same', a "
        "smaller window or larger inputs",
        window_key, to_text(window), to_string(input)));
  }
  return {};
}

}  // namespace lockstep::layers
