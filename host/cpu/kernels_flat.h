// Sums and products over flat memory for optimizers that look at whole parameters. Orders:
// host/device/flat_sums.h and device.h. Part of each instruction set's kernels.
#pragma once

#include "host/cpu/kernels.h"
#include "host/cpu/kernels_elementwise.h"
#include "host/cpu/kernels_update.h"
#include "host/device/flat_sums.h"

namespace lockstep::cpu::LOCKSTEP_ISA {

// lanes[0] = the sum of kCount lanes.
template <int kCount>
inline void fold_lanes(double* lanes) {
  for (int half = kCount / 2; half > 0; half /= 2) {
    for (int lane = 0; lane < half; ++lane) lanes[lane] += lanes[lane + half];
  }
}

// The sum of term(x[i]), i of a lane in order.
template <int kCount, class Term>
inline double sum_run(const float* x, int64_t count, const Term& term) {
  double lanes[kCount] = {};
  int64_t i = 0;
  for (; i + kCount <= count; i += kCount) {
    for (int lane = 0; lane < kCount; ++lane) lanes[lane] += term(x[i + lane]);
  }
  for (int lane = 0; i + lane < count; ++lane) lanes[lane] += term(x[i + lane]);
  fold_lanes<kCount>(lanes);
  return lanes[0];
}

inline double squares(const float* x, int64_t count) {
  return sum_run<kSquaresLanes>(x, count, [](double value) { return value * value; });
}

// Sums of `columns` at most kColumnsTogether columns that lie side by side.
inline void sum_columns(const float* x, int64_t size, int64_t stride, int64_t columns, float* out) {
  double lanes[kColumnsTogether][kColumnLanes] = {};
  for (int64_t k = 0; k < size; ++k, x += stride) {
    for (int64_t c = 0; c < columns; ++c) lanes[c][k % kColumnLanes] += x[c];
  }
  for (int64_t c = 0; c < columns; ++c) {
    fold_lanes<kColumnLanes>(lanes[c]);
    out[c] = static_cast<float>(lanes[c][0]);
  }
}

inline void sum_axis(const float* x, const AxisSum& sum, int64_t first, int64_t count, float* out) {
  const int64_t end = first + count;
  if (sum.inner == 1) {
    for (int64_t i = first; i < end; ++i) {
      out[i] = static_cast<float>(
          sum_run<kRunLanes>(x + i * sum.size, sum.size, [](double value) { return value; }));
    }
    return;
  }
  for (int64_t i = first; i < end;) {
    const int64_t outer = i / sum.inner, column = i % sum.inner;
    int64_t columns = sum.inner - column < end - i ? sum.inner - column : end - i;
    if (columns > kColumnsTogether) columns = kColumnsTogether;
    sum_columns(x + outer * sum.size * sum.inner + column, sum.size, sum.inner, columns, out + i);
    i += columns;
  }
}

// A tile of z, row by row: kProductInner rows of kProductVectors vectors.
inline constexpr int kProductVectors = 3;
inline constexpr int64_t kProductInner = 256;
inline constexpr int64_t kProductColumns = kProductVectors * kLanes;

struct ProductTile {
  const float* packed;
  int64_t inner, columns;  // columns: those that there are
  bool goes_on;            // chains that out has already begun
};

template <int kRows>
LOCKSTEP_SIMD void product_rows(const ProductArgs& args, const ProductTile& tile, const float* x,
                                float* out) {
  Vec acc[kRows][kProductVectors];
  alignas(64) float part[kProductColumns] = {};
  for (int m = 0; m < kRows; ++m) {
    if (tile.goes_on) {
      for (int64_t c = 0; c < tile.columns; ++c) part[c] = out[m * args.out_row + c];
    }
#pragma GCC unroll 4
    for (int j = 0; j < kProductVectors; ++j) acc[m][j] = load(part + j * kLanes);
  }
  const float* z = tile.packed;
  for (int64_t k = 0; k < tile.inner; ++k, z += kProductColumns, x += args.x_column) {
    Vec zs[kProductVectors];
#pragma GCC unroll 4
    for (int j = 0; j < kProductVectors; ++j) zs[j] = load(z + j * kLanes);
#pragma GCC unroll 4
    for (int m = 0; m < kRows; ++m) {
      const Vec xs = broadcast(x + m * args.x_row);
#pragma GCC unroll 4
      for (int j = 0; j < kProductVectors; ++j) acc[m][j] = fma(xs, zs[j], acc[m][j]);
    }
  }
  for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 4
    for (int j = 0; j < kProductVectors; ++j) store(part + j * kLanes, acc[m][j]);
    for (int64_t c = 0; c < tile.columns; ++c) out[m * args.out_row + c] = part[c];
  }
}

inline void product(const ProductArgs& args) {
  alignas(64) float packed[kProductInner * kProductColumns] = {};
  ProductTile tile{.packed = packed};
  for (int64_t n = 0; n < args.columns; n += kProductColumns) {
    tile.columns = args.columns - n < kProductColumns ? args.columns - n : kProductColumns;
    tile.goes_on = false;
    for (int64_t first = 0; first == 0 || first < args.inner; first += kProductInner) {
      tile.inner = args.inner - first < kProductInner ? args.inner - first : kProductInner;
      for (int64_t k = 0; k < tile.inner; ++k) {
        const float* z = args.z + (first + k) * args.z_row + n * args.z_column;
        for (int64_t c = 0; c < tile.columns; ++c) {
          packed[k * kProductColumns + c] = z[c * args.z_column];
        }
      }
      const float* x = args.x + first * args.x_column;
      int64_t m = 0;
      for (; m + 4 <= args.rows; m += 4) {
        product_rows<4>(args, tile, x + m * args.x_row, args.out + m * args.out_row + n);
      }
      for (; m < args.rows; ++m) {
        product_rows<1>(args, tile, x + m * args.x_row, args.out + m * args.out_row + n);
      }
      tile.goes_on = true;
    }
  }
}

}  // namespace lockstep::cpu::LOCKSTEP_ISA
