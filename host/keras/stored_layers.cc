#include "host/keras/stored_layers.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <map>

namespace lockstep {
namespace {

constexpr const char* kSpectral = "SpectralNormalization";

// Keras' to_snake_case of a class that is no layer type: "Functional".
std::string group_name(const Model::LayerInstance& layer) {
  if (layer.model != nullptr) return layer.class_name == "Sequential" ? "sequential" : "functional";
  const auto type = layer_type(layer.class_name);
  return type.ok() ? type->default_name() : layer.class_name;
}

void add_layers(const Model& model, const std::string& prefix, const std::string& path, int top,
                std::vector<StoredLayer>* stored) {
  std::map<std::string, int> used;  // of each class so far
  for (size_t i = 0; i < model.layers().size(); ++i) {
    const Model::LayerInstance& layer = model.layers()[i];
    const std::string group = group_name(layer);
    const int number = used[group]++;
    const std::string at =
        fmt::format("{}layers/{}", path, number == 0 ? group : fmt::format("{}_{}", group, number));
    const int outermost = top < 0 ? static_cast<int>(i) : top;
    if (layer.model != nullptr) {
      add_layers(*layer.model, prefix + layer.name + ".", at + "/", outermost, stored);
    } else {
      stored->push_back({prefix + layer.name, at, outermost, {}});
      // A wrapper has a group of its own, and its layer the weights.
      if (layer.class_name == "TimeDistributed" || layer.class_name == kSpectral) {
        stored->push_back({prefix + layer.name, at + "/layer", outermost, {}});
      }
    }
  }
}

}  // namespace

std::vector<StoredLayer> stored_layers(const Model& model,
                                       const std::vector<Parameter>& parameters) {
  std::vector<StoredLayer> stored;
  add_layers(model, "", "", -1, &stored);
  std::map<std::string, StoredLayer*> by_name;
  for (StoredLayer& layer : stored)
    by_name[layer.name] = &layer;  // a wrapped one after its wrapper
  for (const Parameter& parameter : parameters) {
    StoredLayer* layer = by_name.at(parameter.layer);
    // A SpectralNormalization itself keeps its vector, and its layer's kernel once more.
    if (parameter.name == "vector_u") {
      StoredLayer& wrapper = *(layer - 1);
      wrapper.again = {layer->parameters.front()};
      wrapper.parameters.push_back(&parameter);
    } else {
      layer->parameters.push_back(&parameter);
    }
  }
  return stored;
}

std::vector<const Parameter*> StoredLayer::written() const {
  std::vector<const Parameter*> all = again;
  all.insert(all.end(), parameters.begin(), parameters.end());
  return all;
}

void sort_by_offset(std::vector<const Parameter*>* parameters) {
  std::sort(parameters->begin(), parameters->end(),
            [](const Parameter* a, const Parameter* b) { return a->offset < b->offset; });
}

std::vector<const Parameter*> trained_parameters(const std::vector<Parameter>& parameters) {
  std::vector<const Parameter*> trained;
  for (const Parameter& parameter : parameters) {
    if (parameter.role == ParameterRole::trained) trained.push_back(&parameter);
  }
  return trained;
}

}  // namespace lockstep
