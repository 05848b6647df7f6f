#include "host/nn/layer_table.h"

namespace lockstep::layers {
namespace {

Result<SymbolicTensor> build_activation(LayerContext& layer, const Tensors& inputs) {
  LOCKSTEP_RETURN_IF_ERROR(layer.check_inputs(inputs, 1));
  return layer.activate(inputs[0], layer.at("activation"));
}

}  // namespace

LayerType activation() {
  return {"Activation",
          "an activation function",
          {{"activation", KeyKind::activation}},
          build_activation,
          Masking::pass};
}

}  // namespace lockstep::layers
