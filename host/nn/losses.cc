#include "host/nn/losses.h"

#include <fmt/format.h>

#include "host/core/suggest.h"

namespace lockstep {
namespace {

const char* const kSparseCategoricalCrossentropy = "sparse_categorical_crossentropy";

}  // namespace

std::vector<std::string> loss_names() { return {kSparseCategoricalCrossentropy}; }

Result<Graph> finish_with_loss(const std::string& loss, LossMode mode,
                               const std::string& last_layer, GraphBuilder& builder,
                               const Tensors& outputs) {
  if (loss != kSparseCategoricalCrossentropy) {
    return usage_error(unknown_name_message("loss", loss, loss_names()));
  }
  Graph graph = builder.finish(outputs);
  const OpDesc& last = graph.ops.back();
  const bool ends_in_softmax = std::holds_alternative<SoftmaxOp>(last.attributes) &&
                               graph.outputs.size() == 1 && last.outputs == graph.outputs;
  if (!ends_in_softmax) {
    return usage_error(
        fmt::format("loss '{}' needs probabilities, but the last layer, {}, does not end in "
                    "softmax; give it activation 'softmax'",
                    loss, last_layer));
  }
  place_gradients(&graph, mode);
  attach_softmax_cross_entropy(&graph, mode);
  return graph;
}

}  // namespace lockstep
