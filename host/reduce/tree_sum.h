// The canonical tree over float vectors: the one place where partial gradients are added.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "host/core/partitions.h"
#include "host/device/device.h"
#include "host/device/sum_terms.h"

namespace lockstep {

// The sum of the pieces in the order of the tree below `target`: a first child is copied, an absent
// one passes the other through. Pieces are disjoint; those outside `target` are ignored. Returns
// the address of elements [begin, begin + count): a piece's own memory where it is the whole sum,
// else `out`; nullptr where no piece is there. count is at most kTreeSumBlock. `out` is scratch
// until the call returns.
inline constexpr int64_t kTreeSumBlock = kDigestBlock;  // one pass sums, updates and digests
const float* tree_sum_block(Device& device, const std::vector<TreePiece>& pieces,
                            const Subtree& target, int64_t begin, int64_t count, float* out);

// The same for a whole range of `count` elements, always written to `out`, times `scale`.
void tree_sum_range(Device& device, const std::vector<TreePiece>& pieces, const Subtree& target,
                    int64_t count, float* out, float scale = 1);

}  // namespace lockstep
