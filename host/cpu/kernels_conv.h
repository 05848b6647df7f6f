// Convolution with rows in lanes: a tile of output pixels and channels stays in registers while
// its taps go by; the taps of one kernel row lie side by side in the input and in the packed
// weights. Part of each instruction set's kernels. Chains: host/cpu/pins.h.
#pragma once

#include "host/cpu/kernels.h"

namespace lockstep::cpu::LOCKSTEP_ISA {

// kP pixels, kC channels, one row block.
template <int kP, int kC>
LOCKSTEP_SIMD void correlate_tile(const CorrelationArgs& args, const PixelTile& tile,
                                  const float* input, const float* panel, int64_t channel,
                                  int64_t block) {
  const TapClass& taps = args.classes[tile.tap_class];
  const float* pixels[kP];
  Vec acc[kP][kC];
#pragma GCC unroll 16
  for (int p = 0; p < kP; ++p) {
    pixels[p] = input + tile.input[p];
#pragma GCC unroll 16
    for (int c = 0; c < kC; ++c) acc[p][c] = set(-0.0f);
  }
  const float* weights = panel + taps.first_tap * kC;
  for (int64_t row = 0; row < taps.rows; ++row) {
    for (int64_t tap = 0; tap < taps.taps; ++tap) {
      Vec x[kP];
#pragma GCC unroll 16
      for (int p = 0; p < kP; ++p) x[p] = load(pixels[p] + tap * kLanes);
#pragma GCC unroll 16
      for (int c = 0; c < kC; ++c) {
        const Vec w = broadcast(weights + tap * kC + c);
#pragma GCC unroll 16
        for (int p = 0; p < kP; ++p) acc[p][c] = fma(w, x[p], acc[p][c]);
      }
    }
#pragma GCC unroll 16
    for (int p = 0; p < kP; ++p) pixels[p] += args.input_row;
    weights += taps.row_step * kC;
  }
  const int64_t base = block * args.output_block + channel * kLanes;
#pragma GCC unroll 16
  for (int c = 0; c < kC; ++c) {
    if (args.bias != nullptr) {
      const Vec bias = broadcast(args.bias + channel + c);
#pragma GCC unroll 16
      for (int p = 0; p < kP; ++p) acc[p][c] = add(acc[p][c], bias);
    }
#pragma GCC unroll 16
    for (int p = 0; p < kP; ++p) {
      const int64_t at = base + tile.output[p] + c * kLanes;
      Vec result = acc[p][c];
      if (args.relu) result = max(set(0.0f), result);
      if (args.mask != nullptr) result = keep(greater(load(args.mask + at), set(0.0f)), result);
      store(args.output + at, result);
    }
  }
}

template <int kC>
inline void correlate_panel(const CorrelationArgs& args, const float* panel, int64_t channel,
                            int64_t block) {
  const float* input = args.input + block * args.input_block;
  for (int64_t i = 0; i < args.full_tiles; ++i) {
    correlate_tile<kTilePixels, kC>(args, args.tiles[i], input, panel, channel, block);
  }
  for (int64_t i = args.full_tiles; i < args.all_tiles; ++i) {
    const PixelTile& tile = args.tiles[i];
    if (tile.count == 2) {
      correlate_tile<2, kC>(args, tile, input, panel, channel, block);
    } else {
      correlate_tile<1, kC>(args, tile, input, panel, channel, block);
    }
  }
}

inline void correlate(const CorrelationArgs& args) {
  for (int64_t block = 0; block < args.row_blocks; ++block) {
    int64_t channel = 0;
    for (int i = 0; i < args.panel_count; ++i) {
      const float* panel = args.panels + channel * args.total_taps;
      const int width = args.panel_channels[i];
      if (width == 4) correlate_panel<4>(args, panel, channel, block);
      if (width == 3) correlate_panel<3>(args, panel, channel, block);
      if (width == 2) correlate_panel<2>(args, panel, channel, block);
      if (width == 1) correlate_panel<1>(args, panel, channel, block);
      channel += width;
    }
  }
}

}  // namespace lockstep::cpu::LOCKSTEP_ISA
