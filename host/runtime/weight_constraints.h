// Keras' constraints of weights, applied after each update, on every node by itself.
#pragma once

#include <vector>

#include "host/device/flat_math.h"
#include "host/graph/graph.h"
#include "host/nn/constraints.h"

namespace lockstep {

class WeightConstraints {
 public:
  // The graph's constraints fit its parameters: its model has checked that.
  explicit WeightConstraints(const Graph& graph);

  int count() const { return static_cast<int>(items_.size()); }
  // Elements that `apply_to` needs.
  int64_t scratch_size() const { return scratch_size_; }
  // Constrains one of the parameters. All memory is the device's.
  Status apply_to(Device& device, int number, float* weights, float* scratch) const;

 private:
  struct Item {
    int64_t offset = 0, count = 0;
    WeightConstraint constraint;
    SharedExpression expression;
  };
  Status scale_by_norm(Device& device, const Item& item, float* weights, float* scratch) const;

  std::vector<Item> items_;
  int64_t scratch_size_ = 0;
  SharedExpression square_, add_, copy_, multiply_;
};

}  // namespace lockstep
