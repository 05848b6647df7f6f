#include "host/keras/onnx_graph.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <utility>

#include "host/core/protobuf_writer.h"

namespace lockstep {
namespace {

// Field numbers of onnx.proto.
namespace model_proto {
constexpr int kIrVersion = 1, kProducerName = 2, kGraph = 7, kOpsetImport = 8;
constexpr int kOpsetVersion = 2;
}  // namespace model_proto
namespace graph_proto {
constexpr int kNode = 1, kName = 2, kInitializer = 5, kInput = 11, kOutput = 12;
}  // namespace graph_proto
namespace node_proto {
constexpr int kInput = 1, kOutput = 2, kName = 3, kOpType = 4, kAttribute = 5;
}  // namespace node_proto
namespace attribute_proto {
constexpr int kName = 1, kFloat = 2, kInt = 3, kInts = 8, kType = 20;
constexpr int kTypes[] = {2, 1, 7};  // of the variant's alternatives
}  // namespace attribute_proto
namespace tensor_proto {
constexpr int kDims = 1, kDataType = 2, kName = 8, kRawData = 9;
constexpr int kFloat32 = 1, kInt32 = 6, kInt64 = 7;
}  // namespace tensor_proto
namespace value_proto {
constexpr int kName = 1, kType = 2;
constexpr int kTensorType = 1, kElementType = 1, kShape = 2;
constexpr int kDimension = 1, kDimensionValue = 1, kDimensionName = 2;
}  // namespace value_proto

constexpr int kIrVersion = 8;  // the one that came with opset 17

template <class T>
std::string_view bytes_of_span(std::span<const T> values) {
  return {reinterpret_cast<const char*>(values.data()), values.size_bytes()};
}

std::string attribute_message(const OnnxAttribute& attribute) {
  ProtobufWriter writer;
  writer.add_bytes(attribute_proto::kName, attribute.name);
  if (const auto* number = std::get_if<int64_t>(&attribute.value)) {
    writer.add_number(attribute_proto::kInt, *number);
  } else if (const auto* real = std::get_if<float>(&attribute.value)) {
    writer.add_float(attribute_proto::kFloat, *real);
  } else {
    for (const int64_t item : std::get<std::vector<int64_t>>(attribute.value)) {
      writer.add_number(attribute_proto::kInts, item);
    }
  }
  writer.add_number(attribute_proto::kType, attribute_proto::kTypes[attribute.value.index()]);
  return writer.bytes();
}

// ValueInfoProto of a float32 tensor whose first axis is the batch.
std::string port_message(const std::string& name, const Shape& row) {
  const auto dimension = [](ProtobufWriter* shape, const ProtobufWriter& size) {
    shape->add_bytes(value_proto::kDimension, size.bytes());
  };
  ProtobufWriter shape;
  ProtobufWriter batch;
  batch.add_bytes(value_proto::kDimensionName, "batch");
  dimension(&shape, batch);
  for (const int64_t size : row) {
    ProtobufWriter fixed;
    fixed.add_number(value_proto::kDimensionValue, size);
    dimension(&shape, fixed);
  }
  ProtobufWriter tensor;
  tensor.add_number(value_proto::kElementType, tensor_proto::kFloat32);
  tensor.add_bytes(value_proto::kShape, shape.bytes());
  ProtobufWriter type;
  type.add_bytes(value_proto::kTensorType, tensor.bytes());
  ProtobufWriter port;
  port.add_bytes(value_proto::kName, name);
  port.add_bytes(value_proto::kType, type.bytes());
  return port.bytes();
}

}  // namespace

Status check_onnx_size(int64_t bytes) {
  if (bytes <= std::numeric_limits<int32_t>::max()) return {};
  return usage_error(
      fmt::format("an ONNX file holds less than 2 GiB, which is protobuf's limit, and the model's "
                  "weights alone, or they and the indices that it needs, are {:.1f} GiB: write "
                  ".keras or .safetensors",
                  static_cast<double>(bytes) / (1 << 30)));
}

std::string OnnxGraph::unique(const std::string& name) {
  std::string candidate = name;
  for (int i = 1; !names_.insert(candidate).second; ++i) candidate = fmt::format("{}_{}", name, i);
  return candidate;
}

std::string OnnxGraph::add_input(const std::string& name, const Shape& row) {
  const std::string tensor = unique(name);
  inputs_.push_back({tensor, tensor, row});
  return tensor;
}

std::string OnnxGraph::add_node(const std::string& type, const std::vector<std::string>& inputs,
                                const std::string& name, std::vector<OnnxAttribute> attributes) {
  nodes_.push_back({type, inputs, unique(name), std::move(attributes)});
  return nodes_.back().output;
}

std::string OnnxGraph::add_initializer(const std::string& name, const Shape& shape, int64_t type,
                                       std::string_view bytes) {
  ProtobufWriter tensor;
  for (const int64_t size : shape) tensor.add_number(tensor_proto::kDims, size);
  tensor.add_number(tensor_proto::kDataType, type);
  const std::string tensor_name = unique(name);
  tensor.add_bytes(tensor_proto::kName, tensor_name);
  tensor.add_bytes(tensor_proto::kRawData, bytes);
  initializers_.push_back({tensor_name, tensor.bytes()});
  return tensor_name;
}

std::string OnnxGraph::add_floats(const std::string& name, const Shape& shape,
                                  std::span<const float> values) {
  return add_initializer(name, shape, tensor_proto::kFloat32, bytes_of_span(values));
}

std::string OnnxGraph::add_indices(const std::string& name, const Shape& shape,
                                   std::span<const int32_t> values) {
  return add_initializer(name, shape, tensor_proto::kInt32, bytes_of_span(values));
}

std::string OnnxGraph::add_numbers(const std::vector<int64_t>& values) {
  const auto [known, is_new] = numbers_.try_emplace(values);
  if (is_new) {
    known->second = add_initializer("/numbers", {std::ssize(values)}, tensor_proto::kInt64,
                                    bytes_of_span(std::span<const int64_t>(values)));
  }
  return known->second;
}

void OnnxGraph::add_output(const std::string& name, const std::string& tensor, const Shape& row) {
  const auto is_this = [&](const auto& other) { return other.tensor == tensor; };
  // A tensor has one name: inputs keep theirs, and so does what is put out twice.
  const bool is_taken = std::any_of(inputs_.begin(), inputs_.end(), is_this) ||
                        std::any_of(outputs_.begin(), outputs_.end(), is_this);
  const std::string source = is_taken ? add_node("Identity", {tensor}, "/" + name) : tensor;
  outputs_.push_back({unique(name), source, row});
}

std::string OnnxGraph::message_of(const Node& node,
                                  const std::map<std::string, std::string>& names) {
  const auto named = [&](const std::string& tensor) {
    const auto found = names.find(tensor);
    return found == names.end() ? tensor : found->second;
  };
  ProtobufWriter writer;
  for (const std::string& input : node.inputs) writer.add_bytes(node_proto::kInput, named(input));
  writer.add_bytes(node_proto::kOutput, named(node.output));
  writer.add_bytes(node_proto::kName, node.output);
  writer.add_bytes(node_proto::kOpType, node.type);
  for (const OnnxAttribute& attribute : node.attributes) {
    writer.add_bytes(node_proto::kAttribute, attribute_message(attribute));
  }
  return writer.bytes();
}

Result<std::string> OnnxGraph::finish(const std::string& model) const {
  std::set<std::string> needed;
  std::map<std::string, std::string> names;  // of outputs, by tensor
  for (const Port& output : outputs_) {
    needed.insert(output.tensor);
    names[output.tensor] = output.name;
  }
  std::vector<const Node*> kept;
  for (auto node = nodes_.rbegin(); node != nodes_.rend(); ++node) {
    if (!needed.contains(node->output)) continue;
    needed.insert(node->inputs.begin(), node->inputs.end());
    kept.push_back(&*node);
  }
  ProtobufWriter graph;
  for (auto node = kept.rbegin(); node != kept.rend(); ++node) {
    graph.add_bytes(graph_proto::kNode, message_of(**node, names));
  }
  graph.add_bytes(graph_proto::kName, model);
  for (const Initializer& initializer : initializers_) {
    if (!needed.contains(initializer.name)) continue;
    graph.add_bytes(graph_proto::kInitializer, initializer.message);
  }
  for (const Port& input : inputs_) {
    graph.add_bytes(graph_proto::kInput, port_message(input.name, input.row));
  }
  for (const Port& output : outputs_) {
    graph.add_bytes(graph_proto::kOutput, port_message(output.name, output.row));
  }
  ProtobufWriter opset;
  opset.add_number(model_proto::kOpsetVersion, kOnnxOpset);
  ProtobufWriter file;
  file.add_number(model_proto::kIrVersion, kIrVersion);
  file.add_bytes(model_proto::kProducerName, "lockstep");
  file.add_bytes(model_proto::kGraph, graph.bytes());
  file.add_bytes(model_proto::kOpsetImport, opset.bytes());
  LOCKSTEP_RETURN_IF_ERROR(check_onnx_size(std::ssize(file.bytes())));
  return file.bytes();
}

}  // namespace lockstep
