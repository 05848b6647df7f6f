#include "host/reduce/layout.h"

#include <algorithm>

namespace lockstep {
namespace {

constexpr int64_t kLargestSlice = 524288;  // floats: 2 MiB; with less, waking threads costs more
constexpr int64_t kSmallestSlice = 4096;
constexpr int64_t kAlignment = 16;  // floats: a cache line
constexpr int64_t kSlicesWanted = 8;

}  // namespace

SliceLayout::SliceLayout(int64_t flat_size) : flat_size_(flat_size) {
  const int64_t even = (flat_size + kSlicesWanted - 1) / kSlicesWanted;
  const int64_t aligned = (even + kAlignment - 1) / kAlignment * kAlignment;
  slice_size_ = std::clamp(aligned, kSmallestSlice, kLargestSlice);
  count_ = static_cast<int>((flat_size + slice_size_ - 1) / slice_size_);
}

int64_t SliceLayout::end(int slice) const {
  return std::min(flat_size_, (slice + 1) * slice_size_);
}

std::vector<int> assign_slice_owners(int slices, const std::vector<PartitionRange>& ranges) {
  std::vector<int> working;
  for (size_t member = 0; member < ranges.size(); ++member) {
    if (!ranges[member].empty()) working.push_back(static_cast<int>(member));
  }
  std::vector<int> owners;
  for (int slice = 0; slice < slices; ++slice) owners.push_back(working[slice % working.size()]);
  return owners;
}

bool is_empty_subtree(int64_t rows, int partitions, const Subtree& subtree) {
  const int end = std::min(subtree.end(), partitions);
  return partition_begin(rows, partitions, subtree.first) == partition_begin(rows, partitions, end);
}

std::vector<Subtree> contributed_subtrees(int64_t rows, int partitions, PartitionRange range) {
  std::vector<Subtree> result;
  for (const Subtree& subtree : maximal_subtrees(range)) {
    if (!is_empty_subtree(rows, partitions, subtree)) result.push_back(subtree);
  }
  return result;
}

}  // namespace lockstep
