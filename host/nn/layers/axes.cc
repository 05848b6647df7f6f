#include "host/nn/layers/axes.h"

#include <algorithm>
#include <cmath>

namespace lockstep::layers {

AxisLists whole_axis(int64_t size) { return padded_axis(size, 0, 0); }

AxisLists padded_axis(int64_t size, int64_t before, int64_t behind) {
  AxisLists lists(static_cast<size_t>(before + size + behind));
  for (int64_t i = 0; i < size; ++i) lists[static_cast<size_t>(before + i)] = {{i, 1}};
  return lists;
}

AxisLists cropped_axis(int64_t size, int64_t before, int64_t behind) {
  AxisLists lists;
  for (int64_t i = before; i < size - behind; ++i) lists.push_back({{i, 1}});
  return lists;
}

AxisLists repeated_axis(int64_t size, int64_t times) {
  AxisLists lists;
  for (int64_t i = 0; i < size * times; ++i) lists.push_back({{i / times, 1}});
  return lists;
}

AxisLists windows_of_axis(int64_t size, int64_t window, int64_t stride, bool same, bool mean) {
  const WindowPlacement placement = place_windows(size, window, stride, same);
  AxisLists lists;
  for (int64_t o = 0; o < placement.count; ++o) {
    const int64_t first = o * stride - placement.padding_before;
    const int64_t begin = std::max<int64_t>(first, 0);
    const int64_t end = std::min(first + window, size);
    std::vector<AxisSource> sources;
    const float factor = mean ? 1.0f / static_cast<float>(end - begin) : 1.0f;
    for (int64_t i = begin; i < end; ++i) sources.push_back({i, factor});
    lists.push_back(std::move(sources));
  }
  return lists;
}

AxisLists bilinear_axis(int64_t size, int64_t new_size) {
  AxisLists lists;
  const double scale = static_cast<double>(size) / static_cast<double>(new_size);
  for (int64_t o = 0; o < new_size; ++o) {
    const double at = (static_cast<double>(o) + 0.5) * scale - 0.5;
    const double floor = std::floor(at);
    const auto upper = static_cast<float>(at - floor);
    const auto clamp = [&](int64_t i) { return std::clamp<int64_t>(i, 0, size - 1); };
    const int64_t low = clamp(static_cast<int64_t>(floor));
    const int64_t high = clamp(static_cast<int64_t>(floor) + 1);
    if (low == high || upper == 0) {
      lists.push_back({{low, 1}});
    } else {
      lists.push_back({{low, 1 - upper}, {high, upper}});
    }
  }
  return lists;
}

AxisLists nearest_axis(int64_t size, int64_t new_size) {
  AxisLists lists;
  for (int64_t o = 0; o < new_size; ++o) {
    const double at =
        (static_cast<double>(o) + 0.5) * static_cast<double>(size) / static_cast<double>(new_size);
    lists.push_back({{std::min(static_cast<int64_t>(at), size - 1), 1}});
  }
  return lists;
}

Shape combined_shape(const std::vector<AxisLists>& axes) {
  Shape shape;
  for (const AxisLists& axis : axes) shape.push_back(static_cast<int64_t>(axis.size()));
  return shape;
}

IndexLists combined_axes(const Shape& input, const std::vector<AxisLists>& axes) {
  IndexLists lists;
  bool has_factors = false;
  std::vector<size_t> at(axes.size(), 0);
  const int64_t outputs = element_count(combined_shape(axes));
  lists.begin.push_back(0);
  for (int64_t o = 0; o < outputs; ++o) {
    std::vector<AxisSource> sources = {{0, 1}};
    for (size_t axis = 0; axis < axes.size(); ++axis) {
      std::vector<AxisSource> next;
      for (const AxisSource& source : sources) {
        for (const AxisSource& on_axis : axes[axis][at[axis]]) {
          next.push_back(
              {source.index * input[axis] + on_axis.index, source.factor * on_axis.factor});
        }
      }
      sources = std::move(next);
    }
    for (const AxisSource& source : sources) {
      lists.index.push_back(static_cast<int32_t>(source.index));
      lists.factor.push_back(source.factor);
      has_factors = has_factors || source.factor != 1;
    }
    lists.begin.push_back(static_cast<int64_t>(lists.index.size()));
    for (size_t axis = axes.size(); axis-- > 0;) {
      if (++at[axis] < axes[axis].size()) break;
      at[axis] = 0;
    }
  }
  if (!has_factors) lists.factor.clear();
  return lists;
}

SymbolicTensor gather_axes(LayerContext& layer, const SymbolicTensor& input,
                           const std::vector<AxisLists>& axes, Gathering gathering) {
  return layer.gather("forward", combined_axes(input.shape, axes), {input}, combined_shape(axes),
                      gathering);
}

Result<size_t> first_spatial_axis(const LayerContext& layer, const Shape& shape, size_t spatial) {
  LOCKSTEP_RETURN_IF_ERROR(
      layer.check_axes(shape, spatial + 1, "images of one colour have 1 channel"));
  const std::string format =
      layer.is_null("data_format") ? "channels_last" : layer.text("data_format");
  LOCKSTEP_RETURN_IF_ERROR(
      layer.check_choice("data_format", format, {"channels_last", "channels_first"}));
  return size_t{format == "channels_first" ? 1u : 0u};
}

}  // namespace lockstep::layers
