// Between rows in lanes and rows in memory. Part of each instruction set's kernels.
#pragma once

#include "host/cpu/kernels.h"

namespace lockstep::cpu::LOCKSTEP_ISA {

// Copies; where `stream`, whole lines go past the caches, and stream_fence() must follow before
// another thread reads.
inline void copy_row(const float* from, float* to, int64_t count, bool stream) {
  int64_t i = 0;
  const auto copy_until = [&](int64_t end) {
    while (i < end && reinterpret_cast<uintptr_t>(to + i) % 16 != 0) to[i] = from[i], ++i;
    for (; i + 4 <= end; i += 4) _mm_store_ps(to + i, _mm_loadu_ps(from + i));
    for (; i < end; ++i) to[i] = from[i];
  };
  if (stream) {
    const int64_t head = static_cast<int64_t>(-reinterpret_cast<uintptr_t>(to) % 64 / 4);
    copy_until(head < count ? head : count);
    for (; i + 16 <= count; i += 16) {
      _mm256_stream_ps(to + i, _mm256_loadu_ps(from + i));
      _mm256_stream_ps(to + i + 8, _mm256_loadu_ps(from + i + 8));
    }
  }
  copy_until(count);
}

LOCKSTEP_SIMD void stream_fence() { _mm_sfence(); }

// r[i][j] = r[j][i].
LOCKSTEP_SIMD void transpose_8x8(__m256 r[8]) {
  __m256 pairs[8], quads[8];
#pragma GCC unroll 8
  for (int i = 0; i < 4; ++i) {
    pairs[2 * i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
    pairs[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
  }
#pragma GCC unroll 8
  for (int i = 0; i < 2; ++i) {
    quads[4 * i] = _mm256_shuffle_ps(pairs[4 * i], pairs[4 * i + 2], 0x44);
    quads[4 * i + 1] = _mm256_shuffle_ps(pairs[4 * i], pairs[4 * i + 2], 0xee);
    quads[4 * i + 2] = _mm256_shuffle_ps(pairs[4 * i + 1], pairs[4 * i + 3], 0x44);
    quads[4 * i + 3] = _mm256_shuffle_ps(pairs[4 * i + 1], pairs[4 * i + 3], 0xee);
  }
#pragma GCC unroll 8
  for (int i = 0; i < 4; ++i) {
    r[i] = _mm256_permute2f128_ps(quads[i], quads[i + 4], 0x20);
    r[i + 4] = _mm256_permute2f128_ps(quads[i], quads[i + 4], 0x31);
  }
}

inline void rows_to_lanes(const float* rows, int64_t row_count, int64_t stride, int64_t features,
                          float* value) {
  const int64_t blocks = (row_count + kLanes - 1) / kLanes;
  for (int64_t block = 0; block < blocks; ++block) {
    float* out = value + block * features * kLanes;
    for (int group = 0; group < kLanes; group += 8) {  // lanes [group, group + 8)
      const int64_t first = block * kLanes + group;
      const float* in = rows + first * stride;
      const int64_t present = row_count - first;
      int64_t f = 0;
      for (; f + 8 <= features; f += 8) {
        __m256 r[8];
        for (int64_t i = 0; i < 8; ++i) {
          r[i] = i < present ? _mm256_loadu_ps(in + i * stride + f) : _mm256_setzero_ps();
        }
        transpose_8x8(r);
        for (int64_t i = 0; i < 8; ++i) _mm256_storeu_ps(out + (f + i) * kLanes + group, r[i]);
      }
      for (; f < features; ++f) {
        for (int64_t i = 0; i < 8; ++i) {
          out[f * kLanes + group + i] = i < present ? in[i * stride + f] : 0.0f;
        }
      }
    }
  }
}

inline void lanes_to_rows(const float* value, int64_t row_count, int64_t features, float* rows) {
  for (int64_t first = 0; first < row_count; first += 8) {
    const float* in = value + first / kLanes * features * kLanes + first % kLanes;
    const int64_t present = row_count - first < 8 ? row_count - first : 8;
    float* out = rows + first * features;
    int64_t f = 0;
    for (; f + 8 <= features; f += 8) {
      __m256 r[8];
#pragma GCC unroll 8
      for (int64_t i = 0; i < 8; ++i) r[i] = _mm256_loadu_ps(in + (f + i) * kLanes);
      transpose_8x8(r);
      for (int64_t i = 0; i < present; ++i) _mm256_storeu_ps(out + i * features + f, r[i]);
    }
    for (; f < features; ++f) {
      for (int64_t i = 0; i < present; ++i) out[i * features + f] = in[f * kLanes + i];
    }
  }
}

inline void spread(const float* const* rows, int64_t count, float* out) {
  for (int group = 0; group < kLanes; group += 8) {
    for (int64_t f = 0; f < count; f += 8) {
      __m256 r[8];
#pragma GCC unroll 8
      for (int i = 0; i < 8; ++i) r[i] = _mm256_loadu_ps(rows[group + i] + f);
      transpose_8x8(r);
#pragma GCC unroll 8
      for (int i = 0; i < 8; ++i) _mm256_storeu_ps(out + (f + i) * kLanes + group, r[i]);
    }
  }
}

// `count` features of a value of `rows` rows, in panels of kWidth features, a multiple of 8:
// panels[feature / kWidth][row][feature % kWidth], zeros beyond `count`. `block_stride`: floats
// from row block to row block. Room for whole groups of 8 rows is needed behind the last panel.
template <int kWidth>
inline void lanes_to_panels(const float* value, int64_t block_stride, int64_t count, int64_t rows,
                            float* panels) {
  static_assert(kWidth % 8 == 0);
  for (int64_t first = 0; first < rows; first += 8) {
    const float* in = value + first / kLanes * block_stride + first % kLanes;
    const int64_t present = rows - first < 8 ? rows - first : 8;
    for (int64_t f = 0; f < count; f += 8) {
      __m256 r[8];
      const int64_t features = count - f;
#pragma GCC unroll 8
      for (int64_t i = 0; i < 8; ++i) {
        r[i] = i < features ? _mm256_loadu_ps(in + (f + i) * kLanes) : _mm256_setzero_ps();
      }
      transpose_8x8(r);
      float* out = panels + f / kWidth * rows * kWidth + first * kWidth + f % kWidth;
      if (present == 8) {
#pragma GCC unroll 8
        for (int64_t i = 0; i < 8; ++i) _mm256_storeu_ps(out + i * kWidth, r[i]);
      } else {
        for (int64_t i = 0; i < present; ++i) _mm256_storeu_ps(out + i * kWidth, r[i]);
      }
    }
    const int64_t padded = (count + 7) / 8 * 8;
    for (int64_t f = padded; f < (count + kWidth - 1) / kWidth * kWidth; ++f) {
      for (int64_t i = 0; i < present; ++i) {
        panels[f / kWidth * rows * kWidth + (first + i) * kWidth + f % kWidth] = 0.0f;
      }
    }
  }
}

}  // namespace lockstep::cpu::LOCKSTEP_ISA
