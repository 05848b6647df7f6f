// In which order the elements of flat memory are summed: the same bits on every device, however
// many of them share the work.
//
// Squares: elements are cut in blocks of kSquaresBlock. In a block, lane l of kSquaresLanes adds up
// the squares of the elements i with i % kSquaresLanes == l in order, from 0, in double, where the
// square of a float is exact. Then the upper half of the lanes is added to the lower, until one is
// left. The sum of a whole parameter adds its blocks in order.
//
// Along an axis: lane l of axis_lanes() adds up the elements k with k % axis_lanes() == l in order,
// from 0, in double; the lanes are joined as those of squares, and the sum is rounded to float.
#pragma once

#include <cstdint>

namespace lockstep {

inline constexpr int64_t kSquaresBlock = 8192;
inline constexpr int kSquaresLanes = 128;

constexpr int64_t squares_blocks(int64_t count) {
  return (count + kSquaresBlock - 1) / kSquaresBlock;
}

// An array [outer][size][inner] that is summed over its middle axis.
struct AxisSum {
  int64_t outer = 1, size = 0, inner = 1;
  int64_t outputs() const { return outer * inner; }
};

inline constexpr int kRunLanes = 128;    // where the elements of a sum lie side by side
inline constexpr int kColumnLanes = 16;  // else
inline constexpr int kColumnsTogether = 16;

constexpr int axis_lanes(const AxisSum& sum) { return sum.inner == 1 ? kRunLanes : kColumnLanes; }

}  // namespace lockstep
