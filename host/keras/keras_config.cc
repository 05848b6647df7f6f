#include "host/keras/keras_config.h"

#include <fmt/chrono.h>
#include <fmt/format.h>

#include <ctime>

#include "host/optim/optimizer_table.h"

namespace lockstep {
namespace {

using Json = nlohmann::json;
using Shapes = std::vector<Shape>;

Json object_of(const char* module, const std::string& class_name, Json config) {
  return {{"module", module},
          {"class_name", class_name},
          {"config", std::move(config)},
          {"registered_name", nullptr}};
}

Json with_module(const char* module, Json object) {
  if (!object.is_object()) return object;
  return object_of(module, object.at("class_name"), object.at("config"));
}

// Metrics by name, as objects, or lists of them.
Json metrics_with_module(Json metrics) {
  if (!metrics.is_array()) return with_module("keras.metrics", std::move(metrics));
  for (Json& metric : metrics) metric = metrics_with_module(std::move(metric));
  return metrics;
}

Json batch_shape(const Shape& shape) {
  Json sizes = Json::array({nullptr});
  for (const int64_t size : shape) sizes.push_back(size);
  return sizes;
}

Result<Json> complete_model(const Model& model, const Shapes& inputs);

// What a call returned, for inputs of the model and results of calls alike.
class TensorShapes {
 public:
  static Result<TensorShapes> of(const Model& model, const Shapes& inputs) {
    TensorShapes shapes;
    shapes.inputs_ = inputs;
    LOCKSTEP_ASSIGN(shapes.results_, model.call_shapes(inputs));
    return shapes;
  }
  const Shape& at(const Model::TensorRef& tensor) const {
    return tensor.call < 0 ? inputs_.at(static_cast<size_t>(tensor.output))
                           : results_.at(static_cast<size_t>(tensor.call))
                                 .at(static_cast<size_t>(tensor.output));
  }

 private:
  Shapes inputs_;
  std::vector<Shapes> results_;
};

// Without the keys that are as they are by default: later versions have added some, which earlier
// ones refuse.
Status shorten(const Model::LayerInstance& layer, Json* config) {
  LOCKSTEP_ASSIGN(const LayerType type, layer_type(layer.class_name));
  Json required = Json::object();
  for (const ConfigKey& key : type.keys) {
    if (key.is_required()) required[key.name] = layer.config.at(key.name);
  }
  LOCKSTEP_ASSIGN(const Json defaults, resolve_config(type, layer.name, required));
  for (const auto& [key, value] : defaults.items()) {
    if (!required.contains(key) && layer.config.at(key) == value) config->erase(key);
  }
  return {};
}

// The tensors in a node's arguments, which are its call's inputs in order.
void complete_tensors(const TensorShapes& shapes, Json* arguments,
                      std::vector<Model::TensorRef>::const_iterator* input) {
  if (!arguments->is_structured()) return;
  if (arguments->is_object() && arguments->value("class_name", Json()) == "__keras_tensor__") {
    (*arguments)["config"]["shape"] = batch_shape(shapes.at(*(*input)++));
    (*arguments)["config"]["dtype"] = "float32";
    return;
  }
  for (Json& argument : *arguments) complete_tensors(shapes, &argument, input);
}

// The config's entries of layers lie in the model's order, those of a functional model's inputs
// before them.
Status complete_layers(const Model& model, const TensorShapes& shapes, Json* entries) {
  const size_t before = entries->size() - model.layers().size();
  for (Json& entry : *entries) {
    entry["module"] = "keras.layers";
    entry["registered_name"] = nullptr;
  }
  for (const Model::Call& call : model.calls()) {
    const auto number = static_cast<size_t>(call.layer);
    const Model::LayerInstance& layer = model.layers()[number];
    Json& entry = (*entries)[before + number];
    if (layer.model == nullptr) {
      LOCKSTEP_RETURN_IF_ERROR(shorten(layer, &entry["config"]));
      continue;
    }
    Shapes inputs;
    for (const Model::TensorRef& input : call.inputs) inputs.push_back(shapes.at(input));
    LOCKSTEP_ASSIGN(const Json inner, complete_model(*layer.model, inputs));
    entry.update(inner);
  }
  std::vector<size_t> calls(model.layers().size());  // of each layer so far
  for (const Model::Call& call : model.calls()) {
    const auto number = static_cast<size_t>(call.layer);
    Json& entry = (*entries)[before + number];
    if (!entry.contains("inbound_nodes")) continue;
    Json& node = entry["inbound_nodes"].at(calls[number]++);
    auto input = call.inputs.begin();
    complete_tensors(shapes, &node.at("args"), &input);
    complete_tensors(shapes, &node.at("kwargs"), &input);
  }
  return {};
}

Result<Json> complete_model(const Model& model, const Shapes& inputs) {
  Json json = model.config();
  Json& config = json["config"];
  LOCKSTEP_ASSIGN(const TensorShapes shapes, TensorShapes::of(model, inputs));
  LOCKSTEP_RETURN_IF_ERROR(complete_layers(model, shapes, &config["layers"]));
  for (size_t i = 0; i < inputs.size(); ++i) {
    config["layers"].at(i)["config"]["batch_shape"] = batch_shape(inputs[i]);
  }
  const bool sequential = json["class_name"] == "Sequential";
  json["module"] = sequential ? "keras" : "keras.src.models.functional";
  json["registered_name"] = sequential ? Json() : json["class_name"];
  config["trainable"] = true;
  if (sequential) {
    config.erase("trainable");
    config["layers"].at(0)["config"]["name"] = "input_layer";
    json["build_config"]["input_shape"] = batch_shape(inputs.at(0));
    return json;
  }
  return json;
}

Json compiled(const CompileSettings& compile) {
  Json optimizer = compile.optimizer;
  std::string class_name;
  for (const OptimizerRow& row : optimizer_table()) {
    if (optimizer.at("name") == lower_case(row.keras_class)) class_name = row.keras_class;
  }
  optimizer["learning_rate"] =
      with_module("keras.optimizers.schedules", optimizer.at("learning_rate"));
  Json loss = with_module("keras.losses", compile.loss);
  if (loss.is_array()) {
    for (Json& one : loss) one = with_module("keras.losses", one);
  }
  return {{"optimizer", object_of("keras.optimizers", class_name, std::move(optimizer))},
          {"loss", std::move(loss)},
          {"loss_weights", compile.loss_weights},
          {"metrics", metrics_with_module(compile.metrics)},
          {"weighted_metrics", metrics_with_module(compile.weighted_metrics)},
          {"run_eagerly", false},
          {"steps_per_execution", 1},
          {"jit_compile", false}};
}

}  // namespace

Result<Json> keras_config(const Model& model, const std::optional<CompileSettings>& compile) {
  Shapes inputs;
  for (const Model::Input& input : model.inputs()) inputs.push_back(input.shape);
  LOCKSTEP_ASSIGN(Json config, complete_model(model, inputs));
  if (compile) config["compile_config"] = compiled(*compile);
  return config;
}

std::string keras_metadata() {
  const Json metadata = {
      {"keras_version", kKerasVersion},
      {"date_saved", fmt::format("{:%Y-%m-%d@%H:%M:%S}", fmt::gmtime(std::time(nullptr)))}};
  return metadata.dump();
}

}  // namespace lockstep
