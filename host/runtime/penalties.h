// What regularizers of weights add to the loss and its gradient: a function of the weights alone,
// which every node computes by itself, over fixed blocks in a fixed tree.
#pragma once

#include <vector>

#include "host/device/flat_math.h"
#include "host/graph/graph.h"

namespace lockstep {

class Penalties {
 public:
  // `block`: elements of a block, a part of the work that one device does.
  Penalties(const Graph& graph, int64_t block);

  bool empty() const { return pieces_.empty(); }
  int64_t blocks() const { return (total_ + block_ - 1) / block_; }
  // Elements that `value` needs.
  int64_t scratch_size() const { return std::min(block_, total_); }

  // The penalty of one block. All memory is the device's.
  Result<float> value(Device& device, int64_t block, const float* weights, float* scratch) const;
  // gradient += the penalty's, for one block. `gradient` is flat, as in a root.
  Status add_gradient(Device& device, int64_t block, const float* weights, float* gradient) const;

 private:
  // A parameter that has a regularizer. `position` counts the elements of those before it.
  struct Piece {
    int64_t offset = 0, gradient_offset = 0, position = 0, count = 0;
    float l1 = 0, l2 = 0;
  };
  // Calls visit(piece, first, count) for elements [first, first + count) of each piece in a block.
  template <class Visit>
  Status for_each(int64_t block, const Visit& visit) const;

  int64_t block_ = 0;
  int64_t total_ = 0;
  std::vector<Piece> pieces_;
  SharedExpression value_, gradient_, add_;
};

}  // namespace lockstep
