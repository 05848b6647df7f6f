#include "host/nn/model_nodes.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

namespace lockstep {
namespace {

using Json = nlohmann::json;

// Arguments of a call that are tensors, in the order in which layers take them.
constexpr const char* kTensorArguments[] = {"inputs", "query", "value", "key"};

bool is_tensor(const Json& value) {
  return value.is_object() && value.value("class_name", Json()) == "__keras_tensor__";
}

// Keras 2: ["dense", 0, 0], with the call's arguments behind it or without.
bool is_history(const Json& value) {
  return value.is_array() && value.size() >= 3 && value[0].is_string() &&
         value[1].is_number_integer() && value[2].is_number_integer();
}

bool holds_tensor(const Json& value) {
  if (is_tensor(value) || is_history(value)) return true;
  return value.is_array() && std::any_of(value.begin(), value.end(), holds_tensor);
}

}  // namespace

bool is_operation(const Json& layer) {
  const Json module = layer.value("module", Json());
  return module.is_string() && module.get<std::string>().starts_with("keras.src.ops.");
}

Result<ModelNodes> ModelNodes::read(const Json& config, const std::string& model,
                                    std::vector<std::string>* problems) {
  ModelNodes nodes;
  nodes.model_ = model;
  LOCKSTEP_RETURN_IF_ERROR(nodes.read_layers(config.at("layers"), problems));
  LOCKSTEP_ASSIGN(const auto inputs, nodes.ends(config.at("input_layers")));
  for (const Tensor& input : inputs) nodes.inputs_.push_back(input.node.layer);
  LOCKSTEP_ASSIGN(nodes.outputs_, nodes.ends(config.at("output_layers")));
  if (nodes.inputs_.empty() || nodes.outputs_.empty()) {
    return usage_error(fmt::format("model '{}' has no inputs or no outputs", model));
  }
  LOCKSTEP_RETURN_IF_ERROR(nodes.walk());
  nodes.order_layers();
  return nodes;
}

Status ModelNodes::read_layers(const Json& layers, std::vector<std::string>* problems) {
  for (const Json& layer : layers) {
    const Json name = layer.contains("name") ? layer["name"] : layer.at("config").at("name");
    const int number = static_cast<int>(names_.size());
    names_.push_back(name.get<std::string>());
    if (!numbers_.emplace(names_.back(), number).second) {
      return usage_error(fmt::format("two layers are named '{}'; rename one of them", name.dump()));
    }
  }
  for (size_t i = 0; i < layers.size(); ++i) {
    const int layer = static_cast<int>(i);
    if (layers[i].at("class_name") == "InputLayer") {
      nodes_[{layer, 0}] = {};
      continue;
    }
    int index = 0;
    for (const Json& json : layers[i].value("inbound_nodes", Json::array())) {
      LOCKSTEP_ASSIGN(nodes_[(Key{layer, index})],
                      read_node(json, names_[i], is_operation(layers[i]), problems));
      ++index;
    }
  }
  return {};
}

Result<ModelNodes::Tensor> ModelNodes::tensor(const Json& history) const {
  const auto found = numbers_.find(history.at(0).get<std::string>());
  if (found == numbers_.end()) {
    return usage_error(fmt::format("model '{}' reads a layer {} that it does not have", model_,
                                   history.at(0).dump()));
  }
  return Tensor{{found->second, history.at(1).get<int>()}, history.at(2).get<int>()};
}

// ["x", 0, 0] for one, a list of these for several, an object of them by name.
Result<std::vector<ModelNodes::Tensor>> ModelNodes::ends(const Json& value) const {
  std::vector<Tensor> tensors;
  if (is_history(value)) {
    LOCKSTEP_ASSIGN(const Tensor only, tensor(value));
    tensors.push_back(only);
    return tensors;
  }
  if (!value.is_structured()) {
    return usage_error(
        fmt::format("model '{}': {} is no input or output of a layer", model_, value.dump()));
  }
  for (const Json& each : value) {
    LOCKSTEP_ASSIGN(const auto inner, ends(each));
    tensors.insert(tensors.end(), inner.begin(), inner.end());
  }
  return tensors;
}

Status ModelNodes::collect(const Json& value, std::vector<Tensor>* tensors) const {
  if (is_tensor(value) || is_history(value)) {
    const Json& history = is_tensor(value) ? value.at("config").at("keras_history") : value;
    LOCKSTEP_ASSIGN(const Tensor found, tensor(history));
    tensors->push_back(found);
    return {};
  }
  if (!value.is_array()) return {};
  for (const Json& each : value) LOCKSTEP_RETURN_IF_ERROR(collect(each, tensors));
  return {};
}

Status ModelNodes::read_arguments(const Json& arguments, const std::string& layer, Node* node,
                                  std::vector<std::string>* problems) const {
  std::set<std::string> taken;
  for (const char* key : kTensorArguments) {
    const auto found = arguments.find(key);
    if (found == arguments.end() || !holds_tensor(*found)) continue;
    LOCKSTEP_RETURN_IF_ERROR(collect(*found, &node->inputs));
    taken.insert(key);
  }
  for (const auto& [key, value] : arguments.items()) {
    if (taken.contains(key) || value.is_null()) continue;
    if (key == "training" && value.is_boolean()) {
      node->arguments[key] = value;
    } else if (key == "mask" && is_tensor(value) && node->inputs.size() == 1) {
      LOCKSTEP_RETURN_IF_ERROR(collect(value, &node->inputs));
      node->arguments[key] = true;
    } else {
      problems->push_back(
          fmt::format("layer '{}': its call has the argument '{}', which is not "
                      "supported; call it without",
                      layer, key));
    }
  }
  return {};
}

Result<ModelNodes::Node> ModelNodes::read_node(const Json& json, const std::string& layer,
                                               bool is_operation,
                                               std::vector<std::string>* problems) const {
  Node node;
  if (json.is_object()) {  // Keras 3
    const Json& args = json.at("args");
    LOCKSTEP_RETURN_IF_ERROR(collect(args, &node.inputs));
    if (is_operation && !std::all_of(args.begin(), args.end(), holds_tensor)) {
      node.arguments["operands"] = args;
      for (Json& operand : node.arguments["operands"]) {
        if (is_tensor(operand)) operand = nullptr;
      }
    }
    for (const Json& value : args) {
      if (is_operation || value.is_null() || value.is_array() || is_tensor(value)) continue;
      problems->push_back(
          fmt::format("layer '{}': it is called with the constant {}, which is not supported",
                      layer, value.dump()));
    }
    LOCKSTEP_RETURN_IF_ERROR(
        read_arguments(json.value("kwargs", Json::object()), layer, &node, problems));
    return node;
  }
  if (is_history(json)) {
    LOCKSTEP_RETURN_IF_ERROR(collect(json, &node.inputs));
  } else {
    for (const Json& each : json) LOCKSTEP_RETURN_IF_ERROR(collect(each, &node.inputs));
  }
  const Json& first = is_history(json) || json.empty() ? json : json[0];
  if (is_history(first) && first.size() > 3 && first[3].is_object()) {
    LOCKSTEP_RETURN_IF_ERROR(read_arguments(first[3], layer, &node, problems));
  }
  return node;
}

// Depth first from the outputs, without recursion: a chain may be long.
Status ModelNodes::walk() {
  struct Visit {
    Key node;
    size_t next = 0;  // of its inputs
  };
  std::set<Key> finished;
  std::set<Key> in_progress;
  std::vector<Visit> stack;
  const auto enter = [&](const Key& key) -> Status {
    if (finished.contains(key)) return {};
    if (!nodes_.contains(key)) {
      return usage_error(fmt::format("model '{}' reads call {} of layer '{}', which is not there",
                                     model_, key.index, name_of(key.layer)));
    }
    if (!in_progress.insert(key).second) {
      return usage_error(
          fmt::format("model '{}': layer '{}' reads its own result", model_, name_of(key.layer)));
    }
    met_.emplace(key.layer, static_cast<int>(met_.size()));
    stack.push_back({key});
    return {};
  };
  for (const Tensor& output : outputs_) {
    LOCKSTEP_RETURN_IF_ERROR(enter(output.node));
    while (!stack.empty()) {
      Visit& visit = stack.back();
      const Node& node = nodes_.at(visit.node);
      if (visit.next < node.inputs.size()) {
        const Key next = node.inputs[visit.next++].node;
        LOCKSTEP_RETURN_IF_ERROR(enter(next));
        continue;
      }
      finished.insert(visit.node);
      in_progress.erase(visit.node);
      calls_.push_back(visit.node);
      stack.pop_back();
    }
  }
  for (const Key& key : calls_) {
    const bool is_input = std::find(inputs_.begin(), inputs_.end(), key.layer) != inputs_.end();
    if (is_input || !nodes_.at(key).inputs.empty()) continue;
    return usage_error(
        fmt::format("model '{}': layer '{}' reads nothing", model_, name_of(key.layer)));
  }
  return {};
}

void ModelNodes::order_layers() {
  std::map<Key, int> depths;
  std::map<int, int> layer_depths;
  for (auto at = calls_.rbegin(); at != calls_.rend(); ++at) {
    int& layer_depth = layer_depths[at->layer];
    const int depth = std::max(depths[*at], layer_depth);
    layer_depth = depth;
    depths[*at] = depth;
    for (const Tensor& input : nodes_.at(*at).inputs) {
      int& below = depths[input.node];
      below = std::max(below, depth + 1);
    }
  }
  for (const auto& [layer, when] : met_) layers_.push_back(layer);
  std::sort(layers_.begin(), layers_.end(), [&](int a, int b) {
    if (layer_depths[a] != layer_depths[b]) return layer_depths[a] > layer_depths[b];
    return met_[a] < met_[b];
  });
}

}  // namespace lockstep
