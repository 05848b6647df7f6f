// Layers that pad, crop, repeat or resize along the axes of a sequence, an image or a volume.
#include <fmt/format.h>

#include "host/nn/layer_table.h"
#include "host/nn/layers/axes.h"

namespace lockstep::layers {
namespace {

struct Sides {
  int64_t before = 0, behind = 0;
};

// Keras' `3`, `(1, 2)` (symmetric, an axis each) or `((0, 1), (2, 0))`; for one axis `(1, 2)` is
// before and behind.
Result<std::vector<Sides>> sides_of(const LayerContext& layer, const char* key, size_t axes) {
  const nlohmann::json& value = layer.at(key);
  const Error wrong = layer.error(
      fmt::format("{} must be a whole number, one for each axis, or a pair for each, not {}", key,
                  value.dump()));
  const auto number = [](const nlohmann::json& item) {
    return item.is_number_integer() && item.get<int64_t>() >= 0 && item.get<int64_t>() < 1 << 30;
  };
  const auto pair = [&](const nlohmann::json& item) {
    return item.is_array() && item.size() == 2 && number(item[0]) && number(item[1]);
  };
  if (number(value)) return std::vector<Sides>(axes, {value, value});
  if (axes == 1 && pair(value)) return std::vector<Sides>{{value[0], value[1]}};
  if (!value.is_array() || value.size() != axes) return wrong;
  std::vector<Sides> sides;
  for (const nlohmann::json& item : value) {
    if (number(item)) {
      sides.push_back({item, item});
    } else if (pair(item)) {
      sides.push_back({item[0], item[1]});
    } else {
      return wrong;
    }
  }
  return sides;
}

template <size_t kAxes, bool kPad>
Result<SymbolicTensor> build_sides(LayerContext& layer, const Tensors& inputs) {
  LOCKSTEP_RETURN_IF_ERROR(layer.check_inputs(inputs, 1));
  const Shape& shape = inputs[0].shape;
  LOCKSTEP_ASSIGN(const size_t first, first_spatial_axis(layer, shape, kAxes));
  LOCKSTEP_ASSIGN(const auto sides, sides_of(layer, kPad ? "padding" : "cropping", kAxes));
  std::vector<AxisLists> axes;
  for (size_t axis = 0; axis < shape.size(); ++axis) {
    const bool spatial = first <= axis && axis < first + kAxes;
    const Sides side = spatial ? sides[axis - first] : Sides{};
    if (!kPad && side.before + side.behind >= shape[axis]) {
      return layer.error(fmt::format("cropping {} leaves nothing of an input of shape {}",
                                     layer.at("cropping").dump(), to_string(shape)));
    }
    axes.push_back(kPad ? padded_axis(shape[axis], side.before, side.behind)
                        : cropped_axis(shape[axis], side.before, side.behind));
  }
  LOCKSTEP_RETURN_IF_ERROR(layer.check_size("output", combined_shape(axes)));
  return gather_axes(layer, inputs[0], axes);
}

template <size_t kAxes, bool kPad>
LayerType sides() {
  return {
      fmt::format("{}{}D", kPad ? "ZeroPadding" : "Cropping", kAxes),
      kPad ? "zeros around its input" : "its input without what lies at its sides",
      {{kPad ? "padding" : "cropping", KeyKind::any, 1}, {"data_format", KeyKind::any, nullptr}},
      build_sides<kAxes, kPad>};
}

template <size_t kAxes>
Result<SymbolicTensor> build_up_sampling(LayerContext& layer, const Tensors& inputs) {
  LOCKSTEP_RETURN_IF_ERROR(layer.check_inputs(inputs, 1));
  const Shape& shape = inputs[0].shape;
  LOCKSTEP_ASSIGN(const size_t first, first_spatial_axis(layer, shape, kAxes));
  const std::vector<int64_t> sizes = layer.sizes("size");
  std::string interpolation = "nearest";
  if constexpr (kAxes == 2) interpolation = layer.text("interpolation");
  LOCKSTEP_RETURN_IF_ERROR(
      layer.check_choice("interpolation", interpolation, {"nearest", "bilinear"}));
  std::vector<AxisLists> axes;
  for (const int64_t size : shape) axes.push_back(whole_axis(size));
  Shape output = shape;
  for (size_t axis = 0; axis < kAxes; ++axis) {
    const int64_t size = shape[first + axis];
    if (sizes[axis] < 1 || sizes[axis] > kLargestTensor / size) {
      return layer.error(fmt::format("size must be at least 1, not {}", sizes[axis]));
    }
    output[first + axis] = size * sizes[axis];
  }
  LOCKSTEP_RETURN_IF_ERROR(layer.check_size("output", output));
  for (size_t axis = 0; axis < kAxes; ++axis) {
    const int64_t size = shape[first + axis];
    axes[first + axis] = interpolation == "nearest" ? repeated_axis(size, sizes[axis])
                                                    : bilinear_axis(size, size * sizes[axis]);
  }
  return gather_axes(layer, inputs[0], axes);
}

template <size_t kAxes>
LayerType up_sampling() {
  LayerType type{fmt::format("UpSampling{}D", kAxes),
                 "its input, enlarged",
                 {{"size", KeyKind::sizes, 2, static_cast<int>(kAxes)},
                  {"data_format", KeyKind::any, nullptr}},
                 build_up_sampling<kAxes>};
  if (kAxes == 2) type.keys.push_back({"interpolation", KeyKind::text, "nearest"});
  return type;
}

Result<SymbolicTensor> build_center_crop(LayerContext& layer, const Tensors& inputs) {
  LOCKSTEP_RETURN_IF_ERROR(layer.check_inputs(inputs, 1));
  const Shape& shape = inputs[0].shape;
  LOCKSTEP_ASSIGN(const size_t first, first_spatial_axis(layer, shape, 2));
  const int64_t sizes[] = {layer.integer("height"), layer.integer("width")};
  std::vector<AxisLists> axes;
  for (const int64_t size : shape) axes.push_back(whole_axis(size));
  for (size_t axis = 0; axis < 2; ++axis) {
    const int64_t size = shape[first + axis];
    if (sizes[axis] < 1 || sizes[axis] > size) {
      return layer.error(fmt::format(
          "its crop of {} x {} does not lie within an input of shape {}; resize it before",
          sizes[0], sizes[1], to_string(shape)));
    }
    const int64_t before = (size - sizes[axis]) / 2;
    axes[first + axis] = cropped_axis(size, before, size - sizes[axis] - before);
  }
  return gather_axes(layer, inputs[0], axes);
}

Result<SymbolicTensor> build_resizing(LayerContext& layer, const Tensors& inputs) {
  LOCKSTEP_RETURN_IF_ERROR(layer.check_inputs(inputs, 1));
  const Shape& shape = inputs[0].shape;
  LOCKSTEP_ASSIGN(const size_t first, first_spatial_axis(layer, shape, 2));
  const std::string interpolation = layer.text("interpolation");
  LOCKSTEP_RETURN_IF_ERROR(
      layer.check_choice("interpolation", interpolation, {"bilinear", "nearest"}));
  for (const char* key : {"crop_to_aspect_ratio", "pad_to_aspect_ratio", "antialias"}) {
    if (layer.flag(key)) return layer.error(fmt::format("{} is not supported yet", key));
  }
  const int64_t sizes[] = {layer.integer("height"), layer.integer("width")};
  std::vector<AxisLists> axes;
  for (const int64_t size : shape) axes.push_back(whole_axis(size));
  for (size_t axis = 0; axis < 2; ++axis) {
    if (sizes[axis] < 1 || sizes[axis] > 1 << 20) {
      return layer.error(
          fmt::format("height and width must be positive, not {} and {}", sizes[0], sizes[1]));
    }
    axes[first + axis] = interpolation == "nearest"
                             ? nearest_axis(shape[first + axis], sizes[axis])
                             : bilinear_axis(shape[first + axis], sizes[axis]);
  }
  LOCKSTEP_RETURN_IF_ERROR(layer.check_size("output", combined_shape(axes)));
  return gather_axes(layer, inputs[0], axes);
}

}  // namespace

LayerType zero_padding1d() { return sides<1, true>(); }
LayerType zero_padding2d() { return sides<2, true>(); }
LayerType zero_padding3d() { return sides<3, true>(); }
LayerType cropping1d() { return sides<1, false>(); }
LayerType cropping2d() { return sides<2, false>(); }
LayerType cropping3d() { return sides<3, false>(); }
LayerType up_sampling1d() { return up_sampling<1>(); }
LayerType up_sampling2d() { return up_sampling<2>(); }
LayerType up_sampling3d() { return up_sampling<3>(); }

LayerType center_crop() {
  return {"CenterCrop",
          "the middle of an image",
          {{"height", KeyKind::integer},
           {"width", KeyKind::integer},
           {"data_format", KeyKind::any, nullptr}},
          build_center_crop};
}

LayerType resizing() {
  return {"Resizing",
          "an image of another size",
          {{"height", KeyKind::integer},
           {"width", KeyKind::integer},
           {"interpolation", KeyKind::text, "bilinear"},
           {"crop_to_aspect_ratio", KeyKind::flag, false},
           {"pad_to_aspect_ratio", KeyKind::flag, false},
           {"fill_mode", KeyKind::any, "constant"},
           {"fill_value", KeyKind::any, 0.0},
           {"antialias", KeyKind::flag, false},
           {"data_format", KeyKind::any, nullptr}},
          build_resizing};
}

}  // namespace lockstep::layers
