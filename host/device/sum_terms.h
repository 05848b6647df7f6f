// The canonical tree over partial sums, flattened for devices that add whole vectors at once.
#pragma once

#include <vector>

#include "host/core/partitions.h"

namespace lockstep {

// A partial sum that is there: the subtree and its values. Empty subtrees are simply absent.
struct TreePiece {
  Subtree subtree;
  const float* values = nullptr;  // of the whole range that is summed
};

// The terms of a sum: term i is pushed on a stack, then the two topmost entries are added (lower +
// upper) `merges` times. One entry is left at the end. The stack holds at most log2(P) + 1.
struct SumTerm {
  const float* values = nullptr;
  int merges = 0;
};

// The sum of the pieces in the order of the tree below `target`; an absent child passes the other
// through. Pieces are disjoint; those outside `target` are ignored.
std::vector<SumTerm> sum_terms(const std::vector<TreePiece>& pieces, const Subtree& target);

}  // namespace lockstep
