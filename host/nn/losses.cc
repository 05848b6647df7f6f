#include "host/nn/losses.h"

#include <fmt/format.h>

#include "host/core/suggest.h"

namespace lockstep {
namespace {

const char* const kSparseCategoricalCrossentropy = "sparse_categorical_crossentropy";

bool is_softmax(const OpDesc& op) { return std::holds_alternative<SoftmaxOp>(op.attributes); }

}  // namespace

std::vector<std::string> loss_names() { return {kSparseCategoricalCrossentropy}; }

Status attach_loss(const std::string& loss, LossMode mode, const std::string& last_layer,
                   Graph* graph) {
  if (loss != kSparseCategoricalCrossentropy) {
    return usage_error(unknown_name_message("loss", loss, loss_names()));
  }
  if (!is_softmax(graph->ops.back())) {
    return usage_error(
        fmt::format("loss '{}' needs probabilities, but the last layer, {}, does not end in "
                    "softmax; give it activation 'softmax'",
                    loss, last_layer));
  }
  for (size_t i = 0; mode == LossMode::differentiate && i + 1 < graph->ops.size(); ++i) {
    if (!is_softmax(graph->ops[i])) continue;
    return usage_error(fmt::format(
        "{}: softmax can be trained in the last layer only; use 'relu' here", graph->ops[i].name));
  }
  attach_softmax_cross_entropy(graph, mode);
  return {};
}

}  // namespace lockstep
