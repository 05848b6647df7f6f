#include "host/nn/layers/wrapper.h"

#include "host/nn/class_config.h"

namespace lockstep::layers {

Result<InnerLayer> inner_layer(const LayerContext& layer) {
  const nlohmann::json& given = layer.at("layer");
  const std::string class_name = text_of(given, "class_name");
  if (class_name.empty()) return layer.error("layer must be an object with class_name and config");
  if (class_name == "Sequential" || class_name == "Functional") {
    return layer.error("a model in the place of its layer is not supported yet");
  }
  InnerLayer inner;
  LOCKSTEP_ASSIGN(inner.type, layer_type(class_name));
  const nlohmann::json config = given.value("config", nlohmann::json::object());
  LOCKSTEP_ASSIGN(inner.config, resolve_config(inner.type, layer.name(), config));
  inner.trainable = config.value("trainable", true);
  return inner;
}

}  // namespace lockstep::layers
