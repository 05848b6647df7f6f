#include "host/keras/weights.h"

#include <fmt/format.h>

#include <algorithm>

#include "host/core/check.h"
#include "host/keras/hdf5_writer.h"
#include "host/keras/optimizer_layout.h"
#include "host/keras/stored_layers.h"
#include "host/optim/optimizer_table.h"

namespace lockstep {
namespace {

using Parameters = std::vector<const Parameter*>;

// Before Keras 3 was released, lists of layers had another name.
constexpr const char* kOldLayers = "_layer_checkpoint_dependencies";

std::string with_old_layers(std::string path) {
  const std::string name = "layers/";
  for (size_t at = 0; (at = path.find(name, at)) != std::string::npos;) {
    const bool whole = at == 0 || path[at - 1] == '/';
    if (whole) path.replace(at, name.size() - 1, kOldLayers);
    at += whole ? std::string(kOldLayers).size() : name.size();
  }
  return path;
}

Error misfit(const ModelFile& file, const std::string& layer, const std::string& what) {
  return usage_error(fmt::format(
      "'{}' has weights of another model: layer '{}' {}; give the weights of this model", file.path,
      layer, what));
}

// The arrays, one for each parameter, in order.
Status read_arrays(const ModelFile& file, const std::string& layer, const Parameters& parameters,
                   const std::vector<std::string>& arrays, std::vector<float>* weights) {
  if (arrays.size() != parameters.size()) {
    return misfit(
        file, layer,
        fmt::format("has {} weights, and the file {} for it", parameters.size(), arrays.size()));
  }
  for (size_t i = 0; i < arrays.size(); ++i) {
    const Parameter& parameter = *parameters[i];
    LOCKSTEP_ASSIGN(const Field array, file.weights->array(arrays[i]));
    if (array.row_shape != parameter.shape) {
      return misfit(file, layer,
                    fmt::format("needs '{}' of shape {}, and the file has {}", parameter.name,
                                to_string(parameter.shape), to_string(array.row_shape)));
    }
    array.take_floats(weights->data() + parameter.offset);
  }
  return {};
}

Status read_keras_3(const ModelFile& file, const std::vector<StoredLayer>& layers,
                    std::vector<float>* weights) {
  LOCKSTEP_ASSIGN(const bool old, file.weights->contains(kOldLayers));
  for (const StoredLayer& layer : layers) {
    const std::string group = (old ? with_old_layers(layer.path) : layer.path) + "/vars";
    LOCKSTEP_ASSIGN(const auto names, file.weights->names(group));
    std::vector<std::string> arrays;
    for (const std::string& name : names) arrays.push_back(group + "/" + name);
    LOCKSTEP_RETURN_IF_ERROR(read_arrays(file, layer.name, layer.written(), arrays, weights));
  }
  return {};
}

// Legacy files have a group a layer of the outermost model, with what may be trained first.
struct LegacyLayer {
  std::string name;
  Parameters trained;
  Parameters others;
};

std::vector<LegacyLayer> legacy_layers(const Model& model, const std::vector<StoredLayer>& stored) {
  std::vector<LegacyLayer> layers(model.layers().size());
  for (size_t i = 0; i < layers.size(); ++i) layers[i].name = model.layers()[i].name;
  for (const StoredLayer& layer : stored) {
    LegacyLayer& top = layers[static_cast<size_t>(layer.top)];
    for (const Parameter* parameter : layer.parameters) {
      const bool trained = parameter->role == ParameterRole::trained;
      (trained ? top.trained : top.others).push_back(parameter);
    }
  }
  for (LegacyLayer& layer : layers) sort_by_offset(&layer.others);
  std::erase_if(layers, [](const LegacyLayer& layer) {
    return layer.trained.empty() && layer.others.empty();
  });
  return layers;
}

// Layers are matched by their order, as Keras does: names differ from session to session.
Status read_legacy(const ModelFile& file, const std::vector<LegacyLayer>& layers,
                   std::vector<float>* weights) {
  const std::string root = file.layout == WeightsLayout::legacy ? "model_weights" : "";
  LOCKSTEP_ASSIGN(const auto groups, file.weights->texts(root, "layer_names"));
  size_t next = 0;
  for (const std::string& name : groups.value_or(std::vector<std::string>{})) {
    const std::string group = root.empty() ? name : root + "/" + name;
    LOCKSTEP_ASSIGN(const auto names, file.weights->texts(group, "weight_names"));
    if (!names || names->empty()) continue;
    if (next == layers.size()) {
      return usage_error(
          fmt::format("'{}' has weights of another model: of a layer '{}' too", file.path, name));
    }
    Parameters parameters = layers[next].trained;
    parameters.insert(parameters.end(), layers[next].others.begin(), layers[next].others.end());
    std::vector<std::string> arrays;
    for (const std::string& array : *names) arrays.push_back(group + "/" + array);
    LOCKSTEP_RETURN_IF_ERROR(read_arrays(file, layers[next].name, parameters, arrays, weights));
    ++next;
  }
  if (next == layers.size()) return {};
  return misfit(file, layers[next].name, "has weights, and the file none for it");
}

// "optimizer/vars/0" …, or where legacy files keep them, in Keras' order.
Result<std::vector<std::string>> optimizer_arrays(const ModelFile& file) {
  std::vector<std::string> arrays;
  if (file.layout == WeightsLayout::keras_3) {
    LOCKSTEP_ASSIGN(const auto names, file.weights->names("optimizer/vars"));
    for (const std::string& name : names) arrays.push_back("optimizer/vars/" + name);
    return arrays;
  }
  LOCKSTEP_ASSIGN(const bool there, file.weights->contains("optimizer_weights"));
  if (!there) return arrays;
  LOCKSTEP_ASSIGN(const auto names, file.weights->texts("optimizer_weights", "weight_names"));
  for (const std::string& name : names.value_or(std::vector<std::string>{})) {
    arrays.push_back("optimizer_weights/" + name);
  }
  return arrays;
}

// In the order whose shapes are those of the arrays: weights alone say nothing of a version.
Result<OptimizerLayout> layout_of(const ModelFile& file, const Optimizer& optimizer,
                                  const std::vector<Parameter>& parameters,
                                  const std::vector<std::string>& arrays) {
  const auto trained = trained_parameters(parameters);
  OptimizerLayout layout(optimizer, trained, false);
  OptimizerLayout before_3_10(optimizer, trained, true);
  if (arrays.size() != layout.size()) return layout;
  for (size_t i = 0; i < arrays.size(); ++i) {
    if (layout.shape_of(i) == before_3_10.shape_of(i)) continue;
    LOCKSTEP_ASSIGN(const Field array, file.weights->array(arrays[i]));
    return array.row_shape == before_3_10.shape_of(i) ? std::move(before_3_10) : std::move(layout);
  }
  return layout;
}

}  // namespace

Result<std::vector<float>> read_weights(const ModelFile& file, const Model& model,
                                        const std::vector<Parameter>& parameters) {
  LOCKSTEP_CHECK(file.has_weights());
  int64_t count = 0;
  for (const Parameter& parameter : parameters) count += parameter.count();
  std::vector<float> weights(static_cast<size_t>(count));
  const auto layers = stored_layers(model, parameters);
  if (file.layout == WeightsLayout::keras_3) {
    LOCKSTEP_RETURN_IF_ERROR(read_keras_3(file, layers, &weights));
  } else {
    LOCKSTEP_RETURN_IF_ERROR(read_legacy(file, legacy_layers(model, layers), &weights));
  }
  return weights;
}

Result<std::optional<OptimizerState>> read_optimizer_state(const ModelFile& file,
                                                           const Optimizer& optimizer,
                                                           const std::vector<Parameter>& parameters,
                                                           std::string* why_not) {
  using State = std::optional<OptimizerState>;
  if (!file.has_weights() || !file.compile.is_object()) return State();
  LOCKSTEP_ASSIGN(const auto arrays, optimizer_arrays(file));
  if (arrays.empty()) return State();
  const auto theirs = Optimizer::create(file.compile.value("optimizer", nlohmann::json()));
  if (!theirs.ok() || !keeps_same_state(*theirs, optimizer)) {
    *why_not = "it is of another optimizer";
    return State();
  }
  LOCKSTEP_ASSIGN(const OptimizerLayout layout, layout_of(file, *theirs, parameters, arrays));
  if (arrays.size() != layout.size()) {
    *why_not = fmt::format("it has {} values, and {} were expected", arrays.size(), layout.size());
    return State();
  }
  OptimizerState state;
  LOCKSTEP_ASSIGN(state.iterations, file.weights->integer(arrays[0]));
  if (state.iterations < 0) {
    return usage_error(
        fmt::format("'{}': the optimizer has made {} iterations", file.path, state.iterations));
  }
  int64_t count = 0;
  for (const Parameter& parameter : parameters) count += parameter.count();
  for (const OptimizerSlot& slot : optimizer.slots()) {
    state.slots.emplace_back(static_cast<size_t>(count), slot.initial_value);
  }
  for (size_t i = 0; i < layout.slots().size(); ++i) {
    const auto& [slot, parameter, shape] = layout.slots()[i];
    LOCKSTEP_ASSIGN(const Field array, file.weights->array(arrays[layout.first_slot() + i]));
    if (array.row_shape != shape) {
      return misfit(file, parameter->layer,
                    fmt::format("needs an optimizer's slot of shape {}, and '{}' has {}",
                                to_string(shape), array.name, to_string(array.row_shape)));
    }
    array.take_floats(state.slots[slot].data() + parameter->offset);
  }
  return State(std::move(state));
}

Result<std::optional<float>> stored_learning_rate(const ModelFile& file,
                                                  const Optimizer& optimizer) {
  using Rate = std::optional<float>;
  if (!file.has_weights() || !optimizer.config().at("learning_rate").is_number()) return Rate();
  LOCKSTEP_ASSIGN(const auto arrays, optimizer_arrays(file));
  if (arrays.size() < 2) return Rate();
  LOCKSTEP_ASSIGN(const Field array, file.weights->array(arrays[1]));
  if (!array.row_shape.empty()) return Rate();
  float rate = 0;
  array.copy_floats(0, 1, &rate);
  return Rate(rate);
}

Result<std::string> make_weights_h5(const Model& model, const std::vector<Parameter>& parameters,
                                    std::span<const float> weights,
                                    const std::optional<OptimizerView>& optimizer) {
  Hdf5Writer file;
  file.add_group("vars");  // Keras 3.3 asks for it
  for (const StoredLayer& layer : stored_layers(model, parameters)) {
    file.add_group(layer.path + "/vars");
    const Parameters written = layer.written();
    for (size_t i = 0; i < written.size(); ++i) {
      const Parameter& parameter = *written[i];
      file.add_floats(fmt::format("{}/vars/{}", layer.path, i), parameter.shape,
                      weights.data() + parameter.offset);
    }
  }
  if (!optimizer) return file.finish();
  const OptimizerLayout layout(*optimizer->optimizer, trained_parameters(parameters),
                               optimizer->before_3_10);
  const auto name = [](size_t i) { return fmt::format("optimizer/vars/{}", i); };
  file.add_integer(name(0),
                   static_cast<int32_t>(std::min<int64_t>(optimizer->iterations, INT32_MAX)));
  if (const auto own = layout.learning_rate()) {
    const auto rate = static_cast<float>(optimizer->learning_rate.value_or(*own));
    file.add_floats(name(1), {}, &rate);
  }
  if (const auto place = layout.product()) {
    const auto product = static_cast<float>(
        nadam_product(optimizer->optimizer->config().at("beta_1"), optimizer->iterations));
    file.add_floats(name(*place), {}, &product);
  }
  for (size_t i = 0; i < layout.slots().size(); ++i) {
    const auto& [slot, parameter, shape] = layout.slots()[i];
    file.add_floats(name(layout.first_slot() + i), shape,
                    optimizer->slots[slot].data() + parameter->offset);
  }
  return file.finish();
}

}  // namespace lockstep
