#include "host/nn/model_config.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "host/nn/class_config.h"
#include "host/nn/model_nodes.h"

namespace lockstep {
namespace {

using Json = nlohmann::json;

constexpr int kMaxModelNesting = 16;  // models in models

bool is_model_class(const std::string& class_name) {
  return class_name == "Sequential" || class_name == "Functional" || class_name == "Model";
}

std::string config_shape_text(const Shape& shape) {
  std::vector<std::string> sizes = {"None"};
  for (const int64_t size : shape) sizes.push_back(size < 0 ? "None" : std::to_string(size));
  return fmt::format("({})", fmt::join(sizes, ", "));
}

class ConfigReader {
 public:
  Result<std::unique_ptr<Model>> read(const Json& config, const std::vector<Shape>& rows);

 private:
  // What a model inherits from those around it.
  struct Place {
    const std::vector<Shape>* rows = nullptr;  // nullptr: inside another model
    bool trainable = true;
    int depth = 0;
  };
  using ModelPointer = std::unique_ptr<Model>;

  void problem(const std::string& what) { problems_.push_back(what); }
  Result<ModelPointer> read_model(const Json& entry, Place place);
  Result<ModelPointer> read_sequential(const Json& entry, const std::string& name,
                                       const Place& place);
  Result<ModelPointer> read_functional(const Json& config, const std::string& name,
                                       const Place& place);
  Result<int> add_layer(const Json& entry, const Place& place, Model* model);
  void check_layer(const std::string& name, const std::string& class_name, Json* config);
  Result<Shape> input_shape(const Json& config, size_t number, const std::string& name,
                            const Place& place);
  Result<Shape> sequential_shape(const Json& entry, const Json& layers, const std::string& name,
                                 const Place& place);

  std::vector<std::string> problems_;
};

Result<std::unique_ptr<Model>> ConfigReader::read(const Json& config,
                                                  const std::vector<Shape>& rows) try {
  LOCKSTEP_ASSIGN(auto model, read_model(config, {.rows = &rows}));
  if (problems_.empty()) return model;
  return usage_error(fmt::format("model '{}' cannot be run here:\n  {}", model->name(),
                                 fmt::join(problems_, "\n  ")));
} catch (const Json::exception& error) {
  return usage_error(fmt::format("the model's config is not as Keras writes it: {}", error.what()));
}

Result<ConfigReader::ModelPointer> ConfigReader::read_model(const Json& entry, Place place) {
  const std::string class_name = text_of(entry, "class_name");
  if (!is_model_class(class_name)) {
    return usage_error(
        fmt::format("a model of class '{}' is not supported: only Sequential and functional "
                    "models are data; build it from layers",
                    class_name));
  }
  if (const std::string module = foreign_module(entry); !module.empty()) {
    return usage_error(fmt::format(
        "the model's class {} is code of '{}', which never runs here: build it from layers",
        class_name, module));
  }
  if (++place.depth > kMaxModelNesting) {
    return usage_error(
        fmt::format("models are nested more than {} deep: flatten them", kMaxModelNesting));
  }
  const Json& config = entry.at("config");
  const std::string name = config.is_object() ? text_of(config, "name") : "";
  place.trainable = place.trainable && (!config.is_object() || config.value("trainable", true));
  if (class_name == "Sequential") {
    return read_sequential(entry, name.empty() ? "sequential" : name, place);
  }
  if (!config.contains("layers") || !config.contains("output_layers")) {
    return usage_error(
        fmt::format("model '{}' is a subclass of Model, not a graph of layers: its code never runs "
                    "here; build it as a functional model",
                    name));
  }
  return read_functional(config, name, place);
}

// The shape of an input's rows. Dimensions that the config leaves open come from the data.
Result<Shape> ConfigReader::input_shape(const Json& config, size_t number, const std::string& name,
                                        const Place& place) {
  const char* keys[] = {"batch_shape", "batch_input_shape", "input_shape"};
  const Json* sizes = nullptr;
  for (const char* key : keys) {
    if (sizes == nullptr && config.contains(key) && config[key].is_array()) sizes = &config[key];
  }
  if (config.value("sparse", Json()) == true || config.value("ragged", Json()) == true) {
    return usage_error(fmt::format("input '{}' is sparse or ragged: feed dense arrays", name));
  }
  const Shape* row =
      place.rows != nullptr && number < place.rows->size() ? &(*place.rows)[number] : nullptr;
  Shape shape;
  if (sizes == nullptr) {
    if (row != nullptr) return *row;
    if (place.rows == nullptr) return shape;
    return usage_error(
        fmt::format("input '{}' has no shape: say with --data what it is fed", name));
  }
  for (size_t i = 1; i < sizes->size(); ++i) {
    const Json& size = (*sizes)[i];
    shape.push_back(size.is_null() ? -1 : size.get<int64_t>());
  }
  if (place.rows == nullptr || std::find(shape.begin(), shape.end(), -1) == shape.end()) {
    return shape;
  }
  if (row == nullptr || row->size() != shape.size()) {
    return usage_error(fmt::format(
        "input '{}' of shape {} takes open dimensions from the data, {}", name,
        config_shape_text(shape),
        row == nullptr ? "which was not given: say --data"
                       : fmt::format("whose rows have the shape {}: feed rows of {} dimensions",
                                     to_string(*row), shape.size())));
  }
  for (size_t i = 0; i < shape.size(); ++i) {
    if (shape[i] < 0) shape[i] = (*row)[i];
  }
  return shape;
}

// By its InputLayer, its first layer, or what it was built with.
Result<Shape> ConfigReader::sequential_shape(const Json& entry, const Json& layers,
                                             const std::string& name, const Place& place) {
  const Json* first = &layers.at(0);
  while (is_model_class(text_of(*first, "class_name"))) {  // at most as deep as the JSON is
    const Json& inner = first->at("config");
    first = &(inner.is_array() ? inner : inner.at("layers")).at(0);
  }
  const Json& config = first->at("config");
  if (config.contains("batch_shape") || config.contains("batch_input_shape")) {
    return input_shape(config, 0, name, place);
  }
  Json built = entry.value("build_config", Json::object());
  if (!built.is_object() || !built.contains("input_shape")) built = Json::object();
  const Json& own = entry.at("config");
  if (built.empty() && own.is_object() && own.contains("build_input_shape")) {
    built["input_shape"] = own["build_input_shape"];
  }
  return input_shape(built, 0, name, place);
}

Result<ConfigReader::ModelPointer> ConfigReader::read_sequential(const Json& entry,
                                                                 const std::string& name,
                                                                 const Place& place) {
  const Json& config = entry.at("config");
  const Json& layers = config.is_array() ? config : config.at("layers");
  if (layers.empty()) return usage_error(fmt::format("model '{}' has no layers", name));
  LOCKSTEP_ASSIGN(Shape shape, sequential_shape(entry, layers, name, place));
  auto model = std::make_unique<Model>(name, std::move(shape));
  Model::TensorRef result;
  for (const Json& layer : layers) {
    if (text_of(layer, "class_name") == "InputLayer") continue;
    LOCKSTEP_ASSIGN(const int number, add_layer(layer, place, model.get()));
    result = model->call(number, {result});
  }
  model->set_outputs({result});
  return model;
}

Result<ConfigReader::ModelPointer> ConfigReader::read_functional(const Json& config,
                                                                 const std::string& name,
                                                                 const Place& place) {
  LOCKSTEP_ASSIGN(const ModelNodes nodes, ModelNodes::read(config, name, &problems_));
  const Json& layers = config.at("layers");
  auto model = std::make_unique<Model>(name);
  std::map<int, Model::TensorRef> inputs;  // by layer
  for (const int layer : nodes.input_layers()) {
    const Json& entry = layers.at(static_cast<size_t>(layer));
    const std::string input = nodes.name_of(layer);
    LOCKSTEP_ASSIGN(Shape shape, input_shape(entry.at("config"), inputs.size(), input, place));
    inputs[layer] = model->input(std::move(shape), input);
  }
  std::map<int, int> numbers;  // of layers in the model
  for (const int layer : nodes.layers_in_order()) {
    if (inputs.contains(layer)) continue;
    LOCKSTEP_ASSIGN(numbers[layer],
                    add_layer(layers.at(static_cast<size_t>(layer)), place, model.get()));
  }
  std::map<ModelNodes::Key, int> calls;
  const auto tensor = [&](const ModelNodes::Tensor& from) -> Model::TensorRef {
    const auto input = inputs.find(from.node.layer);
    if (input != inputs.end()) return input->second;
    return {calls.at(from.node), from.output};
  };
  for (const ModelNodes::Key& key : nodes.calls_in_order()) {
    if (inputs.contains(key.layer)) continue;
    const ModelNodes::Node& node = nodes.node(key);
    std::vector<Model::TensorRef> from;
    for (const auto& each : node.inputs) from.push_back(tensor(each));
    calls[key] = model->call(numbers.at(key.layer), std::move(from), node.arguments).call;
  }
  std::vector<Model::TensorRef> outputs;
  for (const auto& each : nodes.outputs()) outputs.push_back(tensor(each));
  model->set_outputs(std::move(outputs));
  return model;
}

// Adds what is wrong with it to the problems, and takes out keys that later versions of Keras added
// and that are not set. Keras 2 writes the one axis of a BatchNormalization as a list.
void ConfigReader::check_layer(const std::string& name, const std::string& class_name,
                               Json* config) {
  const auto type = layer_type(class_name);
  if (!type.ok()) {
    problem(fmt::format("layer '{}': {}", name, type.error().message));
    return;
  }
  const auto is_known = [&](const std::string& key) {
    return std::any_of(type->keys.begin(), type->keys.end(),
                       [&](const ConfigKey& known) { return known.name == key; });
  };
  for (auto at = config->begin(); at != config->end();) {
    at = at->is_null() && !is_known(at.key()) ? config->erase(at) : std::next(at);
  }
  for (const ConfigKey& key : type->keys) {
    const auto given = config->find(key.name);
    const bool is_one = key.kind == KeyKind::integer && given != config->end() &&
                        given->is_array() && given->size() == 1;
    if (is_one) *given = Json(given->front());
  }
  const auto resolved = resolve_config(*type, name, *config);
  if (!resolved.ok()) problem(resolved.error().message);
}

Result<int> ConfigReader::add_layer(const Json& entry, const Place& place, Model* model) {
  const std::string class_name =
      (is_operation(entry) ? "keras.ops." : "") + text_of(entry, "class_name");
  Json config = entry.at("config");
  const std::string name = config.is_object() && config.contains("name") ? text_of(config, "name")
                                                                         : text_of(entry, "name");
  if (const std::string module = foreign_module(entry); !module.empty()) {
    problem(fmt::format(
        "layer '{}' ({}) is code of '{}', which never runs here: replace it by built-in layers",
        name, class_name, module));
    return model->add_layer("Identity", {{"name", name}});  // a stand-in: the model is refused
  }
  if (is_model_class(class_name)) {
    LOCKSTEP_ASSIGN(auto inner, read_model(entry, {nullptr, place.trainable, place.depth}));
    return model->add_model(std::move(inner));
  }
  if (!name.empty()) config["name"] = name;
  if (!place.trainable) config["trainable"] = false;
  check_layer(name, class_name, &config);
  return model->add_layer(class_name, config);
}

}  // namespace

std::vector<std::string> input_names(const Json& config) try {
  std::vector<std::string> problems;  // told when the model is made
  const auto nodes = ModelNodes::read(config.at("config"), "", &problems);
  std::vector<std::string> names;
  if (!nodes.ok()) return names;
  for (const int layer : nodes->input_layers()) names.push_back(nodes->name_of(layer));
  return names;
} catch (const Json::exception&) {
  return {};
}

std::vector<std::string> output_names(const Json& config) try {
  const Json& inner = config.at("config");
  if (config.at("class_name") == "Sequential") {
    const Json& layers = inner.at("layers");
    if (layers.empty()) return {};  // told when the model is made
    return {layers.back().at("config").at("name").get<std::string>()};
  }
  std::vector<std::string> names;
  if (const Json& outputs = inner.at("output_layers"); outputs.is_object()) {
    for (const auto& [name, output] : outputs.items()) names.push_back(name);
    return names;
  }
  std::vector<std::string> problems;  // told when the model is made
  const auto nodes = ModelNodes::read(inner, "", &problems);
  if (!nodes.ok()) return names;
  for (const auto& output : nodes->outputs()) names.push_back(nodes->name_of(output.node.layer));
  return names;
} catch (const Json::exception&) {
  return {};
}

Result<std::unique_ptr<Model>> model_from_config(const Json& config,
                                                 const std::vector<Shape>& rows) {
  if (!config.is_object()) {
    return usage_error("the model's config is no JSON object: save the model by Keras");
  }
  return ConfigReader().read(config, rows);
}

}  // namespace lockstep
