// Gathers: transposed axes, repetitions, sums over axes, pools, padding and joins have operators of
// their own; all others read whole blocks by an index.
#include <algorithm>
#include <limits>
#include <numeric>
#include <utility>

#include "host/core/check.h"
#include "host/keras/onnx_map.h"

namespace lockstep {
namespace {

// One gather on its way into the graph.
struct OnnxGather {
  const std::string& name;
  int value;  // what is read
  int output;
  OnnxValues* values;

  std::string node(const std::string& type, const std::vector<std::string>& inputs,
                   std::vector<OnnxAttribute> attributes = {}) const {
    return values->onnx().add_node(type, inputs, name + "/" + type, std::move(attributes));
  }
  std::string numbers(const std::vector<int64_t>& list) const {
    return values->onnx().add_numbers(list);
  }
  // The sum or the largest over axes of a tensor, which go.
  std::string reduced(const std::string& tensor, const std::vector<int64_t>& axes,
                      Gathering gathering) const {
    if (gathering == Gathering::sum) {
      return node("ReduceSum", {tensor, numbers(axes)}, {{"keepdims", int64_t{0}}});
    }
    return node("ReduceMax", {tensor}, {{"axes", axes}, {"keepdims", int64_t{0}}});
  }
};

IndexLists lists_of_axes(const IndexAxes& axes, int64_t features) {
  IndexLists lists;
  lists.inputs = features;
  lists.index = {0};
  for (const IndexAxis& axis : axes) {
    std::vector<int32_t> next;
    for (const int32_t before : lists.index) {
      for (int64_t i = 0; i < axis.count; ++i) {
        next.push_back(static_cast<int32_t>(before + i * axis.stride));
      }
    }
    lists.index = std::move(next);
  }
  lists.begin.resize(lists.index.size() + 1);
  std::iota(lists.begin.begin(), lists.begin.end(), int64_t{0});
  return lists;
}

// Channels to the end or to the front of an image: another way to see the same tensor.
bool add_moved_channels(const OnnxGather& gather, const IndexAxes& axes) {
  if (axes.size() != 2 || axes[0].stride == 0 || axes[1].stride != axes[0].count) return false;
  const OnnxValues::View from = gather.values->native(gather.value);
  const int64_t first = axes[0].count, last = axes[1].count;
  if (from.is_image && from.row[2] == first) {
    gather.values->set_rows(gather.output, {first, from.row[0], from.row[1]}, from.tensor);
    return true;
  }
  const std::optional<Shape> image = image_of(gather.values->shape(gather.output));
  if (!image || (*image)[2] != last || (*image)[0] * (*image)[1] != first) return false;
  gather.values->set_image(
      gather.output, *image,
      gather.values->rows(gather.value, {(*image)[2], (*image)[0], (*image)[1]}));
  return true;
}

// Reads a value, every entry once and perhaps repeated, along axes of which those from `inner` on
// are reduced. False where the axes are not such.
bool add_axes(const OnnxGather& gather, IndexAxes axes, int64_t features, int64_t inner_places,
              Gathering gathering) {
  const std::optional<size_t> inner = cut_axes(&axes, inner_places);
  const std::optional<std::vector<size_t>> order = memory_order(axes, features);
  if (!inner || !order) return false;
  Shape row;
  std::vector<int64_t> reduced_axes;
  std::vector<size_t> kept;
  for (const size_t axis : *order) {
    row.push_back(axes[axis].count);
    if (axis >= *inner) {
      reduced_axes.push_back(std::ssize(row));
    } else {
      kept.push_back(axis);
    }
  }
  const bool repeats_reduced =
      std::any_of(axes.begin() + static_cast<std::ptrdiff_t>(*inner), axes.end(),
                  [](const IndexAxis& axis) { return axis.stride == 0; });
  if (repeats_reduced) return false;
  const bool is_sorted = std::is_sorted(kept.begin(), kept.end());
  if (reduced_axes.empty() && !is_sorted && add_moved_channels(gather, axes)) return true;

  std::string tensor;
  const OnnxValues::View from = gather.values->native(gather.value);
  const bool over_image = from.is_image && reduced_axes == std::vector<int64_t>{1} &&
                          row.size() == 2 && row[1] == from.row[2];
  if (over_image) {
    tensor = gather.reduced(from.tensor, {2, 3}, gathering);
  } else {
    tensor = gather.values->rows(gather.value, row);
    if (!reduced_axes.empty()) tensor = gather.reduced(tensor, reduced_axes, gathering);
  }
  Shape stretched;
  for (size_t axis = 0; axis < *inner; ++axis) stretched.push_back(axes[axis].count);
  if (!is_sorted) {
    std::vector<int64_t> permutation = {0};
    for (size_t axis = 0; axis < *inner; ++axis) {
      const auto found = std::find(kept.begin(), kept.end(), axis);
      if (found != kept.end()) permutation.push_back(found - kept.begin() + 1);
    }
    tensor = gather.node("Transpose", {tensor}, {{"perm", permutation}});
  }
  if (kept.size() != stretched.size()) {
    std::vector<int64_t> ones = {0}, sizes = {1};
    for (size_t axis = 0; axis < *inner; ++axis) {
      ones.push_back(axes[axis].stride == 0 ? 1 : axes[axis].count);
      sizes.push_back(axes[axis].count);
    }
    tensor = gather.node("Reshape", {tensor, gather.numbers(ones)});
    tensor = gather.node("Expand", {tensor, gather.numbers(sizes)});
  }
  gather.values->set_rows(gather.output, stretched, tensor);
  return true;
}

// Zeros, or another number, around what is there.
bool add_padding(const OnnxGather& gather, const GatherOp& op, const Shape& in) {
  const Shape out = gather.values->shape(gather.output);
  const std::optional<Shape> before = padding_before(*op.lists, in, out);
  if (!before) return false;
  const OnnxValues::View native = gather.values->native(gather.value);
  const std::optional<Shape> image = image_of(out);
  const bool as_image = native.is_image && image && native.row == image_of(in);
  std::vector<int64_t> pads(2 * in.size() + 2, 0);
  for (size_t axis = 0; axis < in.size(); ++axis) {
    pads[1 + axis] = (*before)[axis];
    pads[2 + in.size() + axis] = out[axis] - in[axis] - (*before)[axis];
  }
  std::string tensor = as_image ? native.tensor : gather.values->rows(gather.value, in);
  if (as_image) {  // (batch, [height,] width, channels), before and behind
    const size_t axes = in.size() + 1;
    std::vector<int64_t> moved;
    for (const size_t side : {size_t{0}, axes}) {
      const auto at = [&](size_t axis) { return pads[side + axis]; };
      moved.push_back(0);
      moved.push_back(at(axes - 1));
      moved.push_back(axes == 4 ? at(1) : 0);
      moved.push_back(at(axes - 2));
    }
    pads = moved;
  }
  const std::string fill =
      gather.values->onnx().add_floats(gather.name + "/fill", {}, std::span(&op.fill, 1));
  tensor = gather.node("Pad", {tensor, gather.numbers(pads), fill});
  if (as_image) {
    gather.values->set_image(gather.output, *image, tensor);
  } else {
    gather.values->set_rows(gather.output, out, tensor);
  }
  return true;
}

// The mean or the largest of windows of images.
bool add_pool(const OnnxGather& gather, const GatherOp& op) {
  const std::optional<Shape> in = image_of(gather.values->shape(gather.value));
  const std::optional<Shape> out = image_of(gather.values->shape(gather.output));
  if (!in || !out) return false;
  const bool mean = op.gathering == Gathering::sum;
  const auto windows = windows_of_images(*op.lists, *in, *out, mean);
  if (!windows) return false;
  const auto& [down, across] = *windows;
  using List = std::vector<int64_t>;
  const std::string tensor =
      gather.node(mean ? "AveragePool" : "MaxPool", {gather.values->image(gather.value, *in)},
                  {{"kernel_shape", List{down.size, across.size}},
                   {"strides", List{down.stride, across.stride}},
                   {"pads", List{down.before, across.before, down.behind, across.behind}}});
  gather.values->set_image(gather.output, *out, tensor);
  return true;
}

// An index and a factor for each place of each block's list; lists that are shorter than the
// longest read an entry that is put behind the value.
void add_blocks(const OnnxGather& gather, const GatherOp& op) {
  const IndexLists& lists = *op.lists;
  const int64_t block = block_size(lists), blocks = lists.outputs() / block;
  int64_t longest = 1;
  for (size_t o = 0; o + 1 < lists.begin.size(); ++o) {
    longest = std::max(longest, lists.begin[o + 1] - lists.begin[o]);
  }
  const auto missing = static_cast<int32_t>(lists.inputs / block);
  std::vector<int32_t> index(static_cast<size_t>(blocks * longest), missing);
  std::vector<float> factor(index.size(), 1.0f);
  for (int64_t b = 0; b < blocks; ++b) {
    const int64_t begin = lists.begin[static_cast<size_t>(b * block)];
    const int64_t end = lists.begin[static_cast<size_t>(b * block) + 1];
    for (int64_t i = begin; i < end; ++i) {
      const auto to = static_cast<size_t>(b * longest + i - begin);
      index[to] = static_cast<int32_t>(lists.index[static_cast<size_t>(i)] / block);
      if (!lists.factor.empty()) factor[to] = lists.factor[static_cast<size_t>(i)];
    }
  }
  OnnxGraph& onnx = gather.values->onnx();
  std::string tensor = gather.values->rows(gather.value, {missing, block});
  if (std::find(index.begin(), index.end(), missing) != index.end()) {
    const float lowest = -std::numeric_limits<float>::infinity();
    const float fill = longest == 1 ? op.fill : op.gathering == Gathering::sum ? 0.0f : lowest;
    tensor = gather.node("Pad", {tensor, gather.numbers({0, 0, 0, 0, 1, 0}),
                                 onnx.add_floats(gather.name + "/fill", {}, std::span(&fill, 1))});
  }
  const bool reduces = longest > 1;
  const Shape places = reduces ? Shape{blocks, longest} : Shape{blocks};
  tensor = gather.node("Gather", {tensor, onnx.add_indices(gather.name + "/index", places, index)},
                       {{"axis", int64_t{1}}});
  if (!lists.factor.empty()) {
    Shape each = places;
    each.push_back(1);
    tensor = gather.node("Mul", {tensor, onnx.add_floats(gather.name + "/factor", each, factor)});
  }
  if (reduces) tensor = gather.reduced(tensor, {2}, op.gathering);
  gather.values->set_rows(gather.output, {blocks, block}, tensor);
}

// All lists of one length and one factor, read along axes.
bool add_even_lists(const OnnxGather& gather, const GatherOp& op, StretchedValues* stretched) {
  const IndexLists& lists = *op.lists;
  const int64_t length = lists.begin[1];
  for (size_t o = 0; o + 1 < lists.begin.size(); ++o) {
    if (lists.begin[o + 1] - lists.begin[o] != length) return false;
  }
  const float factor = lists.factor.empty() ? 1.0f : lists.factor[0];
  const auto differs = [&](float other) { return other != factor; };
  if (std::any_of(lists.factor.begin(), lists.factor.end(), differs)) return false;
  const std::optional<IndexAxes> axes = regular_axes(lists.index);
  if (!axes) return false;
  if (factor != 1) {
    OnnxGather sums{gather.name, gather.value, gather.values->add_value(), gather.values};
    if (!add_axes(sums, *axes, lists.inputs, length, op.gathering)) return false;
    const OnnxValues::View sum = gather.values->native(sums.output);
    const std::string scale =
        gather.values->onnx().add_floats(gather.name + "/factor", {}, std::span(&factor, 1));
    gather.values->set_rows(gather.output, sum.row, gather.node("Mul", {sum.tensor, scale}));
    return true;
  }
  if (!add_axes(gather, *axes, lists.inputs, length, op.gathering)) return false;
  // A broadcast repeats the whole value, and each of its entries.
  const std::optional<std::vector<size_t>> order = memory_order(*axes, lists.inputs);
  if (length != 1 || !order || order->size() > 1) return true;
  Broadcast broadcast{1, lists.inputs};
  if (!order->empty()) {
    for (size_t i = order->front() + 1; i < axes->size(); ++i) {
      broadcast.divisor *= (*axes)[i].count;
    }
  }
  (*stretched)[gather.output] = {gather.value, broadcast};
  return true;
}

// Whether the op copies its only input as it is.
bool is_identity(const GatherOp& op) {
  const IndexLists& lists = *op.lists;
  if (!lists.factor.empty() || lists.outputs() != lists.inputs ||
      std::ssize(lists.index) != lists.inputs) {
    return false;
  }
  for (size_t i = 0; i < lists.index.size(); ++i) {
    if (lists.index[i] != static_cast<int32_t>(i)) return false;
    if (lists.begin[i] != static_cast<int64_t>(i)) return false;
  }
  return true;
}

// All inputs are known numbers: so is the result.
bool add_constant(const OpDesc& op, const GatherOp& gather, OnnxValues* values) {
  std::vector<float> from;
  for (const int input : op.inputs) {
    const std::vector<float>* numbers = values->constant(input);
    if (numbers == nullptr) return false;
    from.insert(from.end(), numbers->begin(), numbers->end());
  }
  const IndexLists& lists = *gather.lists;
  std::vector<float> to;
  for (size_t o = 0; o + 1 < lists.begin.size(); ++o) {
    float number = lists.begin[o] == lists.begin[o + 1] ? gather.fill : 0;
    for (auto i = static_cast<size_t>(lists.begin[o]); i < static_cast<size_t>(lists.begin[o + 1]);
         ++i) {
      const bool is_first = std::cmp_equal(i, lists.begin[o]);
      const float term = from[static_cast<size_t>(lists.index[i])] *
                         (lists.factor.empty() ? 1.0f : lists.factor[i]);
      number = is_first                             ? term
               : gather.gathering == Gathering::sum ? number + term
                                                    : std::max(number, term);
    }
    to.push_back(number);
  }
  values->set_constant(op.outputs[0], std::move(to));
  return true;
}

// The images' own shape where all inputs are ready as images and are joined by their channels.
std::optional<Shape> joined_image(const OpDesc& op, const GatherOp& gather, int64_t parts,
                                  OnnxValues* values) {
  Shape joined;
  for (size_t i = 0; i < op.inputs.size(); ++i) {
    if (values->constant(op.inputs[i]) != nullptr) return std::nullopt;
    const OnnxValues::View view = values->native(op.inputs[i]);
    if (!view.is_image || view.row[2] * parts != gather.input_features[i]) return std::nullopt;
    if (i == 0) joined = {view.row[0], view.row[1], 0};
    if (view.row[0] != joined[0] || view.row[1] != joined[1]) return std::nullopt;
    joined[2] += view.row[2];
  }
  return joined;
}

// Several inputs one behind the other in each of `parts` equal parts.
void add_join(const OpDesc& op, const GatherOp& gather, int64_t parts, int output,
              OnnxValues* values) {
  const std::optional<Shape> image = joined_image(op, gather, parts, values);
  std::vector<std::string> tensors;
  Shape row = parts == 1 ? Shape{} : Shape{parts};
  int64_t run = 0;
  for (size_t i = 0; i < op.inputs.size(); ++i) {
    Shape own = row;
    own.push_back(gather.input_features[i] / parts);
    tensors.push_back(image ? values->native(op.inputs[i]).tensor
                            : values->rows(op.inputs[i], own));
    run += own.back();
  }
  row.push_back(run);
  const std::string tensor = values->onnx().add_node(
      "Concat", tensors, op.name + "/Concat", {{"axis", image ? int64_t{1} : std::ssize(row)}});
  if (image) {
    values->set_image(output, *image, tensor);
  } else {
    values->set_rows(output, row, tensor);
  }
}

}  // namespace

bool is_onnx_gather(const GatherOp& gather) {
  const std::vector<int64_t>& begin = gather.lists->begin;
  int64_t longest = 0, shortest = gather.lists->inputs;
  for (size_t o = 0; o + 1 < begin.size(); ++o) {
    longest = std::max(longest, begin[o + 1] - begin[o]);
    shortest = std::min(shortest, begin[o + 1] - begin[o]);
  }
  const bool sums_nothing_to_0 = gather.gathering == Gathering::sum && gather.fill == 0;
  return longest <= 1 || shortest > 0 || sums_nothing_to_0;
}

void add_onnx_gather(const OpDesc& op, const GatherOp& gather, StretchedValues* stretched,
                     OnnxValues* values) {
  if (add_constant(op, gather, values)) return;
  int value = op.inputs[0];
  if (op.inputs.size() > 1) {
    const std::optional<int64_t> parts = joined_parts(*gather.lists, gather.input_features);
    if (!parts) value = values->add_value();
    add_join(op, gather, parts.value_or(1), parts ? op.outputs[0] : value, values);
    if (parts) return;
  } else if (is_identity(gather)) {
    return values->set_same(op.outputs[0], value);
  }
  const OnnxGather one{op.name, value, op.outputs[0], values};
  if (op.inputs.size() == 1 && add_pool(one, gather)) return;
  if (add_even_lists(one, gather, stretched)) return;
  if (op.inputs.size() == 1 && add_padding(one, gather, values->shape(value))) return;
  add_blocks(one, gather);
}

int add_onnx_axes(const std::string& name, int value, int64_t features, const IndexAxes& axes,
                  OnnxValues* values) {
  IndexAxes longer;
  for (const IndexAxis& axis : axes) {
    if (axis.count > 1) longer.push_back(axis);
  }
  const OnnxGather gather{name, value, values->add_value(), values};
  if (add_axes(gather, longer, features, 1, Gathering::sum)) return gather.output;
  GatherOp op;
  op.lists = std::make_shared<IndexLists>(lists_of_axes(longer, features));
  add_blocks(gather, op);
  return gather.output;
}

}  // namespace lockstep
