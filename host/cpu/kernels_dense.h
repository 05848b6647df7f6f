// Dense layers: y = x W + b with W (in, out) in row-major order. Part of each instruction set's
// kernels. Chains: host/cpu/pins.h.
#pragma once

#include "host/cpu/kernels.h"
#include "host/cpu/kernels_layout.h"
#include "host/cpu/pins.h"

namespace lockstep::cpu::LOCKSTEP_ISA {

// Output features whose unfinished sums stay in L1 while the rows of W go by.
inline constexpr int64_t kDenseOutBlock = 256;
// Rows of W between saves of the sums: together with the sums they fit L1.
inline constexpr int64_t kDenseStep = 16;

inline int64_t dense_out_block(int64_t out) {
  const int64_t blocks = (out + kDenseOutBlock - 1) / kDenseOutBlock;
  const int64_t block = (out + blocks - 1) / blocks;
  return (block + 11) / 12 * 12;
}

inline int64_t dense_forward_workspace(int64_t out) { return dense_out_block(out) * 2 * kLanes; }

// sums[n][r] += sum over k in [0, count) of W[k][n] x[r][k], for kN features and kR row blocks.
template <int kN, int kR>
LOCKSTEP_SIMD void dense_forward_tile(const float* const* x, const float* weights, int64_t out,
                                      int64_t count, bool first, float* sums) {
  Vec acc[kN][kR];
#pragma GCC unroll 16
  for (int n = 0; n < kN; ++n) {
#pragma GCC unroll 16
    for (int r = 0; r < kR; ++r) {
      acc[n][r] = first ? set(-0.0f) : load(sums + (n * kR + r) * kLanes);
    }
  }
  for (int64_t k = 0; k < count; ++k) {
    Vec xs[kR];
#pragma GCC unroll 16
    for (int r = 0; r < kR; ++r) xs[r] = load(x[r] + k * kLanes);
    const float* row = weights + k * out;
#pragma GCC unroll 16
    for (int n = 0; n < kN; ++n) {
      const Vec w = broadcast(row + n);
#pragma GCC unroll 16
      for (int r = 0; r < kR; ++r) acc[n][r] = fma(w, xs[r], acc[n][r]);
    }
  }
#pragma GCC unroll 16
  for (int n = 0; n < kN; ++n) {
#pragma GCC unroll 16
    for (int r = 0; r < kR; ++r) store(sums + (n * kR + r) * kLanes, acc[n][r]);
  }
}

// All features [0, count) for one step of k.
template <int kN, int kR>
inline void dense_forward_step(const float* const* x, const float* weights, int64_t out,
                               int64_t features, int64_t count, bool first, float* sums) {
  const float* rows[kR];
  for (int r = 0; r < kR; ++r) rows[r] = x[r];
  int64_t n = 0;
  for (; n + kN <= features; n += kN) {
    // The rows of the next step: the hardware sees no stream in rows that are walked together.
    for (int64_t k = 0; k < count; ++k) prefetch(weights + (k + count) * out + n);
    dense_forward_tile<kN, kR>(rows, weights + n, out, count, first, sums + n * kR * kLanes);
  }
  if constexpr (kN > 1) {
    if (n < features) {
      dense_forward_step<kN / 2, kR>(x, weights + n, out, features - n, count, first,
                                     sums + n * kR * kLanes);
    }
  }
}

// Adds a block's sums to y; after the last block the bias and the activation.
template <int kR>
inline void dense_forward_finish(const DenseForwardArgs& args, const float* sums, int64_t block,
                                 int64_t n_begin, int64_t n_count, bool first, bool last) {
  for (int64_t n = 0; n < n_count; ++n) {
    for (int r = 0; r < kR; ++r) {
      float* y = args.y + ((block + r) * args.out + n_begin + n) * kLanes;
      Vec total = load(sums + (n * kR + r) * kLanes);
      if (!first) total = add(load(y), total);
      if (last && args.bias != nullptr) total = add(total, broadcast(args.bias + n_begin + n));
      if (last && args.relu) total = max(set(0.0f), total);
      store(y, total);
    }
  }
}

template <int kN, int kR>
inline void dense_forward_rows(const DenseForwardArgs& args, int64_t block, int64_t k_begin,
                               int64_t k_end, int64_t n_begin, int64_t n_count) {
  for (int64_t k = k_begin; k < k_end; k += kDenseStep) {
    const float* x[kR];
    for (int r = 0; r < kR; ++r) x[r] = args.x + ((block + r) * args.in + k) * kLanes;
    const int64_t count = k_end - k < kDenseStep ? k_end - k : kDenseStep;
    dense_forward_step<kN, kR>(x, args.weights + k * args.out + n_begin, args.out, n_count, count,
                               k == k_begin, args.workspace);
  }
  dense_forward_finish<kR>(args, args.workspace, block, n_begin, n_count, k_begin == 0,
                           k_end == args.in);
}

inline void dense_forward(const DenseForwardArgs& args) {
  const int64_t n_block = dense_out_block(args.out);
  for (int64_t k = 0; k < args.in; k += kChainBlock) {
    const int64_t k_end = k + kChainBlock < args.in ? k + kChainBlock : args.in;
    for (int64_t n = 0; n < args.out; n += n_block) {
      const int64_t n_count = n + n_block < args.out ? n_block : args.out - n;
      int64_t block = 0;
      for (; block + 2 <= args.row_blocks; block += 2) {
        dense_forward_rows<kDenseTilePair, 2>(args, block, k, k_end, n, n_count);
      }
      if (block < args.row_blocks) {
        dense_forward_rows<kDenseTileSingle, 1>(args, block, k, k_end, n, n_count);
      }
    }
  }
}

// Input features whose rows of W stay in L2 for all row blocks.
inline constexpr int64_t kDenseInBlock = 96;

// dx[k][r] = sum over n of W[k][n] dy[r][n], for kK features and kR row blocks.
template <int kK, int kR>
LOCKSTEP_SIMD void dense_data_tile(const DenseDataGradientArgs& args, int64_t block, int64_t k) {
  const float* dy[kR];
  for (int r = 0; r < kR; ++r) dy[r] = args.dy + (block + r) * args.out * kLanes;
  const float* weights = args.weights + k * args.out;
  for (int64_t begin = 0; begin < args.out; begin += kChainBlock) {
    const int64_t end = begin + kChainBlock < args.out ? begin + kChainBlock : args.out;
    Vec acc[kK][kR];
#pragma GCC unroll 16
    for (int i = 0; i < kK; ++i) {
#pragma GCC unroll 16
      for (int r = 0; r < kR; ++r) acc[i][r] = set(-0.0f);
    }
    for (int64_t line = begin; line < end; line += 16) {
      // The rows of the next tile: streams of one row each are too short for the hardware.
#pragma GCC unroll 16
      for (int i = 0; i < kK; ++i) prefetch(weights + (kK + i) * args.out + line);
      const int64_t line_end = line + 16 < end ? line + 16 : end;
      for (int64_t n = line; n < line_end; ++n) {
        Vec d[kR];
#pragma GCC unroll 16
        for (int r = 0; r < kR; ++r) d[r] = load(dy[r] + n * kLanes);
#pragma GCC unroll 16
        for (int i = 0; i < kK; ++i) {
          const Vec w = broadcast(weights + i * args.out + n);
#pragma GCC unroll 16
          for (int r = 0; r < kR; ++r) acc[i][r] = fma(w, d[r], acc[i][r]);
        }
      }
    }
#pragma GCC unroll 16
    for (int i = 0; i < kK; ++i) {
#pragma GCC unroll 16
      for (int r = 0; r < kR; ++r) {
        const int64_t at = ((block + r) * args.in + k + i) * kLanes;
        Vec total = acc[i][r];
        if (begin > 0) total = add(load(args.dx + at), total);
        if (end == args.out && args.mask != nullptr) {
          total = keep(greater(load(args.mask + at), set(0.0f)), total);
        }
        store(args.dx + at, total);
      }
    }
  }
}

template <int kK, int kR>
inline void dense_data_rows(const DenseDataGradientArgs& args, int64_t block, int64_t k,
                            int64_t k_end) {
  for (; k + kK <= k_end; k += kK) dense_data_tile<kK, kR>(args, block, k);
  if constexpr (kK > 1) {
    if (k < k_end) dense_data_rows<kK / 2, kR>(args, block, k, k_end);
  }
}

inline void dense_data_gradient(const DenseDataGradientArgs& args) {
  for (int64_t k = 0; k < args.in; k += kDenseInBlock) {
    const int64_t k_end = k + kDenseInBlock < args.in ? k + kDenseInBlock : args.in;
    int64_t block = 0;
    for (; block + 2 <= args.row_blocks; block += 2) {
      dense_data_rows<kDenseTilePair, 2>(args, block, k, k_end);
    }
    if (block < args.row_blocks) {
      dense_data_rows<kDenseTileSingle, 1>(args, block, k, k_end);
    }
  }
}

}  // namespace lockstep::cpu::LOCKSTEP_ISA
