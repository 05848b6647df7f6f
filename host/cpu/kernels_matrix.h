// Products of matrices that lie in each row, and embeddings. Part of each instruction set's
// kernels.
#pragma once

#include "host/cpu/kernels.h"
#include "host/cpu/kernels_elementwise.h"
#include "host/cpu/kernels_layout.h"

namespace lockstep::cpu::LOCKSTEP_ISA {

// Strides in floats.
struct MatmulBlock {
  const float* x;
  const float* z;
  float* out;
  int64_t x_row, x_column, z_row, z_column, out_row, out_column;
};

// kM x kN elements of the product.
template <int kM, int kN>
LOCKSTEP_SIMD void matmul_tile(const MatmulBlock& block, int64_t m, int64_t n, int64_t inner) {
  Vec acc[kM][kN];
#pragma GCC unroll 4
  for (int i = 0; i < kM; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < kN; ++j) acc[i][j] = set(-0.0f);
  }
  const float* x = block.x + m * block.x_row;
  const float* z = block.z + n * block.z_column;
  for (int64_t k = 0; k < inner; ++k, x += block.x_column, z += block.z_row) {
    Vec zs[kN];
#pragma GCC unroll 4
    for (int j = 0; j < kN; ++j) zs[j] = load(z + j * block.z_column);
#pragma GCC unroll 4
    for (int i = 0; i < kM; ++i) {
      const Vec xi = load(x + i * block.x_row);
#pragma GCC unroll 4
      for (int j = 0; j < kN; ++j) acc[i][j] = fma(xi, zs[j], acc[i][j]);
    }
  }
  float* out = block.out + m * block.out_row + n * block.out_column;
#pragma GCC unroll 4
  for (int i = 0; i < kM; ++i) {
#pragma GCC unroll 4
    for (int j = 0; j < kN; ++j) {
      store(out + i * block.out_row + j * block.out_column, acc[i][j]);
    }
  }
}

template <int kM>
inline void matmul_rows(const MatmulBlock& block, int64_t m, int64_t inner, int64_t columns) {
  int64_t n = 0;
  for (; n + 3 <= columns; n += 3) matmul_tile<kM, 3>(block, m, n, inner);
  for (; n < columns; ++n) matmul_tile<kM, 1>(block, m, n, inner);
}

inline void matmul(const MatmulArgs& args) {
  for (int64_t i = 0; i < args.row_blocks * args.batches; ++i) {
    const int64_t row_block = i / args.batches, batch = i % args.batches;
    const auto at = [&](int64_t features, const int64_t* strides) {
      return (row_block * features + batch * strides[0]) * kLanes;
    };
    const MatmulBlock block{.x = args.x + at(args.x_features, args.x_strides),
                            .z = args.z + at(args.z_features, args.z_strides),
                            .out = args.out + at(args.features, args.out_strides),
                            .x_row = args.x_strides[1] * kLanes,
                            .x_column = args.x_strides[2] * kLanes,
                            .z_row = args.z_strides[1] * kLanes,
                            .z_column = args.z_strides[2] * kLanes,
                            .out_row = args.out_strides[1] * kLanes,
                            .out_column = args.out_strides[2] * kLanes};
    int64_t m = 0;
    for (; m + 4 <= args.rows; m += 4) matmul_rows<4>(block, m, args.inner, args.columns);
    for (; m < args.rows; ++m) matmul_rows<1>(block, m, args.inner, args.columns);
  }
}

// The table's row of each lane's word.
inline void embedding_rows(const EmbeddingArgs& args, int64_t block, int64_t t,
                           const float* (&rows)[kLanes]) {
  const float* words = args.x + (block * args.length + t) * kLanes;
  for (int64_t lane = 0; lane < kLanes; ++lane) {
    const float word = words[lane];
    rows[lane] = args.unknown;
    if (word >= 0 && word < static_cast<float>(args.vocabulary)) {
      const int64_t index = static_cast<int64_t>(word);
      if (static_cast<float>(index) == word) rows[lane] = args.table + index * args.units;
    }
    if (block * kLanes + lane >= args.rows) rows[lane] = args.nothing;
  }
}

inline void embedding(const EmbeddingArgs& args) {
  for (int64_t block = 0; block * kLanes < args.rows; ++block) {
    for (int64_t t = 0; t < args.length; ++t) {
      const float* rows[kLanes];
      embedding_rows(args, block, t, rows);
      float* y = args.y + (block * args.length + t) * args.units * kLanes;
      const int64_t whole = args.units / 8 * 8;
      spread(rows, whole, y);
      for (int64_t u = whole; u < args.units; ++u) {
        for (int64_t lane = 0; lane < kLanes; ++lane) y[u * kLanes + lane] = rows[lane][u];
      }
    }
  }
}

}  // namespace lockstep::cpu::LOCKSTEP_ISA
