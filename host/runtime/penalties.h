// What regularizers of weights add to the loss and its gradient: a function of the weights alone,
// which every node computes by itself, over fixed blocks in a fixed tree.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "host/device/flat_math.h"
#include "host/graph/program.h"

namespace lockstep {

class Penalties {
 public:
  // `block`: elements of a block, a part of the work that one device does.
  Penalties(const Graph& graph, int64_t block);

  bool empty() const { return pieces_.empty() && matrices_.empty(); }
  // The last of them are matrices, which are not cut.
  int64_t blocks() const { return element_blocks() + std::ssize(matrices_); }
  // Elements that `value` needs.
  int64_t scratch_size() const {
    return empty() ? 0 : std::max<int64_t>(1, std::min(block_, total_));
  }

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
  // A parameter whose penalty is a graph's (orthogonal_penalty).
  struct Matrix {
    int64_t offset = 0, gradient_offset = 0, count = 0;
    Graph graph;
  };
  // One of them on one device.
  struct MatrixWork {
    std::unique_ptr<ProgramSet> programs;
    std::unique_ptr<Buffer> root;  // the gradient, then the penalty
  };
  int64_t element_blocks() const { return (total_ + block_ - 1) / block_; }
  const Matrix& matrix(int64_t block) const {
    return matrices_[static_cast<size_t>(block - element_blocks())];
  }
  // Computes that block's root, in the device's memory.
  Result<const float*> run_matrix(Device& device, int64_t block, const float* weights) const;
  // Calls visit(piece, first, count) for elements [first, first + count) of each piece in a block.
  template <class Visit>
  Status for_each(int64_t block, const Visit& visit) const;

  int64_t block_ = 0;
  int64_t total_ = 0;
  std::vector<Piece> pieces_;
  std::vector<Matrix> matrices_;
  mutable std::mutex mutex_;  // of the map
  mutable std::map<std::pair<const Device*, int64_t>, MatrixWork> work_;
  SharedExpression value_, gradient_, add_;
};

}  // namespace lockstep
