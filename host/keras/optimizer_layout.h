// In which order Keras keeps the variables of an optimizer.
#pragma once

#include <cstddef>
#include <optional>
#include <vector>

#include "host/graph/graph.h"
#include "host/optim/optimizer.h"

namespace lockstep {

// Number 0 is the iteration, then the learning rate, unless it follows a schedule, then the slots:
// those of a parameter side by side, but for moving averages, accumulators, RMSprop's slots and
// AMSGrad's last, which come slot by slot. Nadam's product stands behind the slots.
// Before Keras 3.10 the product stood before the slots, and a parameter's moving average and
// accumulator side by side.
class OptimizerLayout {
 public:
  struct SlotOf {
    size_t slot = 0;
    const Parameter* parameter = nullptr;
    Shape shape;  // of the variable: the slot's first elements
  };

  OptimizerLayout(const Optimizer& optimizer, const std::vector<const Parameter*>& trained,
                  bool before_3_10);

  std::optional<float> learning_rate() const { return learning_rate_; }
  size_t first_slot() const { return head() + (has_product_ && before_3_10_ ? 1 : 0); }
  const std::vector<SlotOf>& slots() const { return slots_; }
  // Where Nadam's product is.
  std::optional<size_t> product() const {
    if (!has_product_) return std::nullopt;
    return before_3_10_ ? head() : head() + slots_.size();
  }
  // Of the variable with this number.
  Shape shape_of(size_t number) const;
  size_t size() const { return head() + slots_.size() + (has_product_ ? 1 : 0); }

 private:
  size_t head() const { return learning_rate_ ? 2 : 1; }

  std::optional<float> learning_rate_;
  bool has_product_ = false;
  bool before_3_10_ = false;
  std::vector<SlotOf> slots_;
};

// Whether a state of the one can be gone on from by the other: class and slots are the same. The
// learning rate may be another.
bool keeps_same_state(const Optimizer& a, const Optimizer& b);

}  // namespace lockstep
