#include "host/keras/optimizer_layout.h"

#include <string>

namespace lockstep {
namespace {

// Slots that lie side by side, in the order of Keras' build(): what all optimizers keep comes slot
// by slot, before their own.
std::vector<std::vector<size_t>> groups_of(const Optimizer& optimizer) {
  const bool slot_by_slot = optimizer.config().at("name") == "rmsprop";
  std::vector<std::vector<size_t>> groups;
  bool joins = false;
  for (size_t slot = 0; slot < optimizer.slots().size(); ++slot) {
    const std::string& name = optimizer.slots()[slot].name;
    const bool alone = slot_by_slot || name == "average" || name == "gradient_accumulator" ||
                       name == "velocity_hat";
    if (alone || !joins) groups.emplace_back();
    groups.back().push_back(slot);
    joins = !alone;
  }
  return groups;
}

}  // namespace

OptimizerLayout::OptimizerLayout(const Optimizer& optimizer,
                                 const std::vector<const Parameter*>& trained, bool product_first)
    : has_product_(optimizer.config().at("name") == "nadam"), product_first_(product_first) {
  const nlohmann::json& rate = optimizer.config().at("learning_rate");
  if (rate.is_number()) learning_rate_ = rate.get<float>();
  for (const auto& group : groups_of(optimizer)) {
    for (const Parameter* parameter : trained) {
      for (const size_t slot : group) {
        const auto shape = optimizer.stored_shape(slot, parameter->path(), parameter->shape);
        if (shape) slots_.push_back({slot, parameter, *shape});
      }
    }
  }
}

bool keeps_same_state(const Optimizer& a, const Optimizer& b) {
  return a.config().at("name") == b.config().at("name") && a.slots() == b.slots();
}

}  // namespace lockstep
