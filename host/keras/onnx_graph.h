// Nodes, initializers, inputs and outputs of an ONNX graph, and the file's bytes:
// https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "host/core/result.h"
#include "host/tensor/shape.h"

namespace lockstep {

inline constexpr int kOnnxOpset = 17;

struct OnnxAttribute {
  std::string name;
  std::variant<int64_t, float, std::vector<int64_t>> value;
};

// Tensors go by name. Those that are added get a name that no other has: the one asked for, with a
// number behind where it is taken.
class OnnxGraph {
 public:
  // Float32, of any number of rows of this shape.
  std::string add_input(const std::string& name, const Shape& row);
  // The node's only output.
  std::string add_node(const std::string& type, const std::vector<std::string>& inputs,
                       const std::string& name, std::vector<OnnxAttribute> attributes = {});
  std::string add_floats(const std::string& name, const Shape& shape,
                         std::span<const float> values);
  std::string add_indices(const std::string& name, const Shape& shape,
                          std::span<const int32_t> values);
  // Int64, as operators take shapes and axes. One tensor for all that are alike.
  std::string add_numbers(const std::vector<int64_t>& values);
  // The node that makes the tensor puts it out by this name. Call behind all nodes.
  void add_output(const std::string& name, const std::string& tensor, const Shape& row);

  // The file, without what no output needs. Fails where it would be larger than protobuf allows.
  Result<std::string> finish(const std::string& model) const;

 private:
  struct Node {
    std::string type;
    std::vector<std::string> inputs;
    std::string output;
    std::vector<OnnxAttribute> attributes;
  };
  struct Initializer {
    std::string name;
    std::string message;  // TensorProto
  };
  struct Port {
    std::string name;
    std::string tensor;
    Shape row;
  };

  std::string unique(const std::string& name);
  std::string add_initializer(const std::string& name, const Shape& shape, int64_t type,
                              std::string_view bytes);
  static std::string message_of(const Node& node, const std::map<std::string, std::string>& names);

  std::vector<Node> nodes_;
  std::vector<Initializer> initializers_;
  std::vector<Port> inputs_, outputs_;
  std::map<std::vector<int64_t>, std::string> numbers_;
  std::set<std::string> names_;
};

// What protobuf sets a limit to, told before anything is made: `bytes` of weights or of a file.
Status check_onnx_size(int64_t bytes);

}  // namespace lockstep
