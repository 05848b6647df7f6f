// Sizes on both sides of where the arithmetic over flat memory cuts its work.
#pragma once

#include <cstdint>
#include <vector>

#include "host/device/device.h"

namespace lockstep::flat_cases {

inline const int64_t kSquares[] = {1, 127, 129, 8191, 8192, 8193, 30001};

inline std::vector<AxisSum> axis_sums() {
  return {{1, 1, 1},   {3, 5, 1},   {4, 128, 1},  {2, 1000, 1}, {1, 1, 7},
          {1, 15, 16}, {1, 33, 17}, {3, 300, 40}, {5, 2, 3},    {1, 0, 4}};
}

// x transposed, z transposed, both, neither; inner sizes beyond one tile, batches.
inline std::vector<MatmulOp> products() {
  const auto plain = [](int64_t rows, int64_t inner, int64_t columns) {
    return MatmulOp{.rows = rows,
                    .inner = inner,
                    .columns = columns,
                    .x = {rows * inner, inner, 1},
                    .z = {inner * columns, columns, 1},
                    .out = {rows * columns, columns, 1}};
  };
  std::vector<MatmulOp> all = {plain(1, 1, 1), plain(5, 3, 25), plain(9, 600, 49),
                               plain(4, 257, 24)};
  MatmulOp x_transposed = plain(13, 40, 31);
  x_transposed.x = {0, 1, 13};
  all.push_back(x_transposed);
  MatmulOp z_transposed = plain(13, 300, 31);
  z_transposed.z = {0, 1, 300};
  all.push_back(z_transposed);
  MatmulOp batches = plain(6, 1, 10);
  batches.batches = 3;
  all.push_back(batches);
  return all;
}

inline int64_t x_size(const MatmulOp& op) { return op.batches * op.rows * op.inner; }
inline int64_t z_size(const MatmulOp& op) { return op.batches * op.inner * op.columns; }
inline int64_t out_size(const MatmulOp& op) { return op.batches * op.rows * op.columns; }

inline ExpressionUpdate itself() {
  ExpressionBuilder e;
  return {std::make_shared<const Expression>(e.finish({e.operand(0)})), {}, 0};
}

}  // namespace lockstep::flat_cases
