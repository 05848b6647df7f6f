// The canonical tree over a group's partitions as steps for kernels.
#pragma once

#include <vector>

#include "host/cpu/kernels.h"
#include "host/device/ops.h"

namespace lockstep::cpu {

// Empty partitions have no step: the other child passes through. Rows of partitions that belong to
// no root are summed nowhere.
struct TreePlan {
  std::vector<LeafStep> leaves;
  std::vector<RowStep> rows;       // one a row of the group
  std::vector<bool> root_present;  // whether any row belongs to the root
  int stack_depth = 0;

  // Views this plan: valid while it lives.
  TreeSteps steps() const;
};

TreePlan make_tree_plan(const PartitionGroup& group);

// The sum of scalars, one a row, for each root that is present.
std::vector<float> tree_sums(const TreePlan& plan, const float* values);

// The sums of `count` values a partition (of the group, `stride` apart) to `roots`, where present.
void tree_sums(const TreePlan& plan, const float* partitions, int64_t stride, int64_t count,
               const std::vector<float*>& roots);

}  // namespace lockstep::cpu
