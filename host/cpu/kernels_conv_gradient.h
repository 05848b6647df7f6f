// Weight gradients of convolutions: every lane sums the gradient of its own row over the output
// pixels, then lanes are added in row order and partitions in the order of the tree. Part of each
// instruction set's kernels. Chains: host/cpu/pins.h.
#pragma once

#include "host/cpu/kernels.h"
#include "host/cpu/kernels_layout.h"

namespace lockstep::cpu::LOCKSTEP_ISA {

// The operands of a segment in some rows: its first tap, channel and pixel.
struct SegmentOperands {
  const float* x = nullptr;
  const float* dy = nullptr;
  float* sums = nullptr;
  int64_t x_step = 0, dy_step = 0;  // floats from output pixel to output pixel
  int64_t x_row = 0, dy_row = 0;    // from output row to output row
  int64_t rows = 0, pixels = 0, taps = 0, channels = 0;
};

// sums[t][c] += sum over the pixels of the rows of x[pixel][t] dy[pixel][c], for kT taps and kC
// channels.
template <int kT, int kC>
inline void conv_gradient_tile(const SegmentOperands& at, int64_t tap_stride) {
  float* sums = at.sums;
  Vec acc[kT][kC];
#pragma GCC unroll 16
  for (int t = 0; t < kT; ++t) {
#pragma GCC unroll 16
    for (int c = 0; c < kC; ++c) acc[t][c] = load(sums + t * tap_stride + c * kLanes);
  }
  for (int64_t row = 0; row < at.rows; ++row) {
    const float* x = at.x + row * at.x_row;
    const float* dy = at.dy + row * at.dy_row;
    for (int64_t pixel = 0; pixel < at.pixels; ++pixel) {
      Vec xs[kT];
#pragma GCC unroll 16
      for (int t = 0; t < kT; ++t) xs[t] = load(x + t * kLanes);
#pragma GCC unroll 16
      for (int c = 0; c < kC; ++c) {
        const Vec d = load(dy + c * kLanes);
#pragma GCC unroll 16
        for (int t = 0; t < kT; ++t) acc[t][c] = fma(xs[t], d, acc[t][c]);
      }
      x += at.x_step;
      dy += at.dy_step;
    }
  }
#pragma GCC unroll 16
  for (int t = 0; t < kT; ++t) {
#pragma GCC unroll 16
    for (int c = 0; c < kC; ++c) store(sums + t * tap_stride + c * kLanes, acc[t][c]);
  }
}

// The first kC of the segment's channels.
template <int kC>
inline void conv_gradient_channels(SegmentOperands at) {
  const int64_t stride = at.channels * kLanes;
  while (at.taps > 0) {
    // 3 + 1 taps go as 2 + 2: one tap alone has too few sums to hide the latency of an FMA.
    const int64_t rest = at.taps == 4 ? 2 : (at.taps < 3 ? at.taps : 3);
    const int64_t taps = at.taps >= kConvTaps && at.taps != 4 ? kConvTaps : rest;
    if (taps == kConvTaps) {
      conv_gradient_tile<kConvTaps, kC>(at, stride);
    } else if (taps == 3) {
      conv_gradient_tile<3, kC>(at, stride);
    } else if (taps == 2) {
      conv_gradient_tile<2, kC>(at, stride);
    } else {
      conv_gradient_tile<1, kC>(at, stride);
    }
    at.x += taps * kLanes;
    at.sums += taps * stride;
    at.taps -= taps;
  }
}

inline void conv_gradient_segment(SegmentOperands at) {
  int64_t left = at.channels;
  while (left > 0) {
    const int64_t panels = (left + kPanelChannels - 1) / kPanelChannels;
    const int64_t channels = (left + panels - 1) / panels;
    if (channels == 4) conv_gradient_channels<4>(at);
    if (channels == 3) conv_gradient_channels<3>(at);
    if (channels == 2) conv_gradient_channels<2>(at);
    if (channels == 1) conv_gradient_channels<1>(at);
    at.dy += channels * kLanes;
    at.sums += channels * kLanes;
    left -= channels;
  }
}

// Image rows of some channels, side by side or among the others.
struct ImageRows {
  const float* first = nullptr;
  int64_t row = 0, pixel = 0;  // floats from one to the next
};

// Rows of an image of `all` channels, of which a block has `count` from `begin` on.
struct Channels {
  const float* rows = nullptr;
  int64_t pixels = 0, width = 0, all = 0;
  int64_t begin = 0, count = 0;
};

// In `packed`, where there is room: packed now, or by an earlier block with these channels.
inline ImageRows rows_of_block(const Channels& from, bool packs, float* packed) {
  if (packed == nullptr) return {from.rows, from.width * from.all * kLanes, from.all * kLanes};
  float* to = packed + from.begin * from.pixels * kLanes;
  const int64_t pixel_floats = from.count * kLanes;
  for (int64_t pixel = 0; packs && pixel < from.pixels; ++pixel) {
    const float* at = from.rows + (pixel * from.all + from.begin) * kLanes;
    for (int64_t c = 0; c < from.count; ++c) {
      store(to + pixel * pixel_floats + c * kLanes, load(at + c * kLanes));
    }
  }
  return {to, from.width * pixel_floats, pixel_floats};
}

// The input rows [begin, end) that output rows meet, as far as they are inside of the image.
struct RowSpan {
  int64_t begin = 0, end = 0;
};
inline RowSpan input_rows(const ConvGradientArgs& args, const RowSpan& out) {
  const int64_t begin = out.begin * args.stride_height - args.pad_top;
  const int64_t end = (out.end - 1) * args.stride_height + args.kernel_height - args.pad_top;
  return {begin < 0 ? 0 : begin, end < args.in_height ? end : args.in_height};
}

// Output rows `out`, of which `x` and `dy` have the block's channels from x_begin and dy_begin on.
// Every sum goes on where the rows before left it.
inline void conv_gradient_block(const ConvGradientArgs& args, const ConvGradientBlock& block,
                                const RowSpan& out, const ImageRows& x, int64_t x_begin,
                                const ImageRows& dy, int64_t dy_begin) {
  const int64_t stride = args.stride_height;
  const int64_t row_sums = args.kernel_width * block.inputs * block.outputs;
  for (int kh = 0; kh < args.kernel_height; ++kh) {
    // The rows whose input row is inside of the image.
    int64_t first = out.begin, last = out.end;
    while (first < last && first * stride + kh < args.pad_top) ++first;
    while (first < last && (last - 1) * stride + kh - args.pad_top >= args.in_height) --last;
    if (first == last) continue;
    const int64_t in_y = first * stride + kh - args.pad_top;
    for (int i = 0; i < block.segment_count; ++i) {
      const GradientSegment& segment = block.segments[i];
      const int64_t first_x = segment.x_begin * args.stride_width - args.pad_left;
      SegmentOperands at;
      at.x = x.first + (in_y - x_begin) * x.row + first_x * x.pixel + segment.tap_begin * kLanes;
      at.dy = dy.first + (first - dy_begin) * dy.row + segment.x_begin * dy.pixel;
      at.sums = args.sums + block.first_sum +
                (kh * row_sums + segment.tap_begin * block.outputs) * kLanes;
      at.x_step = args.stride_width * x.pixel;
      at.dy_step = dy.pixel;
      at.x_row = stride * x.row;
      at.dy_row = dy.row;
      at.rows = last - first;
      at.pixels = segment.x_end - segment.x_begin;
      at.taps = segment.tap_end - segment.tap_begin;
      at.channels = block.outputs;
      conv_gradient_segment(at);
    }
  }
}

inline void conv_gradient_rows(const ConvGradientArgs& args, const RowSpan& out) {
  const RowSpan in = input_rows(args, out);
  if (in.begin >= in.end) return;
  const int64_t x_pixels = (in.end - in.begin) * args.in_width;
  const int64_t dy_pixels = (out.end - out.begin) * args.out_width;
  const float* x_rows = args.x + in.begin * args.in_width * args.in_channels * kLanes;
  const float* dy_rows = args.dy + out.begin * args.out_width * args.out_channels * kLanes;
  for (int i = 0; i < args.block_count; ++i) {
    const ConvGradientBlock& block = args.blocks[i];
    const ImageRows x = rows_of_block(
        {x_rows, x_pixels, args.in_width, args.in_channels, block.in_begin, block.inputs},
        block.packs_x, args.packed_x);
    const ImageRows dy = rows_of_block(
        {dy_rows, dy_pixels, args.out_width, args.out_channels, block.out_begin, block.outputs},
        block.packs_dy, args.packed_dy);
    for (int64_t y = out.begin; y < out.end; y += block.rows_at_once) {
      const int64_t end = y + block.rows_at_once;
      conv_gradient_block(args, block, {y, end < out.end ? end : out.end}, x, in.begin, dy,
                          out.begin);
    }
  }
}

inline void conv_weight_gradient(const ConvGradientArgs& args) {
  for (int i = 0; i < args.block_count; ++i) {
    const ConvGradientBlock& block = args.blocks[i];
    const int64_t sums = args.kernel_height * args.kernel_width * block.inputs * block.outputs;
    for (int64_t at = 0; at < sums; ++at)
      store(args.sums + block.first_sum + at * kLanes, set(-0.0f));
  }
  for (int64_t y = 0; y < args.out_height; y += args.rows) {
    const int64_t end = y + args.rows;
    conv_gradient_rows(args, {y, end < args.out_height ? end : args.out_height});
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
