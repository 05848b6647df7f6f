// How a global batch is cut into partitions, and the one binary tree over them in whose order
// everything is summed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace lockstep {

// Contiguous partitions [begin, end).
struct PartitionRange {
  int begin = 0;
  int end = 0;
  int size() const { return end - begin; }
  bool empty() const { return begin == end; }
  bool contains(int partition) const { return begin <= partition && partition < end; }
  bool operator==(const PartitionRange&) const = default;
};

// A node of the tree: the 2^level partitions that begin at `first`, a multiple of 2^level.
struct Subtree {
  int first = 0;
  int level = 0;
  int end() const { return first + (1 << level); }
  bool contains(const Subtree& other) const { return first <= other.first && other.end() <= end(); }
  bool operator==(const Subtree&) const = default;
};

bool is_power_of_two(int64_t value);

// First row of partition p when `rows` rows are cut into `partitions`: floor(p * rows / P).
int64_t partition_begin(int64_t rows, int partitions, int p);
// Rows of each partition in `range`.
std::vector<int> partition_rows(int64_t rows, int partitions, PartitionRange range);

// The fewest aligned subtrees that together hold exactly `range`, in order; at most
// 2 * log2(P) of them.
std::vector<Subtree> maximal_subtrees(PartitionRange range);

// `partitions` cut into `parts` contiguous ranges whose sizes differ by at most one; the first
// ranges are the larger. Parts beyond `partitions.size()` are empty.
PartitionRange range_of_part(PartitionRange partitions, int parts, int part);

// Ranges sorted and joined where they touch.
std::vector<PartitionRange> merged(std::vector<PartitionRange> ranges);
// What is in `ranges` and in none of `taken`; both sorted and disjoint.
std::vector<PartitionRange> without(const std::vector<PartitionRange>& ranges,
                                    const std::vector<PartitionRange>& taken);
int count_partitions(const std::vector<PartitionRange>& ranges);

// The root of the tree over `partitions`, a power of two.
Subtree root_subtree(int partitions);

// The tree's sum for scalars: `values[i]` belongs to partition range.begin + i of the subtree
// and counts only where `present[i]`. Returns whether any was present.
template <class T>
bool tree_sum(const std::vector<T>& values, const std::vector<bool>& present, T* sum) {
  std::vector<T> level_values = values;
  std::vector<bool> level_present = present;
  while (level_values.size() > 1) {
    std::vector<T> next((level_values.size() + 1) / 2);
    std::vector<bool> next_present(next.size());
    for (std::size_t i = 0; i < next.size(); ++i) {
      const bool left = level_present[2 * i];
      const bool right = 2 * i + 1 < level_values.size() && level_present[2 * i + 1];
      next_present[i] = left || right;
      if (left && right) next[i] = level_values[2 * i] + level_values[2 * i + 1];
      if (left && !right) next[i] = level_values[2 * i];
      if (!left && right) next[i] = level_values[2 * i + 1];
    }
    level_values = std::move(next);
    level_present = std::move(next_present);
  }
  if (level_values.empty() || !level_present[0]) return false;
  *sum = level_values[0];
  return true;
}

}  // namespace lockstep
