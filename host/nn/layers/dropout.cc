#include <fmt/format.h>

#include "host/nn/layer_table.h"
#include "host/nn/layers/noise_shape.h"

namespace lockstep::layers {
namespace {

// One number for all entries that the noise's axes of size 1 join.
SymbolicTensor drop_together(LayerContext& layer, const SymbolicTensor& x, const Shape& noise,
                             float rate) {
  ExpressionBuilder n;
  const Term kept = n.greater_equal(n.uniform(0), n.constant(rate));
  const Term factor = n.select(kept, n.constant(1.0 / (1.0 - rate)), n.constant(0));
  const SymbolicTensor factors = layer.map("factors", n.finish({factor}), {}, {}, noise);
  ExpressionBuilder e;
  return layer.map("forward", e.finish({e.operand(0) * e.operand(1)}),
                   {x, layer.stretch("noise", factors, x.shape)});
}

Result<SymbolicTensor> build_dropout(LayerContext& layer, const Tensors& inputs) {
  LOCKSTEP_RETURN_IF_ERROR(layer.check_inputs(inputs, 1));
  const SymbolicTensor& input = inputs[0];
  const double asked = layer.number("rate");
  // Written so that a NaN is refused too. Keras takes a rate of 1 and gives zeros.
  if (!(asked >= 0 && asked < 1)) {
    return layer.error(fmt::format("rate must be at least 0 and below 1, not {}", asked));
  }
  LOCKSTEP_ASSIGN(const Shape noise, noise_shape_of(layer, input.shape));
  const float rate = static_cast<float>(asked);
  if (rate == 0 || !layer.training()) return input;
  if (rate == 1) return layer.error(fmt::format("rate {} rounds to 1 in float32", asked));
  if (noise != input.shape) return drop_together(layer, input, noise, rate);
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
          build_dropout,
          Masking::pass};
}

}  // namespace lockstep::layers
