#include "host/nn/model.h"

#include <fmt/format.h>

#include <set>

#include "host/core/check.h"
#include "host/graph/passes.h"
#include "host/nn/constraints.h"
#include "host/nn/regularizers.h"

namespace lockstep {
namespace {

nlohmann::json batch_shape_of(const Shape& shape) {
  nlohmann::json batch_shape = nlohmann::json::array({nullptr});
  for (const int64_t dimension : shape) {
    batch_shape.push_back(dimension < 0 ? nlohmann::json() : nlohmann::json(dimension));
  }
  return batch_shape;
}

nlohmann::json input_layer(const Model::Input& input) {
  nlohmann::json layer;
  layer["class_name"] = "InputLayer";
  layer["config"]["batch_shape"] = batch_shape_of(input.shape);
  layer["config"]["dtype"] = "float32";
  if (!input.name.empty()) layer["config"]["name"] = input.name;
  return layer;
}

// The first input with the last one as its mask, 1 where that is not 0.
Result<Tensors> with_mask(LayerContext layer, Tensors inputs) {
  if (inputs.size() < 2) return layer.error("is called with a mask, and without an input");
  ExpressionBuilder e;
  const Term counts = e.constant(1) - e.equal(e.operand(0), e.constant(0));
  const SymbolicTensor mask = layer.map("given_mask", e.finish({counts}), {inputs.back()});
  inputs.pop_back();
  inputs[0].mask = mask.value;
  inputs[0].mask_shape = mask.shape;
  return inputs;
}

// Constraints must fit the shapes; a regularizer changes what the loss does not reach as well, and
// that has no gradient here.
Status check_weight_rules(const Graph& graph) {
  for (const Parameter& parameter : graph.parameters) {
    if (!parameter.constraint.is_null()) {
      LOCKSTEP_RETURN_IF_ERROR(weight_constraint(parameter));
    }
    if (is_orthogonal(parameter.regularizer)) {
      LOCKSTEP_RETURN_IF_ERROR(orthogonal_penalty(parameter));
    }
    if (parameter.regularizer.is_null() || parameter.role != ParameterRole::trained ||
        parameter.gradient_offset >= 0) {
      continue;
    }
    return usage_error(
        fmt::format("layer '{}': the loss does not depend on its {}, which has a regularizer; "
                    "leave that out, or freeze the layer",
                    parameter.layer, parameter.name));
  }
  return {};
}

}  // namespace

Model::Model(std::string name, Shape input_shape) : name_(std::move(name)), sequential_(true) {
  inputs_.push_back({"", std::move(input_shape)});
  outputs_ = {{-1, 0}};
}

void Model::fail(const Error& error) {
  if (failure_.ok()) failure_ = error;
}

Model& Model::add(const std::string& class_name, const nlohmann::json& config) {
  LOCKSTEP_CHECK(sequential_);
  const int layer = add_layer(class_name, config);
  outputs_ = {call(layer, outputs_)};
  return *this;
}

Model::TensorRef Model::input(Shape shape, std::string name) {
  const int number = static_cast<int>(inputs_.size());
  if (name.empty()) name = number == 0 ? "input_layer" : fmt::format("input_layer_{}", number);
  inputs_.push_back({std::move(name), std::move(shape)});
  return {-1, number};
}

int Model::add_layer(const std::string& class_name, const nlohmann::json& config) {
  LayerInstance layer;
  layer.class_name = class_name;
  layer.name = config.value("name", "");
  layer.trainable = config.value("trainable", true);
  const auto type = layer_type(class_name);
  if (!type.ok()) fail(type.error());
  if (layer.name.empty()) {
    const std::string base = type.ok() ? type->default_name() : class_name;
    const int number = unnamed_[base]++;
    layer.name = number == 0 ? base : fmt::format("{}_{}", base, number);
  }
  if (type.ok()) {
    auto resolved = resolve_config(*type, layer.name, config);
    if (resolved.ok()) {
      layer.config = std::move(*resolved);
    } else {
      fail(resolved.error());
    }
  }
  layers_.push_back(std::move(layer));
  return static_cast<int>(layers_.size()) - 1;
}

int Model::add_model(std::shared_ptr<const Model> model) {
  LayerInstance layer;
  layer.class_name = model->sequential_ ? "Sequential" : "Functional";
  layer.name = model->name();
  layer.model = std::move(model);
  layers_.push_back(std::move(layer));
  return static_cast<int>(layers_.size()) - 1;
}

Model::TensorRef Model::call(int layer, std::vector<TensorRef> inputs, nlohmann::json arguments) {
  calls_.push_back({layer, std::move(inputs), std::move(arguments)});
  return {static_cast<int>(calls_.size()) - 1, 0};
}

Model::TensorRef Model::call(const std::string& class_name, const nlohmann::json& config,
                             std::vector<TensorRef> inputs) {
  return call(add_layer(class_name, config), std::move(inputs));
}

void Model::set_outputs(std::vector<TensorRef> outputs) { outputs_ = std::move(outputs); }

int Model::layer_count() const {
  int count = 0;
  for (const LayerInstance& layer : layers_) count += layer.model ? layer.model->layer_count() : 1;
  return count;
}

nlohmann::json Model::layer_config(const LayerInstance& layer) const {
  if (layer.model != nullptr) return layer.model->config();
  nlohmann::json config = layer.config;
  config["name"] = layer.name;
  if (!layer.trainable) config["trainable"] = false;
  nlohmann::json written{{"class_name", layer.class_name}, {"config", std::move(config)}};
  const auto type = layer_type(layer.class_name);
  if (!type.ok() || type->module == "keras.layers") return written;
  // The name of an operation begins with keras.ops here, and not in Keras' configs.
  written["class_name"] = layer.class_name.substr(layer.class_name.rfind('.') + 1);
  written["module"] = type->module;
  return written;
}

nlohmann::json Model::config() const {
  return sequential_ ? sequential_config() : functional_config();
}

nlohmann::json Model::sequential_config() const {
  nlohmann::json layers = nlohmann::json::array();
  layers.push_back(input_layer(inputs_[0]));
  for (const LayerInstance& layer : layers_) layers.push_back(layer_config(layer));
  nlohmann::json model;
  model["class_name"] = "Sequential";
  model["config"]["name"] = name_;
  model["config"]["layers"] = std::move(layers);
  return model;
}

// As Keras 3 writes it, with "inbound_nodes" of tensors by [layer, node, output].
nlohmann::json Model::functional_config() const {
  std::vector<int> nodes(layers_.size());  // calls of each layer so far
  std::vector<int> node_of_call;
  for (const Call& call : calls_) {
    node_of_call.push_back(nodes[static_cast<size_t>(call.layer)]++);
  }
  const auto history = [&](const TensorRef& tensor) -> nlohmann::json {
    if (tensor.call < 0) return {inputs_[static_cast<size_t>(tensor.output)].name, 0, 0};
    const auto& call = calls_[static_cast<size_t>(tensor.call)];
    return {layers_[static_cast<size_t>(call.layer)].name,
            node_of_call[static_cast<size_t>(tensor.call)], tensor.output};
  };
  nlohmann::json layers = nlohmann::json::array();
  for (const Input& input : inputs_) {
    nlohmann::json layer = input_layer(input);
    layer["name"] = input.name;
    layer["inbound_nodes"] = nlohmann::json::array();
    layers.push_back(std::move(layer));
  }
  for (const LayerInstance& layer : layers_) {
    layers.push_back(layer_config(layer));
    layers.back()["name"] = layer.name;
    layers.back()["inbound_nodes"] = nlohmann::json::array();
  }
  for (const Call& call : calls_) {
    nlohmann::json tensors = nlohmann::json::array();
    for (const TensorRef& tensor : call.inputs) {
      nlohmann::json entry;
      entry["class_name"] = "__keras_tensor__";
      entry["config"]["keras_history"] = history(tensor);
      tensors.push_back(std::move(entry));
    }
    nlohmann::json node;
    node["kwargs"] = call.arguments;
    if (call.arguments.contains("mask")) {
      node["kwargs"]["mask"] = tensors.back();
      tensors.erase(tensors.size() - 1);
    }
    node["args"] = nlohmann::json::array({tensors.size() == 1 ? tensors[0] : tensors});
    if (const auto operands = call.arguments.find("operands"); operands != call.arguments.end()) {
      size_t next = 0;
      node["args"] = *operands;
      for (auto& operand : node["args"]) {
        if (operand.is_null() && next < tensors.size()) operand = tensors[next++];
      }
      node["kwargs"].erase("operands");
    }
    layers[inputs_.size() + static_cast<size_t>(call.layer)]["inbound_nodes"].push_back(
        std::move(node));
  }
  nlohmann::json model;
  model["class_name"] = "Functional";
  model["config"]["name"] = name_;
  model["config"]["layers"] = std::move(layers);
  for (size_t i = 0; i < inputs_.size(); ++i) {
    model["config"]["input_layers"].push_back(history({-1, static_cast<int>(i)}));
  }
  for (const TensorRef& output : outputs_) {
    model["config"]["output_layers"].push_back(history(output));
  }
  return model;
}

Status Model::check(bool is_outermost) const {
  LOCKSTEP_RETURN_IF_ERROR(failure_);
  for (const Input& input : inputs_) {
    if (!is_outermost || (!input.shape.empty() && is_allowed_shape(input.shape))) continue;
    return usage_error(
        fmt::format("model '{}': the input shape {} must have positive dimensions and at most {} "
                    "entries",
                    name_, to_string(input.shape), kLargestTensor));
  }
  if (layers_.empty()) {
    return usage_error(fmt::format("model '{}' has no layers; add at least one", name_));
  }
  std::set<std::string> names;
  for (const LayerInstance& layer : layers_) {
    if (layer.name.find('/') != std::string::npos) {
      return usage_error(fmt::format("layer '{}': a name must not contain '/'", layer.name));
    }
    if (!names.insert(layer.name).second) {
      return usage_error(fmt::format("two layers are named '{}'; rename one of them", layer.name));
    }
    if (layer.model != nullptr) LOCKSTEP_RETURN_IF_ERROR(layer.model->check(false));
  }
  return {};
}

std::string Model::last_layer() const {
  const TensorRef& output = outputs_[0];
  const LayerInstance& layer =
      output.call < 0
          ? layers_.back()
          : layers_[static_cast<size_t>(calls_[static_cast<size_t>(output.call)].layer)];
  return fmt::format("'{}' ({})", layer.name, layer.class_name);
}

Result<Tensors> Model::build(GraphBuilder& builder, const Tensors& inputs, const Place& place,
                             CallCounts* counts, std::vector<Tensors>* all_results) const {
  std::vector<Tensors> own_results;
  std::vector<Tensors>& results = all_results == nullptr ? own_results : *all_results;
  const auto tensors_of = [&](const std::vector<TensorRef>& refs) -> Result<Tensors> {
    Tensors tensors;
    for (const TensorRef& ref : refs) {
      const Tensors& from = ref.call < 0 ? inputs : results[static_cast<size_t>(ref.call)];
      if (ref.output < 0 || ref.output >= std::ssize(from)) {
        return usage_error(fmt::format("model '{}' reads output {} of a layer that has {}", name_,
                                       ref.output, from.size()));
      }
      tensors.push_back(from[static_cast<size_t>(ref.output)]);
    }
    return tensors;
  };
  for (const Call& call : calls_) {
    LOCKSTEP_ASSIGN(const Tensors tensors, tensors_of(call.inputs));
    LOCKSTEP_ASSIGN(auto result, build_call(builder, call, tensors, place, counts));
    results.push_back(std::move(result));
  }
  return tensors_of(outputs_);
}

Result<Tensors> Model::build_call(GraphBuilder& builder, const Call& call, Tensors inputs,
                                  const Place& place, CallCounts* counts) const {
  int index = place.first_layer;
  for (int i = 0; i < call.layer; ++i) {
    const LayerInstance& before = layers_[static_cast<size_t>(i)];
    index += before.model ? before.model->layer_count() : 1;
  }
  const LayerInstance& layer = layers_[static_cast<size_t>(call.layer)];
  nlohmann::json arguments = place.arguments;
  arguments.update(call.arguments);
  const bool trainable = place.trainable && layer.trainable;
  const std::string name = place.prefix + layer.name;
  if (arguments.contains("mask")) {
    arguments.erase("mask");
    builder.begin_layer(name, index, 0);
    LOCKSTEP_ASSIGN(inputs, with_mask({builder, {name, layer.class_name}}, std::move(inputs)));
  }
  if (layer.model != nullptr) {
    if (inputs.size() != layer.model->inputs().size()) {
      return usage_error(fmt::format("model '{}' takes {} inputs, got {}", name,
                                     layer.model->inputs().size(), inputs.size()));
    }
    return layer.model->build(builder, inputs, {name + ".", index, trainable, arguments}, counts);
  }
  LOCKSTEP_ASSIGN(const LayerType type, layer_type(layer.class_name));
  const int number = (*counts)[index]++;
  builder.begin_layer(name, index, number);
  LayerContext context(builder, {name, layer.class_name, &layer.config, std::move(arguments), index,
                                 number, trainable});
  LOCKSTEP_ASSIGN(SymbolicTensor result, call_layer(type, context, inputs));
  return Tensors{std::move(result)};
}

Result<std::vector<std::vector<Shape>>> Model::call_shapes(const std::vector<Shape>& shapes) const {
  LOCKSTEP_RETURN_IF_ERROR(failure_);
  LOCKSTEP_CHECK(shapes.size() == inputs_.size());
  GraphBuilder builder(GraphMode::inference);
  Tensors inputs;
  for (const Shape& shape : shapes) inputs.push_back(builder.add_input("input", shape));
  CallCounts counts;
  std::vector<Tensors> results;
  LOCKSTEP_RETURN_IF_ERROR(build(builder, inputs, {}, &counts, &results));
  std::vector<std::vector<Shape>> all;
  for (const Tensors& tensors : results) {
    all.emplace_back();
    for (const SymbolicTensor& tensor : tensors) all.back().push_back(tensor.shape);
  }
  return all;
}

Result<Tensors> Model::build_forward(GraphBuilder& builder) const {
  LOCKSTEP_RETURN_IF_ERROR(check(true));
  Tensors inputs;
  for (const Input& input : inputs_) {
    inputs.push_back(builder.add_input(input.name.empty() ? "input" : input.name, input.shape));
  }
  CallCounts counts;
  return build(builder, inputs, {}, &counts);
}

Result<Graph> Model::predict_graph() const {
  GraphBuilder builder(GraphMode::inference);
  LOCKSTEP_ASSIGN(const Tensors outputs, build_forward(builder));
  Graph graph = builder.finish(outputs);
  fuse_activations(&graph);
  fuse_maps(&graph);
  drop_dead_ops(&graph);
  return graph;
}

Result<Graph> Model::evaluate_graph(const Objective& objective) const {
  GraphBuilder builder(GraphMode::inference);
  LOCKSTEP_ASSIGN(const Tensors outputs, build_forward(builder));
  LOCKSTEP_ASSIGN(Graph graph,
                  finish_with_loss(objective, LossMode::measure, last_layer(), builder, outputs));
  fuse_activations(&graph);
  fuse_maps(&graph);
  drop_dead_ops(&graph);
  return graph;
}

Result<Graph> Model::mask_graph(const Objective& objective) const {
  GraphBuilder builder(GraphMode::training);
  LOCKSTEP_ASSIGN(const Tensors outputs, build_forward(builder));
  return count_masks(objective, builder, outputs);
}

Result<std::vector<bool>> Model::masked_outputs() const {
  GraphBuilder builder(GraphMode::inference);
  LOCKSTEP_ASSIGN(const Tensors outputs, build_forward(builder));
  std::vector<bool> masked;
  for (const SymbolicTensor& output : outputs) masked.push_back(output.mask >= 0);
  return masked;
}

Result<Graph> Model::training_graph(const Objective& objective) const {
  GraphBuilder builder(GraphMode::training);
  LOCKSTEP_ASSIGN(const Tensors outputs, build_forward(builder));
  LOCKSTEP_ASSIGN(Graph graph, finish_with_loss(objective, LossMode::differentiate, last_layer(),
                                                builder, outputs));
  if (graph.gradient_count == 0) {
    return usage_error(fmt::format("model '{}' has no weights to train", name_));
  }
  LOCKSTEP_RETURN_IF_ERROR(check_weight_rules(graph));
  finish_training_graph(&graph);
  return graph;
}

}  // namespace lockstep
