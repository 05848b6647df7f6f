#include "host/cpu/tree_plan.h"

#include <algorithm>

#include "host/core/check.h"

namespace lockstep::cpu {
namespace {

class TreePlanner {
 public:
  explicit TreePlanner(const PartitionGroup& group) : group_(group) {
    first_rows_.push_back(0);
    for (const int rows : group.rows) {
      LOCKSTEP_CHECK(rows >= 0);
      first_rows_.push_back(first_rows_.back() + rows);
    }
  }

  TreePlan plan() {
    int end = group_.first;
    for (size_t i = 0; i < group_.roots.size(); ++i) {
      const Subtree& root = group_.roots[i];
      LOCKSTEP_CHECK(root.first >= end);
      end = root.end();
      LOCKSTEP_CHECK(end <= group_.first + static_cast<int>(group_.rows.size()));
      const bool present = add(root);
      if (present) plan_.leaves.back().root = static_cast<int>(i);
      plan_.root_present.push_back(present);
    }
    set_depths();
    set_rows();
    return std::move(plan_);
  }

 private:
  // Whether the subtree has rows.
  bool add(const Subtree& tree) {
    if (tree.level == 0) {
      const size_t index = static_cast<size_t>(tree.first - group_.first);
      if (group_.rows[index] == 0) return false;
      plan_.leaves.push_back({.partition = static_cast<int>(index),
                              .first_row = first_rows_[index],
                              .rows = group_.rows[index]});
      return true;
    }
    const int half = 1 << (tree.level - 1);
    const bool left = add({tree.first, tree.level - 1});
    const bool right = add({tree.first + half, tree.level - 1});
    if (left && right) ++plan_.leaves.back().merges;
    return left || right;
  }

  void set_depths() {
    int depth = 0;
    for (LeafStep& leaf : plan_.leaves) {
      leaf.depth = depth;
      depth -= leaf.merges;
      LOCKSTEP_CHECK(depth >= 0);
      if (leaf.root < 0) ++depth;
      plan_.stack_depth = std::max(plan_.stack_depth, depth);
    }
    LOCKSTEP_CHECK(depth == 0);
  }

  void set_rows() {
    // A row of no root starts a sum that is never finished.
    plan_.rows.assign(static_cast<size_t>(group_.total_rows()), {.first = true});
    for (const LeafStep& leaf : plan_.leaves) {
      for (int row = 0; row < leaf.rows; ++row) {
        const bool last = row + 1 == leaf.rows;
        plan_.rows[static_cast<size_t>(leaf.first_row + row)] = {row == 0, last, leaf.depth,
                                                                 leaf.merges, leaf.root};
      }
    }
  }

  const PartitionGroup& group_;
  std::vector<int> first_rows_;
  TreePlan plan_;
};

}  // namespace

TreeSteps TreePlan::steps() const {
  return {.leaves = leaves.data(),
          .leaf_count = static_cast<int>(leaves.size()),
          .rows = rows.data(),
          .row_count = static_cast<int>(rows.size()),
          .stack_depth = stack_depth,
          .root_count = static_cast<int>(root_present.size())};
}

TreePlan make_tree_plan(const PartitionGroup& group) { return TreePlanner(group).plan(); }

std::vector<float> tree_sums(const TreePlan& plan, const float* values) {
  std::vector<float> results(plan.root_present.size());
  std::vector<float> stack;
  for (const LeafStep& leaf : plan.leaves) {
    float sum = values[leaf.first_row];
    for (int row = 1; row < leaf.rows; ++row) sum += values[leaf.first_row + row];
    for (int merge = 0; merge < leaf.merges; ++merge) {
      sum = stack.back() + sum;
      stack.pop_back();
    }
    if (leaf.root >= 0) {
      results[static_cast<size_t>(leaf.root)] = sum;
    } else {
      stack.push_back(sum);
    }
  }
  return results;
}

void tree_sums(const TreePlan& plan, const float* partitions, int64_t stride, int64_t count,
               const std::vector<float*>& roots) {
  std::vector<float> stack(static_cast<size_t>((plan.stack_depth + 1) * count));
  for (const LeafStep& leaf : plan.leaves) {
    float* top = stack.data() + leaf.depth * count;
    std::copy_n(partitions + leaf.partition * stride, count, top);
    for (int merge = 0; merge < leaf.merges; ++merge, top -= count) {
      for (int64_t i = 0; i < count; ++i) top[i - count] += top[i];
    }
    if (leaf.root >= 0) std::copy_n(top, count, roots[static_cast<size_t>(leaf.root)]);
  }
}

}  // namespace lockstep::cpu
