// The weight gradient of dense layers: a tile of it is computed for every partition and added up
// the tree while it stays in registers and L1; only the roots reach memory, once. Part of each
// instruction set's kernels. Chains: host/cpu/pins.h.
#pragma once

#include "host/cpu/kernels.h"
#include "host/cpu/kernels_layout.h"

namespace lockstep::cpu::LOCKSTEP_ISA {

// A block of the gradient, kGradientInputs x kGradientColumns, is computed leaf by leaf.
inline constexpr int kGradientColumns = 2 * kLanes;  // output features
inline constexpr int kGradientInputs = 24;           // input features
inline constexpr int kGradientTile = 6;              // input features in registers at a time
inline constexpr int64_t kGradientEntry = kGradientInputs * kGradientColumns;  // of the stack

inline constexpr int64_t kGradientChunk = 512;  // output features between flushes of the roots

struct GradientWorkspace {
  int64_t dy_panels = 0, x_panel = 0, stack = 0, roots = 0, end = 0;  // offsets in floats
  int64_t root_stride = 0;                                            // of a root's rows
};

inline GradientWorkspace gradient_workspace(int64_t out, int64_t rows, const TreeSteps& tree) {
  const int64_t padded_rows = (rows + 7) / 8 * 8;
  const int64_t panels = (out + kGradientColumns - 1) / kGradientColumns;
  const int64_t columns = panels * kGradientColumns;
  GradientWorkspace result;
  result.x_panel = result.dy_panels + panels * padded_rows * kGradientColumns;
  result.stack = result.x_panel + padded_rows * kGradientInputs;
  result.roots = result.stack + (tree.stack_depth + 1) * kGradientEntry;
  // One line more than the columns, so that rows do not meet in the same sets of L1.
  result.root_stride = (columns < kGradientChunk ? columns : kGradientChunk) + 16;
  result.end = result.roots + tree.root_count * kGradientInputs * result.root_stride;
  return result;
}

inline int64_t dense_gradient_workspace(int64_t, int64_t out, int64_t rows, const TreeSteps& tree) {
  return gradient_workspace(out, rows, tree).end;
}

// One more row of x and dy.
LOCKSTEP_SIMD void gradient_row(const float* x, const float* dy, Vec acc[kGradientTile][2]) {
  const Vec d0 = load(dy), d1 = load(dy + kLanes);
#pragma GCC unroll 16
  for (int k = 0; k < kGradientTile; ++k) {
    const Vec xk = broadcast(x + k);
    acc[k][0] = fma(xk, d0, acc[k][0]);
    acc[k][1] = fma(xk, d1, acc[k][1]);
  }
}

// A block's sum over the rows of one partition, kRows or, if 0, `rows`; then the `merges` entries
// below `stack` are added, the uppermost first.
template <int kRows>
inline void gradient_leaf(const float* x, const float* dy, int rows, const float* stack, int merges,
                          float* out, int64_t out_stride) {
  for (int64_t i = 0; i < kGradientInputs; i += kGradientTile) {
    Vec acc[kGradientTile][2];
    const Vec d0 = load(dy), d1 = load(dy + kLanes);
#pragma GCC unroll 16
    for (int k = 0; k < kGradientTile; ++k) {
      const Vec xk = broadcast(x + i + k);
      acc[k][0] = mul(xk, d0);
      acc[k][1] = mul(xk, d1);
    }
    if constexpr (kRows > 0) {
#pragma GCC unroll 16
      for (int row = 1; row < kRows; ++row) {
        gradient_row(x + i + row * kGradientInputs, dy + row * kGradientColumns, acc);
      }
    } else {
      for (int row = 1; row < rows; ++row) {
        gradient_row(x + i + row * kGradientInputs, dy + row * kGradientColumns, acc);
      }
    }
    const float* entry = stack + i * kGradientColumns;
    for (int merge = 0; merge < merges; ++merge) {
      entry -= kGradientEntry;
#pragma GCC unroll 16
      for (int k = 0; k < kGradientTile; ++k) {
        acc[k][0] = add(load(entry + k * kGradientColumns), acc[k][0]);
        acc[k][1] = add(load(entry + k * kGradientColumns + kLanes), acc[k][1]);
      }
    }
#pragma GCC unroll 16
    for (int k = 0; k < kGradientTile; ++k) {
      store(out + (i + k) * out_stride, acc[k][0]);
      store(out + (i + k) * out_stride + kLanes, acc[k][1]);
    }
  }
}

// One block: kGradientInputs rows of x, one panel of dy. Root i goes to roots + i * root_size.
inline void gradient_block(const TreeSteps& tree, const float* x, const float* dy, float* stack,
                           float* roots, int64_t root_size, int64_t root_stride) {
  for (int i = 0; i < tree.leaf_count; ++i) {
    const LeafStep& leaf = tree.leaves[i];
    const float* leaf_x = x + leaf.first_row * kGradientInputs;
    const float* leaf_dy = dy + leaf.first_row * kGradientColumns;
    float* top = stack + leaf.depth * kGradientEntry;
    const bool is_root = leaf.root >= 0;
    float* out = is_root ? roots + leaf.root * root_size : top - leaf.merges * kGradientEntry;
    const int64_t stride = is_root ? root_stride : kGradientColumns;
    if (leaf.rows == 4) {
      gradient_leaf<4>(leaf_x, leaf_dy, leaf.rows, top, leaf.merges, out, stride);
    } else if (leaf.rows == 8) {
      gradient_leaf<8>(leaf_x, leaf_dy, leaf.rows, top, leaf.merges, out, stride);
    } else {
      gradient_leaf<0>(leaf_x, leaf_dy, leaf.rows, top, leaf.merges, out, stride);
    }
  }
}

// Adds rows of dy in order, for each panel.
inline void dense_bias_gradient(const DenseWeightGradientArgs& args, const float* panels,
                                float* stack) {
  for (int64_t n = 0; n < args.out; n += kGradientColumns) {
    const int64_t columns = args.out - n < kGradientColumns ? args.out - n : kGradientColumns;
    for (int i = 0; i < args.tree.leaf_count; ++i) {
      const LeafStep& leaf = args.tree.leaves[i];
      const float* dy = panels + n * args.rows + leaf.first_row * kGradientColumns;
      Vec sum0 = load(dy), sum1 = load(dy + kLanes);
      for (int row = 1; row < leaf.rows; ++row) {
        sum0 = add(sum0, load(dy + row * kGradientColumns));
        sum1 = add(sum1, load(dy + row * kGradientColumns + kLanes));
      }
      float* top = stack + leaf.depth * kGradientColumns;
      for (int merge = 0; merge < leaf.merges; ++merge) {
        top -= kGradientColumns;
        sum0 = add(load(top), sum0);
        sum1 = add(load(top + kLanes), sum1);
      }
      store(top, sum0);
      store(top + kLanes, sum1);
      for (int64_t c = 0; leaf.root >= 0 && c < columns; ++c) {
        args.bias_roots[leaf.root][n + c] = top[c];
      }
    }
  }
}

// Asks for x of the input features from k on.
inline void prefetch_inputs(const DenseWeightGradientArgs& args, int64_t k) {
  if (k >= args.in) return;
  for (int64_t row = 0; row < args.rows; row += kLanes) {
    const float* x = args.x + (row / kLanes * args.in + k) * kLanes;
    const int64_t count = args.in - k < kGradientInputs ? args.in - k : kGradientInputs;
    for (int64_t i = 0; i < count * kLanes; i += 16) prefetch(x + i);
  }
}

// Floats of a kernel from which on its gradient goes past the caches: it would only push weights
// and optimizer state out of them.
inline constexpr int64_t kStreamFloats = int64_t{1} << 17;

// Copies the finished rows [k, k + inputs), columns [n, n + columns) to the roots.
inline void flush_roots(const DenseWeightGradientArgs& args, const float* roots, int64_t stride,
                        int64_t k, int64_t n, int64_t inputs, int64_t columns) {
  const bool stream = args.in * args.out >= kStreamFloats;
  for (int i = 0; i < args.tree.leaf_count; ++i) {
    const int root = args.tree.leaves[i].root;
    if (root < 0) continue;
    for (int64_t row = 0; row < inputs; ++row) {
      copy_row(roots + (root * kGradientInputs + row) * stride,
               args.kernel_roots[root] + (k + row) * args.out + n, columns, stream);
    }
  }
}

inline void dense_weight_gradient(const DenseWeightGradientArgs& args) {
  if (args.tree.leaf_count == 0) return;
  const GradientWorkspace workspace = gradient_workspace(args.out, args.rows, args.tree);
  float* panels = args.workspace + workspace.dy_panels;
  float* x = args.workspace + workspace.x_panel;
  float* stack = args.workspace + workspace.stack;
  float* roots = args.workspace + workspace.roots;
  const int64_t stride = workspace.root_stride;
  lanes_to_panels<kGradientColumns>(args.dy, args.out * kLanes, args.out, args.rows, panels);
  for (int64_t k = 0; k < args.in; k += kGradientInputs) {
    const int64_t inputs = args.in - k < kGradientInputs ? args.in - k : kGradientInputs;
    lanes_to_panels<kGradientInputs>(args.x + k * kLanes, args.in * kLanes, inputs, args.rows, x);
    prefetch_inputs(args, k + kGradientInputs);
    for (int64_t chunk = 0; chunk < args.out; chunk += kGradientChunk) {
      const int64_t columns = args.out - chunk < kGradientChunk ? args.out - chunk : kGradientChunk;
      for (int64_t n = 0; n < columns; n += kGradientColumns) {
        gradient_block(args.tree, x, panels + (chunk + n) * args.rows, stack, roots + n,
                       kGradientInputs * stride, stride);
      }
      flush_roots(args, roots, stride, k, chunk, inputs, columns);
    }
  }
  if (args.bias_roots != nullptr) dense_bias_gradient(args, panels, stack);
  stream_fence();
}

}  // namespace lockstep::cpu::LOCKSTEP_ISA
