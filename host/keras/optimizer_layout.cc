#include "host/keras/optimizer_layout.h"

#include <cstddef>
#include <utility>

namespace lockstep {
namespace {

// Slots that lie side by side, in the order of Keras' build(): its base class makes the averages of
// all variables, then the accumulators of all, then comes what the optimizer itself needs.
std::vector<std::vector<size_t>> groups_of(const Optimizer& optimizer) {
  const auto& slots = optimizer.slots();
  std::vector<std::vector<size_t>> groups;
  size_t first = 0;
  for (const char* common : {"average", "gradient_accumulator"}) {
    if (first < slots.size() && slots[first].name == common) groups.push_back({first++});
  }
  const bool apart = optimizer.config().at("name") == "rmsprop";
  const bool amsgrad = optimizer.config().value("amsgrad", false);
  std::vector<size_t> together;
  for (size_t slot = first; slot < slots.size(); ++slot) {
    if (apart || (amsgrad && slot + 1 == slots.size())) {
      groups.push_back({slot});
    } else {
      together.push_back(slot);
    }
  }
  const auto own = groups.begin() + static_cast<std::ptrdiff_t>(first);
  if (!together.empty()) groups.insert(own, std::move(together));
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
      for (const size_t slot : group) slots_.emplace_back(slot, parameter);
    }
  }
}

bool keeps_same_state(const Optimizer& a, const Optimizer& b) {
  return a.config().at("name") == b.config().at("name") && a.slots() == b.slots();
}

}  // namespace lockstep
