// What lists of indices (device/ops.h) amount to: axes in another order, padding, whole blocks.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "host/device/ops.h"
#include "host/tensor/shape.h"

namespace lockstep {

// Place i of an axis is read `stride` entries behind place i - 1.
struct IndexAxis {
  int64_t count = 1;
  int64_t stride = 0;
};
using IndexAxes = std::vector<IndexAxis>;

// The axes, the last running fastest, whose places lie where `index` says: index[0] must be 0.
// Nothing where it has no such form.
std::optional<IndexAxes> regular_axes(std::span<const int32_t> index);

// Cuts an axis in two where needed, so that the last axes have `inner` places together: the number
// of the first of these. Nothing where it cannot be cut.
std::optional<size_t> cut_axes(IndexAxes* axes, int64_t inner);

// The numbers of those axes that do not stand still, in the order in which they lie in a row of
// `features` entries, each of which they read once; nothing where they do not.
std::optional<std::vector<size_t>> memory_order(const IndexAxes& axes, int64_t features);

// The entries before each axis where the lists put a row of shape `in` into one of shape `out`, and
// leave the rest empty. Nothing where they do something else.
std::optional<Shape> padding_before(const IndexLists& lists, const Shape& in, const Shape& out);

// The largest B so that outputs and inputs fall into blocks of B, and an output's list is that of
// the first in its block, moved on by its place there.
int64_t block_size(const IndexLists& lists);

// Along an axis output o reads [o * stride - before, o * stride - before + size), as far as that
// lies within.
struct IndexWindows {
  int64_t size = 1, stride = 1, before = 0, behind = 0;
};

// The windows along height and width, channel by channel, where the lists read such of images
// (height, width, channels) and weigh all of a window alike: by `mean` as one whole, else each as
// one. Nothing where they do something else.
std::optional<std::array<IndexWindows, 2>> windows_of_images(const IndexLists& lists,
                                                             const Shape& in, const Shape& out,
                                                             bool mean);

// Where the inputs, of these features, lie side by side in each of several equal parts of the
// outputs: how many parts.
std::optional<int64_t> joined_parts(const IndexLists& lists, const std::vector<int64_t>& features);

}  // namespace lockstep
