// Conv1D, Conv2D and Conv3D, and what convolutions share.
#include "host/nn/layers/convolution.h"

#include <fmt/format.h>

#include "host/nn/layer_table.h"
#include "host/nn/layers/axes.h"

namespace lockstep::layers {
namespace {

// The channels go to the end, or from there to the front.
SymbolicTensor move_channels(LayerContext& layer, const SymbolicTensor& input, bool to_end) {
  const int64_t channels = to_end ? input.shape.front() : input.shape.back();
  const int64_t places = input.features() / channels;
  std::vector<int64_t> index;
  for (int64_t o = 0; o < input.features(); ++o) {
    index.push_back(to_end ? o % channels * places + o / channels
                           : o % places * channels + o / places);
  }
  Shape shape = input.shape;
  if (to_end) {
    shape.erase(shape.begin());
    shape.push_back(channels);
  } else {
    shape.pop_back();
    shape.insert(shape.begin(), channels);
  }
  return layer.pick("forward", index, {input}, shape);
}

bool has_channels_first(const LayerContext& layer) {
  return layer.at("data_format") == "channels_first";
}

// A volume's windows laid out as channels, group by group, for a convolution of one place: the
// kernel's entries come in the same order.
SymbolicTensor lay_out_windows(LayerContext& layer, const ConvCall& call, int64_t groups) {
  const std::vector<WindowPlacement> at = call.placements();
  const Shape& in = call.spatial;
  const int64_t group_inputs = call.channels() / groups;
  std::vector<int64_t> index;
  // Output pixel, group, kernel place, channel of the group: the last runs fastest.
  std::vector<int64_t> firsts;  // of each place: the input's pixel, or -1
  const int64_t places = element_count(call.kernel);
  const int64_t pixels = at[0].count * at[1].count * at[2].count;
  for (int64_t pixel = 0; pixel < pixels; ++pixel) {
    const int64_t o[] = {pixel / at[2].count / at[1].count, pixel / at[2].count % at[1].count,
                         pixel % at[2].count};
    firsts.clear();
    for (int64_t place = 0; place < places; ++place) {
      const int64_t k[] = {place / call.kernel[2] / call.kernel[1],
                           place / call.kernel[2] % call.kernel[1], place % call.kernel[2]};
      int64_t from = 0;
      for (size_t axis = 0; axis < 3; ++axis) {
        const int64_t i =
            o[axis] * call.strides[axis] + k[axis] * call.dilation[axis] - at[axis].padding_before;
        from = from < 0 || i < 0 || i >= in[axis] ? -1 : from * in[axis] + i;
      }
      firsts.push_back(from);
    }
    for (int64_t g = 0; g < groups; ++g) {
      for (const int64_t from : firsts) {
        for (int64_t c = 0; c < group_inputs; ++c) {
          index.push_back(from < 0 ? -1 : from * call.channels() + g * group_inputs + c);
        }
      }
    }
  }
  return layer.pick("forward", index, {call.input}, {1, pixels, places * call.channels()});
}

template <size_t kAxes>
Result<SymbolicTensor> build_convolution(LayerContext& layer, const Tensors& inputs) {
  LOCKSTEP_ASSIGN(ConvCall call, read_conv_call(layer, inputs, kAxes));
  LOCKSTEP_RETURN_IF_ERROR(layer.check_positive("filters"));
  LOCKSTEP_RETURN_IF_ERROR(layer.check_positive("groups"));
  const int64_t filters = layer.integer("filters"), groups = layer.integer("groups");
  if (call.channels() % groups != 0 || filters % groups != 0) {
    return layer.error(
        fmt::format("{} groups must divide the {} channels of the input and the {} "
                    "filters",
                    groups, call.channels(), filters));
  }
  const Shape output_shape = call.output_shape(filters);
  const Shape kernel_shape = call.kernel_shape(call.channels() / groups, filters);
  LOCKSTEP_RETURN_IF_ERROR(layer.check_size("output", output_shape));
  LOCKSTEP_RETURN_IF_ERROR(layer.check_size("kernel", kernel_shape));
  const int64_t kernel = layer.parameter("kernel", kernel_shape);
  if (kAxes == 3) {
    const int64_t window = element_count(call.kernel) * call.channels();
    LOCKSTEP_RETURN_IF_ERROR(layer.check_size("all windows of an input",
                                              {element_count(output_shape) / filters, window}));
    call.input = lay_out_windows(layer, call, groups);
    call.spatial = {1, call.input.shape[1]};
    call.kernel = call.strides = call.dilation = {1, 1};
    call.padding = "valid";
  }
  Conv2dOp op = conv_op(call, filters, groups);
  op.kernel_offset = kernel;
  if (layer.flag("use_bias")) op.bias_offset = layer.parameter("bias", {filters});
  return finish_conv(layer, layer.op("forward", op, {call.input}, output_shape));
}

template <size_t kAxes>
LayerType convolution(const char* summary) {
  std::vector<ConfigKey> keys = conv_keys(kAxes, {"kernel"});
  keys.push_back({"filters", KeyKind::integer});
  keys.push_back({"groups", KeyKind::integer, 1});
  return {fmt::format("Conv{}D", kAxes), summary, std::move(keys), build_convolution<kAxes>};
}

Status check_dilation(const LayerContext& layer, const std::vector<int64_t>& dilation) {
  for (const int64_t rate : dilation) {
    if (1 <= rate && rate <= kLargestWindow) continue;
    return layer.error(
        fmt::format("dilation_rate must be between 1 and {} in each direction", kLargestWindow));
  }
  return {};
}

}  // namespace

std::vector<WindowPlacement> ConvCall::placements() const {
  std::vector<WindowPlacement> found;
  for (size_t axis = 0; axis < kernel.size(); ++axis) {
    const int64_t causal = padding == "causal" ? window(axis) - 1 : 0;
    found.push_back(
        place_windows(spatial[axis] + causal, window(axis), strides[axis], padding == "same"));
    found.back().padding_before += causal;
  }
  return found;
}

Shape ConvCall::kernel_shape(int64_t a, int64_t b) const {
  Shape shape(kernel);
  shape.push_back(a);
  shape.push_back(b);
  return shape;
}

Shape ConvCall::output_shape(int64_t filters) const {
  Shape shape;
  for (const WindowPlacement& placement : placements()) shape.push_back(placement.count);
  shape.push_back(filters);
  return shape;
}

Result<ConvCall> read_conv_call(LayerContext& layer, const Tensors& inputs, size_t axes,
                                bool transposed) {
  LOCKSTEP_RETURN_IF_ERROR(layer.check_inputs(inputs, 1));
  LOCKSTEP_ASSIGN(const size_t first, first_spatial_axis(layer, inputs[0].shape, axes));
  ConvCall call;
  call.kernel = layer.sizes("kernel_size");
  call.strides = layer.sizes("strides");
  call.dilation = layer.sizes("dilation_rate");
  call.padding = layer.text("padding");
  LOCKSTEP_RETURN_IF_ERROR(check_dilation(layer, call.dilation));
  std::vector<int64_t> windows;
  for (size_t axis = 0; axis < axes; ++axis) {
    if (call.kernel[axis] == 1) call.dilation[axis] = 1;
    call.spatial.push_back(inputs[0].shape[first + axis]);
    const bool is_allowed = 1 <= call.kernel[axis] && call.kernel[axis] <= kLargestWindow;
    windows.push_back(is_allowed ? call.window(axis) : call.kernel[axis]);
  }
  Shape within = transposed ? windows : call.spatial;
  within.push_back(first == 0 ? inputs[0].shape.back() : inputs[0].shape.front());
  const bool causal =
      layer.text("padding") == "causal" && layer.at("kernel_size").size() == 1 && !transposed;
  LOCKSTEP_RETURN_IF_ERROR(
      check_windows(layer, "kernel_size", windows, call.strides, within, causal));
  call.input = first == 0 ? inputs[0] : move_channels(layer, inputs[0], true);
  return call;
}

Conv2dOp conv_op(const ConvCall& call, int64_t filters, int64_t groups) {
  const std::vector<WindowPlacement> placements = call.placements();
  const auto narrow = [](int64_t value) { return static_cast<int>(value); };
  Conv2dOp op;
  op.in_channels = narrow(call.channels());
  op.out_channels = narrow(filters);
  op.groups = narrow(groups);
  op.in_height = op.out_height = op.kernel_height = 1;
  if (call.kernel.size() == 2) {
    op.in_height = narrow(call.spatial[0]);
    op.out_height = narrow(placements[0].count);
    op.kernel_height = narrow(call.kernel[0]);
    op.stride_height = narrow(call.strides[0]);
    op.dilation_height = narrow(call.dilation[0]);
    op.pad_top = narrow(placements[0].padding_before);
  }
  const size_t last = call.kernel.size() - 1;
  op.in_width = narrow(call.spatial[last]);
  op.out_width = narrow(placements[last].count);
  op.kernel_width = narrow(call.kernel[last]);
  op.stride_width = narrow(call.strides[last]);
  op.dilation_width = narrow(call.dilation[last]);
  op.pad_left = narrow(placements[last].padding_before);
  return op;
}

Result<SymbolicTensor> finish_conv(LayerContext& layer, const SymbolicTensor& output) {
  const SymbolicTensor moved =
      has_channels_first(layer) ? move_channels(layer, output, false) : output;
  return layer.activate(moved, layer.at("activation"));
}

std::vector<ConfigKey> conv_keys(int axes, const std::vector<std::string>& kernels) {
  std::vector<ConfigKey> keys = {
      {"kernel_size", KeyKind::sizes, nlohmann::json::value_t::discarded, axes},
      {"strides", KeyKind::sizes, 1, axes},
      {"padding", KeyKind::text, "valid"},
      {"dilation_rate", KeyKind::sizes, 1, axes},
      {"data_format", KeyKind::any, nullptr},
      {"activation", KeyKind::activation, nullptr},
      {"use_bias", KeyKind::flag, true},
      {"bias_initializer", KeyKind::initializer, "Zeros"},
      {"bias_regularizer", KeyKind::regularizer, nullptr},
      {"bias_constraint", KeyKind::constraint, nullptr},
      {"activity_regularizer", KeyKind::regularizer, nullptr}};
  for (const std::string& kernel : kernels) {
    keys.push_back({kernel + "_initializer", KeyKind::initializer, "GlorotUniform"});
    keys.push_back({kernel + "_regularizer", KeyKind::regularizer, nullptr});
    keys.push_back({kernel + "_constraint", KeyKind::constraint, nullptr});
  }
  return keys;
}

int64_t kernel_parameter(LayerContext& layer, const std::string& name, const std::string& key,
                         const Shape& shape) {
  ParameterSpec spec;
  spec.name = name;
  spec.shape = shape;
  spec.initializer = layer.at((key + "_initializer").c_str());
  spec.regularizer = layer.at((key + "_regularizer").c_str());
  spec.constraint = layer.at((key + "_constraint").c_str());
  return layer.parameter(std::move(spec));
}

// Kernels (sizes…, in / groups, filters).
LayerType conv1d() { return convolution<1>("convolution of sequences"); }
LayerType conv2d() { return convolution<2>("convolution of images"); }
LayerType conv3d() { return convolution<3>("convolution of volumes"); }

}  // namespace lockstep::layers
