// The weight gradient of dense layers: a tile of it is computed for every partition and added up
// the tree while it stays in registers and L1; only the roots reach memory, once. Part of each
// instruction set's kernels. Chains: host/cpu/pins.h.
#pragma once

#include "host/cpu/kernels.h"
#include "host/cpu/kernels_layout.h"

namespace lockstep::cpu::LOCKSTEP_ISA {

inline constexpr int kGradientColumns = 2 * kLanes;  // of a tile: output features
inline constexpr int kGradientInputs = 4;            // of a tile: input features
inline constexpr int kGradientInBlock = 16;          // input features packed at a time

struct GradientWorkspace {
  int64_t dy_panels = 0, x_panel = 0, stack = 0, end = 0;  // offsets in floats
};

inline GradientWorkspace gradient_workspace(int64_t out, int64_t rows, const TreeSteps& tree) {
  const int64_t padded_rows = (rows + 7) / 8 * 8;
  const int64_t panels = (out + kGradientColumns - 1) / kGradientColumns;
  GradientWorkspace result;
  result.x_panel = result.dy_panels + panels * padded_rows * kGradientColumns;
  result.stack = result.x_panel + padded_rows * kGradientInBlock;
  result.end = result.stack + (tree.stack_depth + 1) * kGradientInputs * kGradientColumns;
  return result;
}

inline int64_t dense_gradient_workspace(int64_t, int64_t out, int64_t rows,
                                        const TreeSteps& tree) {
  return gradient_workspace(out, rows, tree).end;
}

// One more row of x and dy.
template <int kK>
LOCKSTEP_SIMD void gradient_row(const float* x, const float* dy, Vec acc[kK][2]) {
  const Vec d0 = load(dy), d1 = load(dy + kLanes);
#pragma GCC unroll 16
  for (int k = 0; k < kK; ++k) {
    const Vec xk = broadcast(x + k);
    acc[k][0] = fma(xk, d0, acc[k][0]);
    acc[k][1] = fma(xk, d1, acc[k][1]);
  }
}

// Rows of x (kGradientInBlock apart) and dy (kGradientColumns apart) of one partition.
template <int kK>
LOCKSTEP_SIMD void gradient_leaf(const float* x, const float* dy, int rows, Vec acc[kK][2]) {
  const Vec d0 = load(dy), d1 = load(dy + kLanes);
#pragma GCC unroll 16
  for (int k = 0; k < kK; ++k) {
    const Vec xk = broadcast(x + k);
    acc[k][0] = mul(xk, d0);
    acc[k][1] = mul(xk, d1);
  }
  int row = 1;
  for (; row + 3 <= rows; row += 3) {
#pragma GCC unroll 16
    for (int i = 0; i < 3; ++i) {
      gradient_row<kK>(x + (row + i) * kGradientInBlock, dy + (row + i) * kGradientColumns, acc);
    }
  }
  for (; row < rows; ++row) {
    gradient_row<kK>(x + row * kGradientInBlock, dy + row * kGradientColumns, acc);
  }
}

template <int kK>
LOCKSTEP_SIMD void store_gradient(const Vec acc[kK][2], float* out, int64_t row_stride) {
#pragma GCC unroll 16
  for (int k = 0; k < kK; ++k) {
    store(out + k * row_stride, acc[k][0]);
    store(out + k * row_stride + kLanes, acc[k][1]);
  }
}

// Where a tile lies in a root.
struct TilePlace {
  int64_t offset = 0;  // of its first element
  int64_t row_stride = 0;
  int64_t columns = 0;  // at most kGradientColumns
};

inline void copy_columns(const float* tile, float* out, const TilePlace& place, int rows) {
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t n = 0; n < place.columns; ++n) {
      out[row * place.row_stride + n] = tile[row * kGradientColumns + n];
    }
  }
}

// Adds a partition's tile up the tree and puts it on the stack or to its root.
template <int kK>
LOCKSTEP_SIMD void finish_leaf(Vec acc[kK][2], const LeafStep& step, float* stack,
                               float* const* roots, const TilePlace& place) {
  constexpr int64_t kEntry = kK * kGradientColumns;
  float* top = stack + step.depth * kEntry;
  for (int merge = 0; merge < step.merges; ++merge) {
    top -= kEntry;
#pragma GCC unroll 16
    for (int j = 0; j < kK; ++j) {
      acc[j][0] = add(load(top + j * kGradientColumns), acc[j][0]);
      acc[j][1] = add(load(top + j * kGradientColumns + kLanes), acc[j][1]);
    }
  }
  if (step.root < 0) {
    store_gradient<kK>(acc, top, kGradientColumns);
    return;
  }
  float* out = roots[step.root] + place.offset;
  if (place.columns == kGradientColumns) {
    store_gradient<kK>(acc, out, place.row_stride);
  } else {
    store_gradient<kK>(acc, top, kGradientColumns);
    copy_columns(top, out, place, kK);
  }
}

// Input features [k, k + kK), output features from n on.
template <int kK>
inline void gradient_tile(const DenseWeightGradientArgs& args, const float* x, const float* dy,
                          float* stack, int64_t k, int64_t n) {
  const int64_t left = args.out - n;
  const TilePlace place{k * args.out + n, args.out,
                        left < kGradientColumns ? left : kGradientColumns};
  for (int i = 0; i < args.tree.leaf_count; ++i) {
    const LeafStep& step = args.tree.leaves[i];
    Vec acc[kK][2];
    gradient_leaf<kK>(x + step.first_row * kGradientInBlock, dy + step.first_row * kGradientColumns,
                      step.rows, acc);
    finish_leaf<kK>(acc, step, stack, args.kernel_roots, place);
  }
}

// Adds rows of dy in order, for each panel.
inline void dense_bias_gradient(const DenseWeightGradientArgs& args, const float* panels,
                                float* stack) {
  for (int64_t n = 0; n < args.out; n += kGradientColumns) {
    const int64_t left = args.out - n;
    const TilePlace place{n, 0, left < kGradientColumns ? left : kGradientColumns};
    for (int i = 0; i < args.tree.leaf_count; ++i) {
      const LeafStep& step = args.tree.leaves[i];
      const float* dy = panels + n * args.rows + step.first_row * kGradientColumns;
      Vec acc[1][2] = {{load(dy), load(dy + kLanes)}};
      for (int row = 1; row < step.rows; ++row) {
        dy += kGradientColumns;
        acc[0][0] = add(acc[0][0], load(dy));
        acc[0][1] = add(acc[0][1], load(dy + kLanes));
      }
      finish_leaf<1>(acc, step, stack, args.bias_roots, place);
    }
  }
}

inline void dense_weight_gradient(const DenseWeightGradientArgs& args) {
  if (args.tree.leaf_count == 0) return;
  const GradientWorkspace workspace = gradient_workspace(args.out, args.rows, args.tree);
  float* panels = args.workspace + workspace.dy_panels;
  float* x = args.workspace + workspace.x_panel;
  float* stack = args.workspace + workspace.stack;
  lanes_to_panels<kGradientColumns>(args.dy, args.out * kLanes, args.out, args.rows, panels);
  for (int64_t k = 0; k < args.in; k += kGradientInBlock) {
    const int64_t count = args.in - k < kGradientInBlock ? args.in - k : kGradientInBlock;
    lanes_to_panels<kGradientInBlock>(args.x + k * kLanes, args.in * kLanes, count, args.rows, x);
    for (int64_t n = 0; n < args.out; n += kGradientColumns) {
      const float* dy = panels + n * args.rows;
      int64_t i = 0;
      for (; i + kGradientInputs <= count; i += kGradientInputs) {
        gradient_tile<kGradientInputs>(args, x + i, dy, stack, k + i, n);
      }
      if (count - i == 3) gradient_tile<3>(args, x + i, dy, stack, k + i, n);
      if (count - i == 2) gradient_tile<2>(args, x + i, dy, stack, k + i, n);
      if (count - i == 1) gradient_tile<1>(args, x + i, dy, stack, k + i, n);
    }
  }
  if (args.bias_roots != nullptr) dense_bias_gradient(args, panels, stack);
}

}  // namespace lockstep::cpu::LOCKSTEP_ISA
