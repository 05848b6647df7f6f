// The graph of a functional model as its config says: which call of which layer reads what, and the
// order in which Keras sees its layers.
#pragma once

#include <compare>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "host/core/result.h"

namespace lockstep {

class ModelNodes {
 public:
  // A call of a layer: Keras' node.
  struct Key {
    int layer = 0;  // index in the config's list
    int index = 0;  // of the layer's calls
    auto operator<=>(const Key&) const = default;
  };
  struct Tensor {
    Key node;
    int output = 0;
  };
  struct Node {
    std::vector<Tensor> inputs;
    // {"training": false}; of an operation its operands (nn/layers/operations.h); {"mask": true}
    // where the last input is the first one's mask
    nlohmann::json arguments = nlohmann::json::object();
  };

  // `config` has "layers", "input_layers" and "output_layers", with inbound_nodes of Keras 2 or 3.
  // What a call asks for and is not supported is added to `problems`; a graph that is none is an
  // error. Throws nlohmann::json::exception where the form is another.
  static Result<ModelNodes> read(const nlohmann::json& config, const std::string& model,
                                 std::vector<std::string>* problems);

  const std::string& name_of(int layer) const { return names_[static_cast<size_t>(layer)]; }
  const Node& node(const Key& key) const { return nodes_.at(key); }
  const std::vector<int>& input_layers() const { return inputs_; }
  const std::vector<Tensor>& outputs() const { return outputs_; }
  // Those that outputs depend on, as Keras' map_graph orders them: by depth, the number of calls
  // between a layer and the outputs, then as a walk from the outputs meets them. It follows from
  // the graph alone, so a model read from any file has its weights in one order.
  const std::vector<int>& layers_in_order() const { return layers_; }
  // Each after those that it reads.
  const std::vector<Key>& calls_in_order() const { return calls_; }

 private:
  Status read_layers(const nlohmann::json& layers, std::vector<std::string>* problems);
  Result<Tensor> tensor(const nlohmann::json& history) const;
  Result<std::vector<Tensor>> ends(const nlohmann::json& value) const;
  Status collect(const nlohmann::json& value, std::vector<Tensor>* tensors) const;
  Result<Node> read_node(const nlohmann::json& json, const std::string& layer, bool is_operation,
                         std::vector<std::string>* problems) const;
  Status read_arguments(const nlohmann::json& arguments, const std::string& layer, Node* node,
                        std::vector<std::string>* problems) const;
  Status walk();
  void order_layers();

  std::string model_;
  std::vector<std::string> names_;
  std::map<std::string, int> numbers_;  // of layers, by name
  std::map<Key, Node> nodes_;
  std::vector<int> inputs_;
  std::vector<Tensor> outputs_;
  std::map<int, int> met_;  // layers, by when the walk met them
  std::vector<Key> calls_;
  std::vector<int> layers_;
};

// Whether an entry of a config's layers is one of keras.ops: its module says so.
bool is_operation(const nlohmann::json& layer);

}  // namespace lockstep
