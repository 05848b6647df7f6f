// In which order the elements of flat memory are summed: the same bits on every device, however
// many of them share the work.
//
// Squares: elements are cut in blocks of kSquaresBlock. In a block, lane l of kSquaresLanes adds up
// the squares of the elements i with i % kSquaresLanes == l in order, from 0, in double, where the
// square of a float is exact. Then the upper half of the lanes is added to the lower, until one is
// left. The sum of a whole parameter adds its blocks in order.
#pragma once

#include <cstdint>

namespace lockstep {

inline constexpr int64_t kSquaresBlock = 8192;
inline constexpr int kSquaresLanes = 128;

constexpr int64_t squares_blocks(int64_t count) {
  return (count + kSquaresBlock - 1) / kSquaresBlock;
}

}  // namespace lockstep
