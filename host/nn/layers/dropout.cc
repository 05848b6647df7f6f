#include <fmt/format.h>

#include "host/nn/layer_table.h"

namespace lockstep::layers {
namespace {

Result<SymbolicTensor> build(LayerContext& layer, const Tensors& inputs) {
  LOCKSTEP_RETURN_IF_ERROR(layer.check_inputs(inputs, 1));
  const SymbolicTensor& input = inputs[0];
  const double asked = layer.number("rate");
  // Written so that a NaN is refused too. Keras takes a rate of 1 and gives zeros.
  if (!(asked >= 0 && asked < 1)) {
    return layer.error(fmt::format("rate must be at least 0 and below 1, not {}", asked));
  }
  if (!layer.is_null("noise_shape")) return layer.error("noise_shape is not supported yet");
  const float rate = static_cast<float>(asked);
  if (rate == 0 || !layer.training()) return input;
  if (rate == 1) return layer.error(fmt::format("rate {} rounds to 1 in float32", asked));
  DropoutOp op;
  op.features = input.features();
  op.rate = rate;
  op.layer = static_cast<uint32_t>(layer.index());
  op.call = static_cast<uint32_t>(layer.call_number());
  return layer.op("forward", op, inputs, input.shape);
}

}  // namespace

// In training only; a rate of 0 leaves the layer out.
LayerType dropout() {
  return {"Dropout",
          "sets a share of the entries to 0 in training, and scales the others up",
          {{"rate", KeyKind::number},
           {"noise_shape", KeyKind::any, nullptr},
           {"seed", KeyKind::any, nullptr}},
          build};
}

}  // namespace lockstep::layers
