// One function a layer, each in a file of its own in layers/; the table in layer_table.cc lists
// them.
#pragma once

#include "host/nn/layer.h"

namespace lockstep::layers {

LayerType activation();
LayerType conv2d();
LayerType dense();
LayerType dropout();
LayerType flatten();
LayerType max_pooling2d();

}  // namespace lockstep::layers
