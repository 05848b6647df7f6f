// What layers around another layer share.
#pragma once

#include "host/nn/layer.h"

namespace lockstep::layers {

struct InnerLayer {
  LayerType type;
  nlohmann::json config;  // resolved
  bool trainable = true;  // as its own config says
};

// The layer that the config's `layer` describes. A model in its place is refused.
Result<InnerLayer> inner_layer(const LayerContext& layer);

}  // namespace lockstep::layers
