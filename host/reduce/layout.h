// How the flat gradient is cut into slices, and who gives and gets what of each: pure functions of
// the view.
#pragma once

#include <cstdint>
#include <vector>

#include "host/core/partitions.h"

namespace lockstep {

// The flat vector (gradients, then metrics) cut into slices of equal size, the last one shorter.
// A function of the vector's size alone.
class SliceLayout {
 public:
  explicit SliceLayout(int64_t flat_size);
  int count() const { return count_; }
  int64_t flat_size() const { return flat_size_; }
  int64_t begin(int slice) const { return slice * slice_size_; }
  int64_t end(int slice) const;
  int64_t size(int slice) const { return end(slice) - begin(slice); }
  int slice_at(int64_t offset) const { return static_cast<int>(offset / slice_size_); }

 private:
  int64_t flat_size_;
  int64_t slice_size_;
  int count_;
};

// Owners of the slices among `members` members, dealt round robin so that each bucket of the
// backward pass keeps all owners busy. Members without partitions own nothing.
std::vector<int> assign_slice_owners(int slices, const std::vector<PartitionRange>& ranges);

// The subtrees of `range` that hold rows when a batch of `rows` rows is cut into `partitions`:
// what the range's holder contributes to every slice.
std::vector<Subtree> contributed_subtrees(int64_t rows, int partitions, PartitionRange range);

// Whether a subtree holds no row of such a batch.
bool is_empty_subtree(int64_t rows, int partitions, const Subtree& subtree);

}  // namespace lockstep
