#include "host/nn/layer_table.h"

namespace lockstep::layers {
namespace {

Result<SymbolicTensor> build_flatten(LayerContext& layer, const Tensors& inputs) {
  LOCKSTEP_RETURN_IF_ERROR(layer.check_inputs(inputs, 1));
  const SymbolicTensor& input = inputs[0];
  const Shape flat{input.features()};
  const std::string format = layer.text("data_format");
  LOCKSTEP_RETURN_IF_ERROR(
      layer.check_choice("data_format", format, {"channels_last", "channels_first"}));
  if (format == "channels_last" || input.shape.size() < 2) {
    return SymbolicTensor{input.value, flat};  // rows lie in C order already
  }
  const int64_t channels = input.shape[0];
  const int64_t places = input.features() / channels;
  std::vector<int64_t> index;
  for (int64_t o = 0; o < input.features(); ++o) {
    index.push_back(o % channels * places + o / channels);
  }
  return layer.pick("forward", index, inputs, flat);
}

}  // namespace

LayerType flatten() {
  return {"Flatten",
          "all axes of a row as one",
          {{"data_format", KeyKind::text, "channels_last"}},
          build_flatten};
}

}  // namespace lockstep::layers
