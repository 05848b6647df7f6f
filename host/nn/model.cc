#include "host/nn/model.h"

#include <fmt/format.h>

#include <set>

#include "host/graph/passes.h"
#include "host/nn/losses.h"

namespace lockstep {

Model::Model(std::string name, Shape input_shape)
    : name_(std::move(name)), input_shape_(std::move(input_shape)) {}

Model& Model::add(std::unique_ptr<Layer> layer) {
  if (layer->name().empty()) {
    const std::string base = layer->default_name();
    const int number = unnamed_[base]++;
    layer->set_name(number == 0 ? base : fmt::format("{}_{}", base, number));
  }
  layers_.push_back(std::move(layer));
  return *this;
}

nlohmann::json Model::config() const {
  nlohmann::json batch_shape = nlohmann::json::array({nullptr});
  for (const int64_t dimension : input_shape_) batch_shape.push_back(dimension);
  nlohmann::json input;
  input["class_name"] = "InputLayer";
  input["config"]["batch_shape"] = std::move(batch_shape);
  input["config"]["dtype"] = "float32";
  nlohmann::json layers = nlohmann::json::array();
  layers.push_back(std::move(input));
  for (const std::unique_ptr<Layer>& layer : layers_) {
    layers.push_back({{"class_name", layer->class_name()}, {"config", layer->config()}});
  }
  nlohmann::json model;
  model["class_name"] = "Sequential";
  model["config"]["name"] = name_;
  model["config"]["layers"] = std::move(layers);
  return model;
}

Status Model::check_names() const {
  std::set<std::string> names;
  for (const std::unique_ptr<Layer>& layer : layers_) {
    const std::string& name = layer->name();
    if (name.find('/') != std::string::npos) {
      return usage_error(fmt::format("layer '{}': a name must not contain '/'", name));
    }
    if (!names.insert(name).second) {
      return usage_error(fmt::format("two layers are named '{}'; rename one of them", name));
    }
  }
  return {};
}

std::string Model::last_layer() const {
  return fmt::format("'{}' ({})", layers_.back()->name(), layers_.back()->class_name());
}

Result<Graph> Model::forward_graph(GraphMode mode) const {
  if (input_shape_.empty() || !is_allowed_shape(input_shape_)) {
    return usage_error(
        fmt::format("model '{}': the input shape {} must have positive dimensions and at most {} "
                    "entries",
                    name_, to_string(input_shape_), kLargestTensor));
  }
  if (layers_.empty()) {
    return usage_error(fmt::format("model '{}' has no layers; add at least one", name_));
  }
  LOCKSTEP_RETURN_IF_ERROR(check_names());
  GraphBuilder builder(input_shape_, mode);
  SymbolicTensor tensor = builder.input();
  for (size_t index = 0; index < layers_.size(); ++index) {
    builder.begin_layer(layers_[index]->name(), static_cast<int>(index));
    LOCKSTEP_ASSIGN(tensor, layers_[index]->build(builder, tensor));
  }
  return builder.finish(tensor);
}

Result<Graph> Model::predict_graph() const {
  LOCKSTEP_ASSIGN(Graph graph, forward_graph(GraphMode::inference));
  fuse_activations(&graph);
  return graph;
}

Result<Graph> Model::evaluate_graph(const std::string& loss) const {
  LOCKSTEP_ASSIGN(Graph graph, forward_graph(GraphMode::inference));
  LOCKSTEP_RETURN_IF_ERROR(attach_loss(loss, LossMode::measure, last_layer(), &graph));
  fuse_activations(&graph);
  return graph;
}

Result<Graph> Model::training_graph(const std::string& loss) const {
  LOCKSTEP_ASSIGN(Graph graph, forward_graph(GraphMode::training));
  if (graph.parameter_count == 0) {
    return usage_error(fmt::format("model '{}' has no weights to train", name_));
  }
  LOCKSTEP_RETURN_IF_ERROR(attach_loss(loss, LossMode::differentiate, last_layer(), &graph));
  fuse_activations(&graph);
  append_gradients(&graph);
  fold_relu_gradients(&graph);
  return graph;
}

}  // namespace lockstep
