#include "host/keras/optimizer_layout.h"

#include <numeric>
#include <string>

namespace lockstep {
namespace {

// Slots that lie side by side, in the order of Keras' build().
std::vector<std::vector<size_t>> groups_of(const Optimizer& optimizer) {
  const std::string name = optimizer.config().at("name");
  std::vector<size_t> all(optimizer.slots().size());
  std::iota(all.begin(), all.end(), size_t{0});
  if (name == "rmsprop") {
    std::vector<std::vector<size_t>> groups;
    for (const size_t slot : all) groups.push_back({slot});
    return groups;
  }
  if (optimizer.config().value("amsgrad", false)) return {{0, 1}, {2}};
  return {all};
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
