// TimeDistributed: one layer on each step of its input.
#include "host/nn/layer_table.h"
#include "host/nn/layers/wrapper.h"
#include "host/nn/regularizers.h"

namespace lockstep::layers {
namespace {

// Layers that do with every step what they do with one: the whole input goes through at once.
bool is_stepwise(const std::string& class_name) {
  return class_name == "Dense" || class_name == "Activation" || class_name == "Identity" ||
         class_name == "ReLU" || class_name == "LeakyReLU" || class_name == "ELU" ||
         class_name == "Rescaling";
}

Result<SymbolicTensor> build_time_distributed(LayerContext& layer, const Tensors& inputs) {
  LOCKSTEP_RETURN_IF_ERROR(layer.check_inputs(inputs, 1));
  const SymbolicTensor& x = inputs[0];
  if (x.shape.size() < 2) {
    return layer.error("expected an input of steps and features, got shape " + to_string(x.shape));
  }
  if (has_activity_losses(layer.at("layer"))) {
    return layer.error("an activity regularizer within it has no effect in Keras; leave it out");
  }
  LOCKSTEP_ASSIGN(const InnerLayer inner, inner_layer(layer));
  if (is_stepwise(inner.type.class_name)) {
    LayerContext whole =
        layer.wrapped(inner.type.class_name, inner.config, inner.trainable, layer.call_number());
    return inner.type.build(whole, inputs);
  }
  const int64_t steps = x.shape[0], size = x.features() / steps;
  const Shape step_shape(x.shape.begin() + 1, x.shape.end());
  Tensors results;
  for (int64_t step = 0; step < steps; ++step) {
    std::vector<int64_t> index;
    for (int64_t i = 0; i < size; ++i) index.push_back(step * size + i);
    const auto number = layer.call_number() * steps + step;
    LayerContext one = layer.wrapped(inner.type.class_name, inner.config, inner.trainable,
                                     static_cast<int>(number));
    LOCKSTEP_ASSIGN(auto result, inner.type.build(one, {one.pick("step", index, {x}, step_shape)}));
    results.push_back(std::move(result));
  }
  Shape shape = results[0].shape;
  shape.insert(shape.begin(), steps);
  LOCKSTEP_RETURN_IF_ERROR(layer.check_size("output", shape));
  std::vector<int64_t> all(static_cast<size_t>(element_count(shape)));
  for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<int64_t>(i);
  return layer.pick("steps", all, results, shape);
}

}  // namespace

LayerType time_distributed() {
  return {"TimeDistributed",
          "a layer on each step of its input",
          {{"layer", KeyKind::any}},
          build_time_distributed,
          Masking::pass};
}

}  // namespace lockstep::layers
