#include "host/keras/save_model.h"

#include <algorithm>

#include "host/data/zip_writer.h"
#include "host/keras/hdf5_writer.h"
#include "host/keras/optimizer_layout.h"
#include "host/keras/stored_layers.h"

namespace lockstep {
namespace {

using Json = nlohmann::json;

// Whether Keras 3 reads the source's config as it is. Legacy files have another form.
bool has_own_config(const ModelFile* source) {
  return source != nullptr && source->has_model() && source->config.contains("module");
}

bool goes_on_in(const Json& compile, const Optimizer& optimizer) {
  if (!compile.is_object()) return false;
  const auto compiled = Optimizer::create(compile.value("optimizer", Json()));
  return compiled.ok() && keeps_same_state(*compiled, optimizer);
}

// The config with its models and layers as legacy files have them: classes without modules.
Json legacy_config(Json model) {
  for (const char* key : {"module", "registered_name", "build_config", "compile_config"}) {
    model.erase(key);
  }
  if (!model.is_object() || !model.contains("config") || !model["config"].is_object()) return model;
  Json& config = model["config"];
  if (!config.contains("layers") || !config["layers"].is_array()) return model;
  for (Json& layer : config["layers"]) layer = legacy_config(std::move(layer));
  return model;
}

void add_layer_weights(const TrainedModel& trained, const std::string& layer,
                       const std::vector<const Parameter*>& parameters, Hdf5Writer* file) {
  std::vector<std::string> names;
  for (const Parameter* parameter : parameters) {
    names.push_back(parameter->path());
    file->add_floats("model_weights/" + layer + "/" + names.back(), parameter->shape,
                     trained.weights.data() + parameter->offset);
  }
  file->set_texts("model_weights/" + layer, "weight_names", names);
}

}  // namespace

Result<std::string> make_keras_file(const TrainedModel& trained) {
  std::string config;
  std::string metadata;
  std::optional<OptimizerView> optimizer = trained.optimizer;
  if (has_own_config(trained.source)) {
    config = trained.source->config_text;
    metadata = trained.source->metadata;
    if (optimizer) optimizer->before_3_10 = trained.source->is_before_3_10();
    const Json& compile = trained.source->compile;
    if (optimizer && !goes_on_in(compile, *optimizer->optimizer)) optimizer.reset();
  } else {
    LOCKSTEP_ASSIGN(const auto json, keras_config(*trained.model, trained.compile));
    config = json.dump();
    if (!trained.compile) optimizer.reset();
  }
  if (metadata.empty()) metadata = keras_metadata();
  LOCKSTEP_ASSIGN(const std::string weights,
                  make_weights_h5(*trained.model, *trained.parameters, trained.weights, optimizer));
  return make_zip(
      {{"metadata.json", metadata}, {"config.json", config}, {"model.weights.h5", weights}});
}

Result<std::string> make_legacy_h5(const TrainedModel& trained) {
  Json config;
  Json compile;
  if (trained.source != nullptr && trained.source->has_model()) {
    config = trained.source->config;
    compile = trained.source->compile;
  } else {
    LOCKSTEP_ASSIGN(config, keras_config(*trained.model, trained.compile));
    compile = config.value("compile_config", Json());
  }
  Hdf5Writer file;
  file.set_text("", "model_config", legacy_config(std::move(config)).dump());
  if (compile.is_object() && compile.contains("optimizer")) {
    compile["optimizer_config"] = compile["optimizer"];
    if (!compile.contains("loss_weights")) compile["loss_weights"] = nullptr;
    compile.erase("optimizer");
    file.set_text("", "training_config", compile.dump());
  }
  file.add_group("model_weights");
  for (const char* group : {"", "model_weights"}) {
    file.set_text(group, "keras_version", kKerasVersion);
    file.set_text(group, "backend", "tensorflow");  // the axes of kernels are those of TensorFlow
  }
  std::vector<std::string> names;
  for (const Model::LayerInstance& layer : trained.model->layers()) names.push_back(layer.name);
  file.set_texts("model_weights", "layer_names", names);
  std::vector<std::vector<const Parameter*>> parameters(names.size());
  for (const StoredLayer& layer : stored_layers(*trained.model, *trained.parameters)) {
    auto& of_top = parameters[static_cast<size_t>(layer.top)];
    of_top.insert(of_top.end(), layer.parameters.begin(), layer.parameters.end());
  }
  for (size_t i = 0; i < names.size(); ++i) {
    sort_by_offset(&parameters[i]);
    std::stable_partition(parameters[i].begin(), parameters[i].end(), [](const Parameter* each) {
      return each->role == ParameterRole::trained;
    });
    file.add_group("model_weights/" + names[i]);
    add_layer_weights(trained, names[i], parameters[i], &file);
  }
  return file.finish();
}

}  // namespace lockstep
