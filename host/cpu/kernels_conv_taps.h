// Convolutions with groups or dilation, rows in lanes: taps by list, each group's channels in turn.
// Part of each instruction set's kernels.
#pragma once

#include "host/cpu/kernels.h"

namespace lockstep::cpu::LOCKSTEP_ISA {

// kC output channels of a group at an output pixel, from number `out` of the group on.
template <int kC>
inline void correlate_pixel_taps(const TapCorrelationArgs& args, const float* input, int64_t block,
                                 int64_t pixel, int64_t group, int64_t out) {
  Vec acc[kC];
#pragma GCC unroll 16
  for (int c = 0; c < kC; ++c) acc[c] = set(-0.0f);
  const int64_t inputs = args.groups * args.group_inputs;
  const float* weights = args.weights + group * args.group_step + out * args.output_step;
  for (int64_t i = args.begin[pixel]; i < args.begin[pixel + 1]; ++i) {
    const float* x = input + (args.taps[i].input * inputs + group * args.group_inputs) * kLanes;
    const float* w = weights + args.taps[i].weight;
    for (int64_t in = 0; in < args.group_inputs; ++in) {
      const Vec value = load(x + in * kLanes);
#pragma GCC unroll 16
      for (int c = 0; c < kC; ++c) {
        acc[c] = fma(broadcast(w + in * args.input_step + c * args.output_step), value, acc[c]);
      }
    }
  }
  const int64_t channel = group * args.group_outputs + out;
  const int64_t pixels = block * args.output_pixels + pixel;
  const int64_t at = (pixels * args.groups * args.group_outputs + channel) * kLanes;
#pragma GCC unroll 16
  for (int c = 0; c < kC; ++c) {
    Vec result = acc[c];
    if (args.bias != nullptr) result = add(result, broadcast(args.bias + channel + c));
    if (args.relu) result = max(set(0.0f), result);
    const int64_t place = at + c * kLanes;
    if (args.mask != nullptr) result = keep(greater(load(args.mask + place), set(0.0f)), result);
    store(args.output + place, result);
  }
}

inline void correlate_taps(const TapCorrelationArgs& args) {
  const int64_t input_block = args.input_pixels * args.groups * args.group_inputs * kLanes;
  for (int64_t block = 0; block < args.row_blocks; ++block) {
    const float* input = args.input + block * input_block;
    for (int64_t pixel = 0; pixel < args.output_pixels; ++pixel) {
      for (int64_t group = 0; group < args.groups; ++group) {
        int64_t out = 0;
        for (; out + 4 <= args.group_outputs; out += 4) {
          correlate_pixel_taps<4>(args, input, block, pixel, group, out);
        }
        for (; out < args.group_outputs; ++out) {
          correlate_pixel_taps<1>(args, input, block, pixel, group, out);
        }
      }
    }
  }
}

// kC output channels from `channel` on, with input channel `in` of their group.
template <int kC>
inline void tap_gradient_channels(const TapGradientArgs& args, int64_t in, int64_t channel) {
  const int64_t inputs = args.groups * args.group_inputs;
  const int64_t outputs = args.groups * args.group_outputs;
  const float* x = args.x + (channel / args.group_outputs * args.group_inputs + in) * kLanes;
  const float* dy = args.dy + channel * kLanes;
  Vec acc[kC];
#pragma GCC unroll 16
  for (int c = 0; c < kC; ++c) acc[c] = set(-0.0f);
  for (int64_t i = 0; i < args.pair_count; ++i) {
    const Vec value = load(x + args.pairs[i].x * inputs * kLanes);
    const float* d = dy + args.pairs[i].dy * outputs * kLanes;
#pragma GCC unroll 16
    for (int c = 0; c < kC; ++c) acc[c] = fma(value, load(d + c * kLanes), acc[c]);
  }
  float* sums = args.sums + ((in - args.in_begin) * outputs + channel) * kLanes;
#pragma GCC unroll 16
  for (int c = 0; c < kC; ++c) store(sums + c * kLanes, acc[c]);
}

inline void tap_weight_gradient(const TapGradientArgs& args) {
  for (int64_t in = args.in_begin; in < args.in_end; ++in) {
    for (int64_t group = 0; group < args.groups; ++group) {
      const int64_t end = (group + 1) * args.group_outputs;
      int64_t channel = group * args.group_outputs;
      for (; channel + 4 <= end; channel += 4) tap_gradient_channels<4>(args, in, channel);
      for (; channel < end; ++channel) tap_gradient_channels<1>(args, in, channel);
    }
  }
}

}  // namespace lockstep::cpu::LOCKSTEP_ISA
