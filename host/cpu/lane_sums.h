// Sums over rows that a kernel leaves in lanes, to the roots of a group.
#pragma once

#include <vector>

#include "host/cpu/memory.h"
#include "host/cpu/prepared_ops.h"
#include "host/cpu/tree_plan.h"

namespace lockstep::cpu {

class LaneSums {
 public:
  // `count` sums a row, for the roots of `group`.
  LaneSums(const KernelTable& kernels, const PartitionGroup& group, int64_t count);

  // Sums a row block's [count][V]; call for all row blocks in order. Room for 8 sums more is read.
  void add(int64_t row_block, const float* sums);
  // The sums of root i, once all row blocks have been added; the next root's follow `stride` on.
  float* root(int i) const { return roots_.get() + i * stride_; }
  bool present(int i) const { return tree_.root_present[static_cast<size_t>(i)]; }
  int64_t stride() const { return stride_; }
  // Floats of a row block's sums.
  int64_t lane_floats() const { return stride_ * kernels_.lanes; }

 private:
  const KernelTable& kernels_;
  TreePlan tree_;
  int64_t stride_;  // `count`, rounded up to 8
  Memory leaf_, stack_, roots_;
};

// The group with each of its partitions as a root.
PartitionGroup single_partitions(PartitionGroup group);

}  // namespace lockstep::cpu
