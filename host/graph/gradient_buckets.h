// Where gradients become final on the way through a graph's ops.
#pragma once

#include <cstdint>
#include <vector>

#include "host/graph/graph.h"

namespace lockstep {

// After the first `ops` ops of a graph, `range` of every root is final.
struct GradientBucket {
  int ops = 0;
  FlatRange range;
  bool operator==(const GradientBucket&) const = default;
};

// In the order in which they become final: from the end of the flat vector to its front, without
// gaps. At most about eight, each but the last of at least `least_bytes`. The last comes after all
// ops, and is empty where the graph writes no roots.
std::vector<GradientBucket> gradient_buckets(const Graph& graph, int64_t least_bytes);

}  // namespace lockstep
