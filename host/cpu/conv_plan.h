// Which taps each pixel of a convolution has, and the order in which they lie in packed weights.
#pragma once

#include <vector>

#include "host/cpu/kernels.h"
#include "host/device/ops.h"

namespace lockstep::cpu {

// A convolution, or the data gradient of one, as a correlation of `input` with packed weights:
// pixels with the same form of taps share a class and are computed in tiles of kTilePixels.
// A data gradient with stride s is s_h * s_w such correlations, one for each phase of the pixel;
// within a phase the pixels of dy that meet it lie side by side.
class CorrelationPlan {
 public:
  CorrelationPlan(const Conv2dOp& op, bool data_gradient, int lanes);

  // Floats of the packed weights.
  int64_t panel_floats() const { return total_taps_ * out_channels_; }
  // `kernel`: HWIO.
  void pack(const float* kernel, float* panels) const;
  // Everything but pointers to memory, bias and activation. Views this plan.
  CorrelationArgs args(int64_t row_blocks) const;

 private:
  // One coordinate of an output pixel: its taps [first_tap, first_tap + taps) of the phase's meet
  // the inputs from `input` on.
  struct AxisPoint {
    int phase = 0;
    int first_tap = 0, taps = 0;
    int input = 0;
  };
  struct Axis {
    std::vector<AxisPoint> points;
    std::vector<std::vector<int>> kernel_index;  // for each phase, of each tap
  };
  static Axis forward_axis(int in, int out, int kernel, int stride, int pad);
  static Axis gradient_axis(int in, int out, int kernel, int stride, int pad);
  void set_phases();
  void set_classes_and_tiles();
  void pack_panel(const float* kernel, int channel, int width, float* panel) const;

  Conv2dOp op_;
  bool data_gradient_ = false;
  int lanes_ = 0;
  Axis y_, x_;
  int64_t in_channels_ = 0, out_channels_ = 0;
  int64_t in_height_ = 0, in_width_ = 0;  // of the correlation's input
  int64_t total_taps_ = 0;
  std::vector<std::vector<int64_t>> phase_taps_;  // first tap of phase (y, x)
  std::vector<TapClass> classes_;
  std::vector<PixelTile> tiles_;
  int64_t full_tiles_ = 0;
  std::vector<int> panel_channels_;
};

// The blocks in which a weight gradient is computed: few enough sums at a time for L1.
struct GradientBlock {
  int in_begin = 0, in_end = 0;    // input channels
  int out_begin = 0, out_end = 0;  // output channels
  int64_t rows = 1;                // output rows that are taken together, to load sums less often
  std::vector<GradientSegment> segments;
};
// Of some whose sums L2 may hold, for which the image is read once.
using GradientGroup = std::vector<GradientBlock>;
std::vector<GradientGroup> gradient_groups(const Conv2dOp& op, int lanes);
// `count` sums made up to a multiple of 8, as lanes are reduced.
int64_t padded_sums(int64_t count);
// Of the weights of a block.
int64_t padded_weights(const Conv2dOp& op, const GradientBlock& block);

// Widths of panels that hold `channels`: as even as can be, at most kPanelChannels.
std::vector<int> split_channels(int64_t channels);

}  // namespace lockstep::cpu
