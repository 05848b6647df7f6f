#include "host/reduce/tree_sum.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "host/core/check.h"
#include "host/device/flat_scale.h"

namespace lockstep {

const float* tree_sum_block(Device& device, const std::vector<TreePiece>& pieces,
                            const Subtree& target, int64_t begin, int64_t count, float* out) {
  LOCKSTEP_CHECK(count <= kTreeSumBlock);
  int inside = 0;
  for (const TreePiece& piece : pieces) {
    if (piece.subtree == target) return piece.values + begin;
    if (target.contains(piece.subtree)) ++inside;
  }
  if (inside == 0) return nullptr;
  LOCKSTEP_CHECK(target.level > 0);
  const Subtree left_child{target.first, target.level - 1};
  const Subtree right_child{left_child.end(), target.level - 1};
  const float* left = tree_sum_block(device, pieces, left_child, begin, count, out);
  if (left == nullptr) return tree_sum_block(device, pieces, right_child, begin, count, out);
  std::array<float, kTreeSumBlock> scratch;
  const float* right = tree_sum_block(device, pieces, right_child, begin, count, scratch.data());
  if (right == nullptr) return left;
  device.add(left, right, out, count);
  return out;
}

void tree_sum_range(Device& device, const std::vector<TreePiece>& pieces, const Subtree& target,
                    int64_t count, float* out, float scale) {
  for (int64_t begin = 0; begin < count; begin += kTreeSumBlock) {
    const int64_t block = std::min(kTreeSumBlock, count - begin);
    const float* sum = tree_sum_block(device, pieces, target, begin, block, out + begin);
    LOCKSTEP_CHECK(sum != nullptr);
    if (sum != out + begin) std::memcpy(out + begin, sum, static_cast<size_t>(block) * 4);
    if (scale != 1) scale_values(scale, out + begin, block);  // while it is in the cache
  }
}

}  // namespace lockstep
