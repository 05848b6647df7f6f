#include "host/keras/onnx_index.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace lockstep {
namespace {

std::span<const int32_t> list_of(const IndexLists& lists, int64_t output) {
  const auto begin = lists.begin[static_cast<size_t>(output)];
  const auto end = lists.begin[static_cast<size_t>(output) + 1];
  return std::span(lists.index)
      .subspan(static_cast<size_t>(begin), static_cast<size_t>(end - begin));
}

bool has_one_each(const IndexLists& lists) {
  return lists.factor.empty() && std::ssize(lists.index) == lists.outputs() &&
         std::adjacent_find(lists.begin.begin(), lists.begin.end()) == lists.begin.end();
}

// Whether `output` reads what the output before it reads, one entry further on, as strongly.
bool goes_on(const IndexLists& lists, int64_t output) {
  const auto before = list_of(lists, output - 1), here = list_of(lists, output);
  if (before.size() != here.size()) return false;
  for (size_t i = 0; i < here.size(); ++i) {
    if (here[i] != before[i] + 1) return false;
  }
  if (lists.factor.empty()) return true;
  const auto begin = lists.factor.begin();
  return std::equal(begin + lists.begin[static_cast<size_t>(output)],
                    begin + lists.begin[static_cast<size_t>(output) + 1],
                    begin + lists.begin[static_cast<size_t>(output) - 1]);
}

Shape coordinates(int64_t place, const Shape& shape) {
  Shape at(shape.size());
  for (size_t axis = shape.size(); axis-- > 0;) {
    at[axis] = place % shape[axis];
    place /= shape[axis];
  }
  return at;
}

struct Span {
  int64_t begin = 0, end = 0;
};

// The windows that reach over these spans of an axis of `size` entries.
std::optional<IndexWindows> fit_windows(const std::vector<Span>& spans, int64_t size) {
  IndexWindows windows;
  for (size_t o = 0; o < spans.size(); ++o) {
    windows.size = std::max(windows.size, spans[o].end - spans[o].begin);
    if (o == 0) continue;
    windows.stride = std::max(
        {windows.stride, spans[o].begin - spans[o - 1].begin, spans[o].end - spans[o - 1].end});
  }
  windows.before = windows.size - spans[0].end;
  const int64_t reach = (std::ssize(spans) - 1) * windows.stride + windows.size - windows.before;
  windows.behind = std::max<int64_t>(reach - size, 0);
  if (windows.before < 0 || reach + windows.stride <= size) return std::nullopt;
  for (size_t o = 0; o < spans.size(); ++o) {
    const int64_t first = static_cast<int64_t>(o) * windows.stride - windows.before;
    if (spans[o].begin != std::max<int64_t>(first, 0) ||
        spans[o].end != std::min(first + windows.size, size)) {
      return std::nullopt;
    }
  }
  return windows;
}

}  // namespace

std::optional<IndexAxes> regular_axes(std::span<const int32_t> index) {
  const int64_t size = std::ssize(index);
  if (size == 0 || index[0] != 0) return std::nullopt;
  const auto at = [&](int64_t place) { return int64_t{index[static_cast<size_t>(place)]}; };
  // An axis goes on as long as its first entries do: where the next axis goes on alike, they are
  // one.
  IndexAxes axes;
  for (int64_t step = 1; step < size;) {
    IndexAxis axis{1, at(step)};
    while (axis.count * step < size && at(axis.count * step) == axis.count * axis.stride) {
      ++axis.count;
    }
    step *= axis.count;
    if (size % step != 0) return std::nullopt;
    axes.insert(axes.begin(), axis);
  }
  for (int64_t place = 0; place < size; ++place) {
    int64_t rest = place, expected = 0;
    for (size_t i = axes.size(); i-- > 0;) {
      expected += rest % axes[i].count * axes[i].stride;
      rest /= axes[i].count;
    }
    if (at(place) != expected) return std::nullopt;
  }
  return axes;
}

std::optional<size_t> cut_axes(IndexAxes* axes, int64_t inner) {
  size_t first = axes->size();
  while (inner > 1) {
    if (first == 0) return std::nullopt;
    const IndexAxis axis = (*axes)[--first];
    if (inner % axis.count == 0) {
      inner /= axis.count;
      continue;
    }
    if (axis.count % inner != 0) return std::nullopt;
    (*axes)[first] = {axis.count / inner, axis.stride * inner};
    axes->insert(axes->begin() + static_cast<std::ptrdiff_t>(++first), {inner, axis.stride});
    inner = 1;
  }
  return first;
}

std::optional<std::vector<size_t>> memory_order(const IndexAxes& axes, int64_t features) {
  std::vector<size_t> order;
  for (size_t i = 0; i < axes.size(); ++i) {
    if (axes[i].stride != 0) order.push_back(i);
  }
  std::sort(order.begin(), order.end(),
            [&](size_t a, size_t b) { return axes[a].stride > axes[b].stride; });
  int64_t covered = 1;
  for (auto i = order.rbegin(); i != order.rend(); ++i) {
    if (axes[*i].stride != covered) return std::nullopt;
    covered *= axes[*i].count;
  }
  if (covered != features) return std::nullopt;
  return order;
}

std::optional<Shape> padding_before(const IndexLists& lists, const Shape& in, const Shape& out) {
  if (in.size() != out.size() || !lists.factor.empty() ||
      std::ssize(lists.index) != element_count(in)) {
    return std::nullopt;
  }
  int64_t first = 0;
  while (list_of(lists, first).empty()) ++first;
  const Shape before = coordinates(first, out);
  for (int64_t o = 0; o < lists.outputs(); ++o) {
    const Shape at = coordinates(o, out);
    int64_t from = 0;
    for (size_t axis = 0; axis < in.size(); ++axis) {
      const int64_t i = at[axis] - before[axis];
      from = from < 0 || i < 0 || i >= in[axis] ? -1 : from * in[axis] + i;
    }
    const auto list = list_of(lists, o);
    const bool fits = from < 0 ? list.empty() : list.size() == 1 && list[0] == from;
    if (!fits) return std::nullopt;
  }
  return before;
}

int64_t block_size(const IndexLists& lists) {
  int64_t size = std::gcd(lists.outputs(), lists.inputs);
  for (int64_t o = 1; o < lists.outputs() && size > 1; ++o) {
    if (o % size != 0 && !goes_on(lists, o)) size = std::gcd(size, o);
  }
  // Smaller blocks begin where larger ones do, or a multiple of their size further on.
  for (int64_t o = 0; o < lists.outputs(); o += size) {
    for (const int32_t index : list_of(lists, o)) size = std::gcd(size, int64_t{index});
  }
  return size;
}

std::optional<std::array<IndexWindows, 2>> windows_of_images(const IndexLists& lists,
                                                             const Shape& in, const Shape& out,
                                                             bool mean) {
  const int64_t channels = in[2], width = in[1];
  if (out[2] != channels || block_size(lists) % channels != 0) return std::nullopt;
  const auto pixels = [&](int64_t y, int64_t x) {
    return list_of(lists, (y * out[1] + x) * channels);
  };
  std::vector<Span> rows, columns;
  for (int64_t y = 0; y < out[0]; ++y) {
    const auto list = pixels(y, 0);
    if (list.empty()) return std::nullopt;
    rows.push_back({list.front() / channels / width, list.back() / channels / width + 1});
  }
  for (int64_t x = 0; x < out[1]; ++x) {
    const auto list = pixels(0, x);
    if (list.empty()) return std::nullopt;
    columns.push_back({list.front() / channels % width, list.back() / channels % width + 1});
  }
  const auto down = fit_windows(rows, in[0]), across = fit_windows(columns, width);
  if (!down || !across) return std::nullopt;
  for (int64_t y = 0; y < out[0]; ++y) {
    for (int64_t x = 0; x < out[1]; ++x) {
      const auto list = pixels(y, x);
      const Span row = rows[static_cast<size_t>(y)], column = columns[static_cast<size_t>(x)];
      size_t next = 0;
      for (int64_t i = row.begin; i < row.end; ++i) {
        for (int64_t k = column.begin; k < column.end; ++k, ++next) {
          if (next >= list.size() || list[next] != (i * width + k) * channels) return std::nullopt;
        }
      }
      if (next != list.size()) return std::nullopt;
      const auto first =
          static_cast<size_t>(lists.begin[static_cast<size_t>((y * out[1] + x) * channels)]);
      const float whole = mean ? static_cast<float>(next) : 1.0f;
      for (size_t i = 0; i < next; ++i) {
        const float factor = lists.factor.empty() ? 1.0f : lists.factor[first + i];
        if (std::abs(factor * whole - 1) > 1e-6f) return std::nullopt;
      }
    }
  }
  return {{*down, *across}};
}

std::optional<int64_t> joined_parts(const IndexLists& lists, const std::vector<int64_t>& features) {
  if (!has_one_each(lists) || lists.outputs() != lists.inputs) return std::nullopt;
  int64_t run = 0;
  while (run < features[0] && lists.index[static_cast<size_t>(run)] == run) ++run;
  if (run == 0 || features[0] % run != 0) return std::nullopt;
  const int64_t parts = features[0] / run;
  for (const int64_t count : features) {
    if (count % parts != 0) return std::nullopt;
  }
  size_t o = 0;
  for (int64_t part = 0; part < parts; ++part) {
    int64_t begin = 0;
    for (const int64_t count : features) {
      for (int64_t i = 0; i < count / parts; ++i) {
        if (lists.index[o++] != begin + part * (count / parts) + i) return std::nullopt;
      }
      begin += count;
    }
  }
  return parts;
}

}  // namespace lockstep
