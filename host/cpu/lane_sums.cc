#include "host/cpu/lane_sums.h"

#include <algorithm>
#include <utility>

namespace lockstep::cpu {

LaneSums::LaneSums(const KernelTable& kernels, const PartitionGroup& group, int64_t count)
    : kernels_(kernels),
      tree_(make_tree_plan(group)),
      stride_((count + 7) / 8 * 8),
      leaf_(allocate_floats(stride_)),
      stack_(allocate_floats(stride_ * (tree_.stack_depth + 1))),
      roots_(allocate_floats(stride_ * static_cast<int64_t>(tree_.root_present.size()))) {}

void LaneSums::add(int64_t row_block, const float* sums) {
  const int64_t lanes = kernels_.lanes;
  LaneReduceArgs args;
  args.sums = sums;
  args.steps = tree_.rows.data() + row_block * lanes;
  args.rows = static_cast<int>(
      std::min(lanes, static_cast<int64_t>(tree_.rows.size()) - row_block * lanes));
  args.count = stride_;
  args.leaf = leaf_.get();
  args.stack = stack_.get();
  args.roots = roots_.get();
  kernels_.lane_reduce(args);
}

PartitionGroup single_partitions(PartitionGroup group) {
  group.roots.clear();
  for (size_t i = 0; i < group.rows.size(); ++i) {
    group.roots.push_back({group.first + static_cast<int>(i), 0});
  }
  return group;
}

}  // namespace lockstep::cpu
