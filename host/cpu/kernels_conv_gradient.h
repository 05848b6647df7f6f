// Weight gradients of convolutions: every lane sums the gradient of its own row over the output
// pixels, then lanes are added in row order and partitions in the order of the tree. Part of each
// instruction set's kernels. Chains: host/cpu/pins.h.
#pragma once

#include "host/cpu/kernels.h"
#include "host/cpu/kernels_layout.h"

namespace lockstep::cpu::LOCKSTEP_ISA {

// sums[t][c] += sum over `pixels` of x[pixel][t] dy[pixel][c], for kT taps and kC channels.
template <int kT, int kC>
inline void conv_gradient_tile(const float* x, int64_t x_step, const float* dy, int64_t dy_step,
                               int64_t pixels, float* sums, int64_t tap_stride) {
  Vec acc[kT][kC];
#pragma GCC unroll 16
  for (int t = 0; t < kT; ++t) {
#pragma GCC unroll 16
    for (int c = 0; c < kC; ++c) acc[t][c] = load(sums + t * tap_stride + c * kLanes);
  }
  for (int64_t pixel = 0; pixel < pixels; ++pixel) {
    Vec xs[kT];
#pragma GCC unroll 16
    for (int t = 0; t < kT; ++t) xs[t] = load(x + t * kLanes);
#pragma GCC unroll 16
    for (int c = 0; c < kC; ++c) {
      const Vec d = load(dy + c * kLanes);
#pragma GCC unroll 16
      for (int t = 0; t < kT; ++t) acc[t][c] = fma(xs[t], d, acc[t][c]);
    }
    x += x_step;
    dy += dy_step;
  }
#pragma GCC unroll 16
  for (int t = 0; t < kT; ++t) {
#pragma GCC unroll 16
    for (int c = 0; c < kC; ++c) store(sums + t * tap_stride + c * kLanes, acc[t][c]);
  }
}

// Channels [c, c + kC) of a segment; x, dy and sums are those of its first tap and pixel.
template <int kC>
inline void conv_gradient_channels(const ConvGradientArgs& args, const GradientSegment& segment,
                                   const float* x, const float* dy, float* sums) {
  const int64_t pixels = segment.x_end - segment.x_begin;
  const int64_t stride = args.channels * kLanes;
  int64_t left = segment.tap_end - segment.tap_begin;
  while (left > 0) {
    // 3 + 1 taps go as 2 + 2: one tap alone has too few sums to hide the latency of an FMA.
    const int64_t rest = left == 4 ? 2 : (left < 3 ? left : 3);
    const int64_t taps = left >= kConvTaps && left != 4 ? kConvTaps : rest;
    if (taps == kConvTaps) {
      conv_gradient_tile<kConvTaps, kC>(x, args.x_pixel, dy, args.dy_pixel, pixels, sums, stride);
    } else if (taps == 3) {
      conv_gradient_tile<3, kC>(x, args.x_pixel, dy, args.dy_pixel, pixels, sums, stride);
    } else if (taps == 2) {
      conv_gradient_tile<2, kC>(x, args.x_pixel, dy, args.dy_pixel, pixels, sums, stride);
    } else {
      conv_gradient_tile<1, kC>(x, args.x_pixel, dy, args.dy_pixel, pixels, sums, stride);
    }
    x += taps * kLanes;
    sums += taps * stride;
    left -= taps;
  }
}

inline void conv_gradient_segment(const ConvGradientArgs& args, const GradientSegment& segment,
                                  const float* x, const float* dy, float* sums) {
  int64_t left = args.channels;
  while (left > 0) {
    const int64_t panels = (left + kPanelChannels - 1) / kPanelChannels;
    const int64_t channels = (left + panels - 1) / panels;
    if (channels == 4) conv_gradient_channels<4>(args, segment, x, dy, sums);
    if (channels == 3) conv_gradient_channels<3>(args, segment, x, dy, sums);
    if (channels == 2) conv_gradient_channels<2>(args, segment, x, dy, sums);
    if (channels == 1) conv_gradient_channels<1>(args, segment, x, dy, sums);
    dy += channels * kLanes;
    sums += channels * kLanes;
    left -= channels;
  }
}

inline void conv_weight_gradient(const ConvGradientArgs& args) {
  const int64_t count = args.kernel_height * args.taps * args.channels;
  for (int64_t i = 0; i < count; ++i) store(args.sums + i * kLanes, set(-0.0f));
  // Kernel row by kernel row, so that the sums of one stay in L1.
  for (int kh = 0; kh < args.kernel_height; ++kh) {
    float* sums = args.sums + kh * args.taps * args.channels * kLanes;
    for (int64_t y = 0; y < args.out_height; ++y) {
      const int64_t in_y = y * args.stride_height + kh - args.pad_top;
      if (in_y < 0 || in_y >= args.in_height) continue;
      const float* x = args.x + in_y * args.x_row;
      const float* dy = args.dy + y * args.dy_row;
      for (int i = 0; i < args.segment_count; ++i) {
        const GradientSegment& segment = args.segments[i];
        conv_gradient_segment(
            args, segment,
            x + (args.x_first + segment.x_begin * args.x_pixel + segment.tap_begin * kLanes),
            dy + segment.x_begin * args.dy_pixel, sums + segment.sum * args.channels * kLanes);
      }
    }
  }
}

template <int kC>
inline void conv_bias_channels(const ConvBiasArgs& args, int64_t channel) {
  Vec acc[kC];
#pragma GCC unroll 16
  for (int c = 0; c < kC; ++c) acc[c] = set(-0.0f);
  const float* dy = args.dy + channel * kLanes;
  for (int64_t pixel = 0; pixel < args.pixels; ++pixel) {
#pragma GCC unroll 16
    for (int c = 0; c < kC; ++c) acc[c] = add(acc[c], load(dy + c * kLanes));
    dy += args.channels * kLanes;
  }
#pragma GCC unroll 16
  for (int c = 0; c < kC; ++c) store(args.sums + (channel + c) * kLanes, acc[c]);
}

inline void conv_bias_gradient(const ConvBiasArgs& args) {
  int64_t channel = 0;
  for (; channel + 8 <= args.channels; channel += 8) conv_bias_channels<8>(args, channel);
  for (; channel + 4 <= args.channels; channel += 4) conv_bias_channels<4>(args, channel);
  for (; channel < args.channels; ++channel) conv_bias_channels<1>(args, channel);
}

// One row's gradients of 8 weights, at the end of `sum`.
LOCKSTEP_SIMD void reduce_row(const LaneReduceArgs& args, const RowStep& step, int64_t at,
                              __m256 row, __m256* sum) {
  *sum = step.first ? row : _mm256_add_ps(*sum, row);
  if (!step.last) return;
  float* top = args.stack + step.depth * args.count + at;
  for (int merge = 0; merge < step.merges; ++merge) {
    top -= args.count;
    *sum = _mm256_add_ps(_mm256_loadu_ps(top), *sum);
  }
  _mm256_storeu_ps(step.root >= 0 ? args.roots + step.root * args.count + at : top, *sum);
}

inline void lane_reduce(const LaneReduceArgs& args) {
  for (int64_t at = 0; at < args.count; at += 8) {
    __m256 sum = _mm256_loadu_ps(args.leaf + at);
    for (int group = 0; group < args.rows; group += 8) {
      __m256 r[8];
#pragma GCC unroll 8
      for (int i = 0; i < 8; ++i) {
        r[i] = _mm256_loadu_ps(args.sums + (at + i) * kLanes + group);
      }
      transpose_8x8(r);
      const int rows = args.rows - group < 8 ? args.rows - group : 8;
      for (int i = 0; i < rows; ++i) reduce_row(args, args.steps[group + i], at, r[i], &sum);
    }
    _mm256_storeu_ps(args.leaf + at, sum);
  }
}

}  // namespace lockstep::cpu::LOCKSTEP_ISA
