// What the kernels of convolutions are told; as kernels.h, data only.
#pragma once

#include <cstdint>

namespace lockstep::cpu {

// Output channels of a convolution are computed in panels of at most this many.
inline constexpr int kPanelChannels = 4;
inline constexpr int kTilePixels = 3;

// Output pixels whose taps have the same form: `rows` rows of `taps` input features that lie side
// by side, both in the input and in a panel's weights.
struct TapClass {
  int64_t first_tap = 0;  // in the panel's weights
  int64_t rows = 0;
  int64_t taps = 0;
  int64_t row_step = 0;  // taps from row to row in the panel's weights
};

struct PixelTile {
  int tap_class = 0;
  int count = 0;                     // pixels, at most kTilePixels
  int64_t input[kTilePixels] = {};   // offset in floats of the first tap in a row block
  int64_t output[kTilePixels] = {};  // and of channel 0
};

// Convolution, and its data gradient as the convolution that it is.
struct CorrelationArgs {
  const float* input = nullptr;
  const float* panels = nullptr;  // for each panel [taps][channels of the panel]
  const float* bias = nullptr;    // or none
  const float* mask = nullptr;    // or none
  float* output = nullptr;
  const TapClass* classes = nullptr;
  const PixelTile* tiles = nullptr;  // first those of kTilePixels pixels
  int64_t full_tiles = 0, all_tiles = 0;
  const int* panel_channels = nullptr;
  int panel_count = 0;
  int64_t total_taps = 0;                     // of a panel
  int64_t input_row = 0;                      // floats from row to row of the input
  int64_t input_block = 0, output_block = 0;  // floats from row block to row block
  int64_t row_blocks = 0;
  bool relu = false;
};

// Output pixels [x_begin, x_end) of a row meet the taps [tap_begin, tap_end) of a kernel row; a tap
// is (kw, channel of the block).
struct GradientSegment {
  int64_t x_begin = 0, x_end = 0;
  int64_t tap_begin = 0, tap_end = 0;
};

// A block of a convolution's weights: some input channels with some output channels.
struct ConvGradientBlock {
  int64_t in_begin = 0, inputs = 0;
  int64_t out_begin = 0, outputs = 0;
  const GradientSegment* segments = nullptr;
  int segment_count = 0;
  int64_t rows_at_once = 1;                // output rows between which sums stay in registers
  bool packs_x = false, packs_dy = false;  // the first of `blocks` with these channels
  int64_t first_sum = 0;                   // of its [kh][tap][output][V] in the sums
};

// Weight gradients of one row block for some blocks of weights. Where blocks have only some of the
// channels, image rows are packed first, once for all blocks: pixels a power of two apart would
// meet in the same sets of L1.
struct ConvGradientArgs {
  const float* x = nullptr;  // of the row block
  const float* dy = nullptr;
  float* packed_x = nullptr;  // room for what `rows` output rows need, or none
  float* packed_dy = nullptr;
  int64_t rows = 1;  // output rows that are packed at a time
  float* sums = nullptr;
  const ConvGradientBlock* blocks = nullptr;
  int block_count = 0;
  int kernel_height = 0, kernel_width = 0;
  int stride_height = 0, stride_width = 0;
  int pad_top = 0, pad_left = 0;
  int64_t in_height = 0, in_width = 0, out_height = 0, out_width = 0;
  int64_t in_channels = 0, out_channels = 0;
};

// Convolutions with groups or dilation, and their data gradients: each output pixel has a list of
// taps. Of a tap's weights that of channel `in` (of the group g) for output `out` of the group is
// weights[g * group_step + in * input_step + out * output_step].
struct ConvTap {
  int64_t input = 0;   // pixel
  int64_t weight = 0;  // offset
};
struct TapCorrelationArgs {
  const float* input = nullptr;
  const float* weights = nullptr;
  const float* bias = nullptr;  // or none
  const float* mask = nullptr;  // or none
  float* output = nullptr;
  const int64_t* begin = nullptr;  // those of output pixel p are [begin[p], begin[p + 1])
  const ConvTap* taps = nullptr;
  int64_t input_pixels = 0, output_pixels = 0;
  int64_t groups = 0, group_inputs = 0, group_outputs = 0;
  int64_t group_step = 0, input_step = 0, output_step = 0;
  int64_t row_blocks = 0;
  bool relu = false;
};

// sums[in][out][V] of one kernel place and one row block, `in` of [in_begin, in_end) of each group
// and `out` of all groups.
struct PixelPair {
  int64_t x = 0, dy = 0;
};
struct TapGradientArgs {
  const float* x = nullptr;
  const float* dy = nullptr;
  float* sums = nullptr;
  const PixelPair* pairs = nullptr;
  int64_t pair_count = 0;
  int64_t groups = 0, group_inputs = 0, group_outputs = 0;
  int64_t in_begin = 0, in_end = 0;
};

// sums[channel][V] of all pixels.
struct ConvBiasArgs {
  const float* dy = nullptr;  // of the row block
  float* sums = nullptr;
  int64_t pixels = 0, channels = 0;
};

}  // namespace lockstep::cpu
