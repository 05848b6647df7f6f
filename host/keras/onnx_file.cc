#include "host/keras/onnx_file.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <utility>

#include "host/core/check.h"
#include "host/keras/onnx_map.h"

namespace lockstep {
namespace {

constexpr int64_t kOnnxInt64 = 7;  // TensorProto.DataType

// Padding behind, so that `out` windows of this size fit: less than nothing is nothing.
int64_t padding_behind(int64_t in, int64_t out, int64_t window, int64_t stride, int64_t before) {
  return std::max<int64_t>((out - 1) * stride + window - in - before, 0);
}

// Adds each op of a graph to an ONNX graph, in order.
class OnnxWriter {
 public:
  OnnxWriter(const Graph& graph, std::span<const float> weights)
      : graph_(graph), values_(graph, weights) {}

  Result<std::string> write(const std::string& model, const std::vector<std::string>& outputs) {
    for (const int input : graph_.inputs) {
      const Value& value = graph_.values[static_cast<size_t>(input)];
      values_.set_rows(input, value.shape, values_.onnx().add_input(value.name, value.shape));
    }
    for (const OpDesc& op : graph_.ops) {
      std::visit([&](const auto& attributes) { add(op, attributes); }, op.attributes);
    }
    for (size_t i = 0; i < graph_.outputs.size(); ++i) {
      const Shape& shape = graph_.output_shapes[i];
      values_.onnx().add_output(outputs[i], values_.rows(graph_.outputs[i], shape), shape);
    }
    return values_.onnx().finish(model);
  }

 private:
  std::string node(const OpDesc& op, const std::string& type,
                   const std::vector<std::string>& inputs,
                   std::vector<OnnxAttribute> attributes = {}) {
    return values_.onnx().add_node(type, inputs, op.name + "/" + type, std::move(attributes));
  }
  std::string activated(const OpDesc& op, Activation activation, const std::string& tensor) {
    return activation == Activation::relu ? node(op, "Relu", {tensor}) : tensor;
  }

  void add(const OpDesc&, const InputOp&) {}  // write() has added all

  void add(const OpDesc& op, const Conv2dOp& conv) {
    if (conv.pass == Pass::data_gradient) return add_transposed(op, conv);
    const int64_t in_channels = conv.in_channels, out_channels = conv.out_channels;
    // A dense layer over the last of several axes.
    const bool is_product = conv.in_height == 1 && conv.kernel_height == 1 &&
                            conv.kernel_width == 1 && conv.is_plain() &&
                            conv.in_width == conv.out_width;
    std::vector<std::string> bias;
    if (conv.bias_offset >= 0) bias = {values_.parameter(conv.bias_offset, {out_channels})};
    if (is_product) {
      std::string tensor =
          node(op, "MatMul",
               {values_.rows(op.inputs[0], {conv.in_width, in_channels}),
                values_.parameter(conv.kernel_offset, {in_channels, out_channels})});
      if (!bias.empty()) tensor = node(op, "Add", {tensor, bias[0]});
      return values_.set_rows(op.outputs[0], {conv.in_width, out_channels},
                              activated(op, conv.activation, tensor));
    }
    const int64_t height = (conv.kernel_height - 1) * conv.dilation_height + 1;
    const int64_t width = (conv.kernel_width - 1) * conv.dilation_width + 1;
    std::vector<std::string> inputs = {
        values_.image(op.inputs[0], {conv.in_height, conv.in_width, in_channels}),
        values_.kernel(conv)};
    inputs.insert(inputs.end(), bias.begin(), bias.end());
    std::vector<OnnxAttribute> attributes = window_attributes(conv);
    attributes.push_back(
        {"pads", std::vector<int64_t>{conv.pad_top, conv.pad_left,
                                      padding_behind(conv.in_height, conv.out_height, height,
                                                     conv.stride_height, conv.pad_top),
                                      padding_behind(conv.in_width, conv.out_width, width,
                                                     conv.stride_width, conv.pad_left)}});
    const std::string tensor = node(op, "Conv", inputs, attributes);
    values_.set_image(op.outputs[0], {conv.out_height, conv.out_width, out_channels},
                      activated(op, conv.activation, tensor));
  }

  static std::vector<OnnxAttribute> window_attributes(const Conv2dOp& conv) {
    using List = std::vector<int64_t>;
    return {{"kernel_shape", List{conv.kernel_height, conv.kernel_width}},
            {"strides", List{conv.stride_height, conv.stride_width}},
            {"dilations", List{conv.dilation_height, conv.dilation_width}},
            {"group", int64_t{conv.groups}}};
  }

  // What the convolution has as inputs comes out: sizes are (n - 1) * stride + window less the
  // padding, and more where no window reaches.
  void add_transposed(const OpDesc& op, const Conv2dOp& conv) {
    const int64_t height = (conv.out_height - 1) * conv.stride_height +
                           (conv.kernel_height - 1) * conv.dilation_height + 1;
    const int64_t width = (conv.out_width - 1) * conv.stride_width +
                          (conv.kernel_width - 1) * conv.dilation_width + 1;
    const int64_t below = height - conv.pad_top - conv.in_height;
    const int64_t right = width - conv.pad_left - conv.in_width;
    std::vector<OnnxAttribute> attributes = window_attributes(conv);
    attributes.push_back(
        {"pads", std::vector<int64_t>{conv.pad_top, conv.pad_left, std::max<int64_t>(below, 0),
                                      std::max<int64_t>(right, 0)}});
    attributes.push_back({"output_padding", std::vector<int64_t>{std::max<int64_t>(-below, 0),
                                                                 std::max<int64_t>(-right, 0)}});
    const std::string image =
        values_.image(op.inputs[0], {conv.out_height, conv.out_width, conv.out_channels});
    values_.set_image(op.outputs[0], {conv.in_height, conv.in_width, conv.in_channels},
                      node(op, "ConvTranspose", {image, values_.kernel(conv)}, attributes));
  }

  void add(const OpDesc& op, const DenseOp& dense) {
    std::vector<std::string> inputs = {
        values_.rows(op.inputs[0], {dense.in_features}),
        values_.parameter(dense.kernel_offset, {dense.in_features, dense.out_features})};
    if (dense.bias_offset >= 0) {
      inputs.push_back(values_.parameter(dense.bias_offset, {dense.out_features}));
    }
    values_.set_rows(op.outputs[0], {dense.out_features},
                     activated(op, dense.activation, node(op, "Gemm", inputs)));
  }

  void add(const OpDesc& op, const MaxPool2dOp& pool) {
    using List = std::vector<int64_t>;
    const std::string image =
        values_.image(op.inputs[0], {pool.in_height, pool.in_width, pool.channels});
    const std::string tensor =
        node(op, "MaxPool", {image},
             {{"kernel_shape", List{pool.pool_height, pool.pool_width}},
              {"strides", List{pool.stride_height, pool.stride_width}},
              {"pads", List{pool.pad_top, pool.pad_left,
                            padding_behind(pool.in_height, pool.out_height, pool.pool_height,
                                           pool.stride_height, pool.pad_top),
                            padding_behind(pool.in_width, pool.out_width, pool.pool_width,
                                           pool.stride_width, pool.pad_left)}}});
    values_.set_image(op.outputs[0], {pool.out_height, pool.out_width, pool.channels}, tensor);
  }

  void add(const OpDesc& op, const ReluOp&) {
    const OnnxValues::View from = values_.native(op.inputs[0]);
    const std::string tensor = node(op, "Relu", {from.tensor});
    if (from.is_image) return values_.set_image(op.outputs[0], from.row, tensor);
    values_.set_rows(op.outputs[0], from.row, tensor);
  }

  void add(const OpDesc& op, const SoftmaxOp& softmax) {
    const std::string rows = values_.rows(op.inputs[0], {softmax.features});
    values_.set_rows(op.outputs[0], {softmax.features},
                     node(op, "Softmax", {rows}, {{"axis", int64_t{1}}}));
  }

  void add(const OpDesc& op, const EmbeddingOp& embedding) {
    const std::string words =
        node(op, "Cast", {values_.rows(op.inputs[0], {embedding.length})}, {{"to", kOnnxInt64}});
    const std::string table =
        values_.parameter(embedding.offset, {embedding.vocabulary, embedding.units});
    values_.set_rows(op.outputs[0], {embedding.length, embedding.units},
                     node(op, "Gather", {table, words}, {{"axis", int64_t{0}}}));
  }

  void add(const OpDesc& op, const MatmulOp& product) {
    const auto matrices = [&](int value, int64_t features, const MatrixStrides& strides,
                              int64_t rows, int64_t columns) {
      const int read = add_onnx_axes(
          op.name, value, features,
          {{product.batches, strides.batch}, {rows, strides.row}, {columns, strides.column}},
          &values_);
      return values_.rows(read, {product.batches, rows, columns});
    };
    const std::string tensor = node(
        op, "MatMul",
        {matrices(op.inputs[0], product.x_features, product.x, product.rows, product.inner),
         matrices(op.inputs[1], product.z_features, product.z, product.inner, product.columns)});
    const int result = values_.add_value();
    values_.set_rows(result, {product.batches, product.rows, product.columns}, tensor);
    // The axes in the order in which they lie in the output.
    std::vector<std::pair<int64_t, IndexAxis>> axes = {
        {product.out.batch, {product.batches, product.rows * product.columns}},
        {product.out.row, {product.rows, product.columns}},
        {product.out.column, {product.columns, 1}}};
    std::stable_sort(axes.begin(), axes.end(),
                     [](const auto& a, const auto& b) { return a.first > b.first; });
    IndexAxes in_order;
    for (const auto& [stride, axis] : axes) in_order.push_back(axis);
    values_.set_same(op.outputs[0],
                     add_onnx_axes(op.name, result, product.features, in_order, &values_));
  }

  void add(const OpDesc& op, const MapOp& map) { add_onnx_map(op, map, stretched_, &values_); }
  void add(const OpDesc& op, const GatherOp& gather) {
    add_onnx_gather(op, gather, &stretched_, &values_);
  }

  template <class Other>
  void add(const OpDesc&, const Other&) {
    LOCKSTEP_CHECK(false);  // make_onnx_file refuses them
  }

  const Graph& graph_;
  OnnxValues values_;
  StretchedValues stretched_;
};

bool has_onnx_form(const OpDesc& op) {
  if (const auto* map = std::get_if<MapOp>(&op.attributes)) {
    return is_onnx_expression(map->expression);
  }
  if (const auto* gather = std::get_if<GatherOp>(&op.attributes)) return is_onnx_gather(*gather);
  if (std::holds_alternative<Conv2dOp>(op.attributes)) {
    return op.relu_mask < 0 && pass_of(op) != Pass::weight_gradient;
  }
  const bool is_known = std::holds_alternative<InputOp>(op.attributes) ||
                        std::holds_alternative<DenseOp>(op.attributes) ||
                        std::holds_alternative<MaxPool2dOp>(op.attributes) ||
                        std::holds_alternative<ReluOp>(op.attributes) ||
                        std::holds_alternative<SoftmaxOp>(op.attributes) ||
                        std::holds_alternative<EmbeddingOp>(op.attributes) ||
                        std::holds_alternative<MatmulOp>(op.attributes);
  return is_known && pass_of(op) == Pass::forward;
}

}  // namespace

Result<std::string> make_onnx_file(const Graph& graph, std::span<const float> weights,
                                   const std::string& model,
                                   const std::vector<std::string>& output_names) {
  LOCKSTEP_RETURN_IF_ERROR(
      check_onnx_size(graph.parameter_count * static_cast<int64_t>(sizeof(float))));
  std::vector<std::string> refused;
  for (const OpDesc& op : graph.ops) {
    if (!has_onnx_form(op)) refused.push_back(fmt::format("'{}'", op.name));
  }
  if (!refused.empty()) {
    return usage_error(fmt::format(
        "model '{}' cannot be written as ONNX, which has nothing for {}: write .keras or "
        ".safetensors, or the model as it predicts, without what acts in training alone",
        model, fmt::join(refused, ", ")));
  }
  LOCKSTEP_CHECK(std::ssize(weights) == graph.parameter_count);
  LOCKSTEP_CHECK(output_names.size() == graph.outputs.size());
  return OnnxWriter(graph, weights).write(model, output_names);
}

}  // namespace lockstep
