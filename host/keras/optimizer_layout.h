// In which order Keras keeps the variables of an optimizer.
#pragma once

#include <cstddef>
#include <optional>
#include <utility>
#include <vector>

#include "host/graph/graph.h"
#include "host/optim/optimizer.h"

namespace lockstep {

// Number 0 is the iteration, then the learning rate, unless it follows a schedule, then the slots:
// those of a parameter side by side, but for RMSprop's and AMSGrad's, which come slot by slot.
class OptimizerLayout {
 public:
  using SlotOf = std::pair<size_t, const Parameter*>;

  OptimizerLayout(const Optimizer& optimizer, const std::vector<const Parameter*>& trained);

  std::optional<float> learning_rate() const { return learning_rate_; }
  size_t first_slot() const { return learning_rate_ ? 2 : 1; }
  const std::vector<SlotOf>& slots() const { return slots_; }
  size_t size() const { return first_slot() + slots_.size(); }

 private:
  std::optional<float> learning_rate_;
  std::vector<SlotOf> slots_;
};

// Whether a state of the one can be gone on from by the other: class and slots are the same. The
// learning rate may be another.
bool keeps_same_state(const Optimizer& a, const Optimizer& b);

}  // namespace lockstep
