#include "host/keras/optimizer_layout.h"

#include <string>

namespace lockstep {
namespace {

// Slots that lie side by side, in the order of Keras' build(): what all optimizers keep comes slot
// by slot, before their own.
std::vector<std::vector<size_t>> groups_of(const Optimizer& optimizer, bool before_3_10) {
  const bool slot_by_slot = optimizer.config().at("name") == "rmsprop";
  std::vector<std::vector<size_t>> groups;
  bool joins = false;
  std::string before;
  for (size_t slot = 0; slot < optimizer.slots().size(); ++slot) {
    const std::string& name = optimizer.slots()[slot].name;
    const bool alone = slot_by_slot || name == "average" || name == "gradient_accumulator" ||
                       name == "velocity_hat";
    const bool beside = before_3_10 && name == "gradient_accumulator" && before == "average";
    if ((alone || !joins) && !beside) groups.emplace_back();
    groups.back().push_back(slot);
    joins = !alone;
    before = name;
  }
  return groups;
}

}  // namespace

OptimizerLayout::OptimizerLayout(const Optimizer& optimizer,
                                 const std::vector<const Parameter*>& trained, bool before_3_10)
    : has_product_(optimizer.config().at("name") == "nadam"), before_3_10_(before_3_10) {
  const nlohmann::json& rate = optimizer.config().at("learning_rate");
  if (rate.is_number()) learning_rate_ = rate.get<float>();
  for (const auto& group : groups_of(optimizer, before_3_10)) {
    for (const Parameter* parameter : trained) {
      for (const size_t slot : group) {
        const auto shape = optimizer.stored_shape(slot, parameter->path(), parameter->shape);
        if (shape) slots_.push_back({slot, parameter, *shape});
      }
    }
  }
}

Shape OptimizerLayout::shape_of(size_t number) const {
  const size_t first = first_slot();
  if (number < first || number - first >= slots_.size()) return {};
  return slots_[number - first].shape;
}

bool keeps_same_state(const Optimizer& a, const Optimizer& b) {
  return a.config().at("name") == b.config().at("name") && a.slots() == b.slots();
}

}  // namespace lockstep
