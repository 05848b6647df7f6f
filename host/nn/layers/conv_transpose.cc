// Transposed convolutions: the data gradient of a convolution, run forward. That of volumes is one
// of a single place, whose results are added up where windows overlap.
#include <fmt/format.h>

#include <algorithm>

#include "host/nn/layer_table.h"
#include "host/nn/layers/convolution.h"

namespace lockstep::layers {
namespace {

// Along one axis: the output's size, and the padding of the convolution that goes the other way.
struct Transposed {
  int64_t size = 0;
  int64_t pad = 0;
};

// As Keras on JAX: what it pads of the stretched input, in all and before.
Transposed place_transposed(int64_t in, int64_t window, int64_t stride, bool same,
                            const int64_t* output_padding) {
  int64_t before = window - 1;
  int64_t all = 0;
  if (!same) {
    all = 2 * (window - 1) +
          (output_padding != nullptr ? *output_padding : std::max(window, stride) - window);
  } else {
    all =
        output_padding != nullptr ? window + window % 2 - 2 + *output_padding : stride + window - 2;
    before = std::min(all / 2 + all % 2, window - 1);
  }
  return {(in - 1) * stride + 1 + all - (window - 1), window - 1 - before};
}

Result<std::vector<Transposed>> place_outputs(const LayerContext& layer, const ConvCall& call) {
  const bool is_given = !layer.is_null("output_padding");
  std::vector<int64_t> paddings;
  if (is_given) paddings = layer.sizes("output_padding");
  std::vector<Transposed> placed;
  for (size_t axis = 0; axis < call.kernel.size(); ++axis) {
    if (is_given && (paddings[axis] < 0 || paddings[axis] >= call.strides[axis])) {
      return layer.error(fmt::format(
          "output_padding must be at least 0 and less than strides, not {} where strides is {}",
          paddings[axis], call.strides[axis]));
    }
    placed.push_back(place_transposed(call.spatial[axis], call.window(axis), call.strides[axis],
                                      call.padding == "same",
                                      is_given ? &paddings[axis] : nullptr));
    if (placed.back().size < 1) return layer.error("the output would be empty");
  }
  return placed;
}

// The convolution that goes the other way has this layer's output as its input.
Conv2dOp transposed_op(const ConvCall& call, const std::vector<Transposed>& placed, int64_t filters,
                       int64_t kernel) {
  Conv2dOp op;
  op.pass = Pass::data_gradient;
  const auto narrow = [](int64_t value) { return static_cast<int>(value); };
  op.in_height = op.out_height = op.kernel_height = 1;
  if (placed.size() == 2) {
    op.in_height = narrow(placed[0].size);
    op.out_height = narrow(call.spatial[0]);
    op.kernel_height = narrow(call.kernel[0]);
    op.stride_height = narrow(call.strides[0]);
    op.dilation_height = narrow(call.dilation[0]);
    op.pad_top = narrow(placed[0].pad);
  }
  op.in_width = narrow(placed.back().size);
  op.out_width = narrow(call.spatial.back());
  op.kernel_width = narrow(call.kernel.back());
  op.stride_width = narrow(call.strides.back());
  op.dilation_width = narrow(call.dilation.back());
  op.pad_left = narrow(placed.back().pad);
  op.in_channels = narrow(filters);
  op.out_channels = narrow(call.channels());
  op.kernel_offset = kernel;
  return op;
}

// What each voxel gives to each place of its window, added up in the output.
SymbolicTensor add_up_windows(LayerContext& layer, const ConvCall& call,
                              const std::vector<Transposed>& placed, const SymbolicTensor& parts,
                              const Shape& output_shape) {
  const int64_t places = element_count(call.kernel), filters = output_shape.back();
  std::vector<std::vector<int32_t>> sources(static_cast<size_t>(element_count(output_shape)));
  for (int64_t voxel = 0; voxel < element_count(call.spatial); ++voxel) {
    for (int64_t place = 0; place < places; ++place) {
      int64_t rest_voxel = voxel, rest_place = place, at = 0, inner = 1;
      for (size_t axis = 3; axis-- > 0;) {
        const int64_t i = rest_voxel % call.spatial[axis], k = rest_place % call.kernel[axis];
        rest_voxel /= call.spatial[axis];
        rest_place /= call.kernel[axis];
        const int64_t o = i * call.strides[axis] + k * call.dilation[axis] - placed[axis].pad;
        at = at < 0 || o < 0 || o >= placed[axis].size ? -1 : at + o * inner;
        inner *= placed[axis].size;
      }
      for (int64_t f = 0; f < filters && at >= 0; ++f) {
        sources[static_cast<size_t>(at * filters + f)].push_back(
            static_cast<int32_t>((voxel * places + place) * filters + f));
      }
    }
  }
  return layer.gather("windows", index_lists(sources, parts.features()), {parts}, output_shape);
}

Result<SymbolicTensor> transposed_volume(LayerContext& layer, const ConvCall& call,
                                         const std::vector<Transposed>& placed,
                                         const Shape& output_shape, int64_t kernel) {
  const int64_t voxels = element_count(call.spatial);
  const Shape parts{voxels, element_count(call.kernel) * output_shape.back()};
  LOCKSTEP_RETURN_IF_ERROR(layer.check_size("all windows of an input", parts));
  Conv2dOp op;
  op.pass = Pass::data_gradient;
  op.in_height = op.out_height = op.kernel_height = op.kernel_width = 1;
  op.in_width = op.out_width = static_cast<int>(voxels);
  op.in_channels = static_cast<int>(parts[1]);
  op.out_channels = static_cast<int>(call.channels());
  op.kernel_offset = kernel;
  return add_up_windows(layer, call, placed, layer.op("forward", op, {call.input}, parts),
                        output_shape);
}

template <size_t kAxes>
Result<SymbolicTensor> build_conv_transpose(LayerContext& layer, const Tensors& inputs) {
  LOCKSTEP_ASSIGN(const ConvCall call, read_conv_call(layer, inputs, kAxes, true));
  LOCKSTEP_RETURN_IF_ERROR(layer.check_positive("filters"));
  const int64_t filters = layer.integer("filters");
  LOCKSTEP_ASSIGN(const std::vector<Transposed> placed, place_outputs(layer, call));
  Shape output_shape;
  for (const Transposed& axis : placed) output_shape.push_back(axis.size);
  output_shape.push_back(filters);
  const Shape kernel_shape = call.kernel_shape(filters, call.channels());
  LOCKSTEP_RETURN_IF_ERROR(layer.check_size("output", output_shape));
  LOCKSTEP_RETURN_IF_ERROR(layer.check_size("kernel", kernel_shape));
  const int64_t kernel = layer.parameter("kernel", kernel_shape);
  SymbolicTensor output;
  if (kAxes == 3) {
    LOCKSTEP_ASSIGN(output, transposed_volume(layer, call, placed, output_shape, kernel));
  } else {
    output = layer.op("forward", transposed_op(call, placed, filters, kernel), {call.input},
                      output_shape);
  }
  if (layer.flag("use_bias")) {
    ExpressionBuilder e;
    const int64_t bias = layer.parameter("bias", {filters});
    output =
        layer.map("bias", e.finish({e.operand(0) + e.operand(1)}), {output},
                  {whole_operand(0, output), parameter_operand(bias, {1, filters})}, output_shape);
  }
  return finish_conv(layer, output);
}

template <size_t kAxes>
LayerType transposed(const char* summary) {
  std::vector<ConfigKey> keys = conv_keys(kAxes, {"kernel"});
  keys.push_back({"filters", KeyKind::integer});
  keys.push_back({"output_padding", KeyKind::sizes, nullptr, kAxes});
  return {fmt::format("Conv{}DTranspose", kAxes), summary, std::move(keys),
          build_conv_transpose<kAxes>};
}

}  // namespace

// Kernels (sizes…, filters, in).
LayerType conv1d_transpose() { return transposed<1>("transposed convolution of sequences"); }
LayerType conv2d_transpose() { return transposed<2>("transposed convolution of images"); }
LayerType conv3d_transpose() { return transposed<3>("transposed convolution of volumes"); }

}  // namespace lockstep::layers
