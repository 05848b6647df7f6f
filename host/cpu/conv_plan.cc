#include "host/cpu/conv_plan.h"

#include <algorithm>
#include <map>
#include <tuple>

#include "host/core/check.h"

namespace lockstep::cpu {
namespace {

constexpr int64_t kPixelsAtOnce = 64;  // of a gradient
constexpr int64_t kGroupWeights = 12288;
constexpr int64_t kSumBytes = 12288;  // of a kernel row of a gradient block: a part of L1
constexpr int64_t kBlockInputs = 24;  // channels of such a block, whose image rows L1 holds beside

int floor_div(int a, int b) { return a >= 0 ? a / b : -((-a + b - 1) / b); }
int ceil_div(int a, int b) { return -floor_div(-a, b); }

// The output pixels [begin, end) of a row for which tap kw is inside of the image.
struct Range {
  int begin = 0, end = 0;
  bool operator==(const Range&) const = default;
};
Range valid_pixels(const Conv2dOp& op, int kw) {
  const int begin = std::max(0, ceil_div(op.pad_left - kw, op.stride_width));
  const int end =
      std::min(op.out_width, floor_div(op.in_width - 1 + op.pad_left - kw, op.stride_width) + 1);
  return {begin, std::max(begin, end)};
}

// The taps of a kernel row that are inside of the image for output pixel x.
Range valid_taps(const Conv2dOp& op, int x) {
  const int first = x * op.stride_width - op.pad_left;
  const int begin = std::clamp(-first, 0, op.kernel_width);
  const int end = std::clamp(op.in_width - first, begin, op.kernel_width);
  return {begin, end};
}

// For a block of `channels` input channels.
std::vector<GradientSegment> segments_of(const Conv2dOp& op, int64_t channels) {
  std::vector<GradientSegment> segments;
  bool padded = false;
  for (int kw = 0; kw < op.kernel_width; ++kw) {
    padded = padded || valid_pixels(op, kw) != Range{0, op.out_width};
  }
  if (!padded) return {{0, op.out_width, 0, op.kernel_width * channels}};
  if (channels < kTilePixels) {
    // Too few channels to fill a tile: runs of pixels with the same taps.
    for (int x = 0; x < op.out_width;) {
      const Range taps = valid_taps(op, x);
      int end = x + 1;
      while (end < op.out_width && valid_taps(op, end) == taps) ++end;
      if (taps.begin < taps.end) {
        segments.push_back({x, end, taps.begin * channels, taps.end * channels});
      }
      x = end;
    }
    return segments;
  }
  for (int kw = 0; kw < op.kernel_width; ++kw) {
    const Range pixels = valid_pixels(op, kw);
    if (pixels.begin == pixels.end) continue;
    segments.push_back({pixels.begin, pixels.end, kw * channels, (kw + 1) * channels});
  }
  return segments;
}

// A tap of several segments goes through all of them in each row, before the next row.
int64_t rows_of(const Conv2dOp& op, const std::vector<GradientSegment>& segments) {
  int64_t taps = 0;
  for (const GradientSegment& segment : segments) {
    if (segment.tap_begin < taps) return 1;
    taps = segment.tap_end;
  }
  return std::clamp<int64_t>(kPixelsAtOnce / op.out_width, 1, op.out_height);
}

}  // namespace

std::vector<int> split_channels(int64_t channels) {
  std::vector<int> widths;
  while (channels > 0) {
    const int64_t panels = (channels + kPanelChannels - 1) / kPanelChannels;
    widths.push_back(static_cast<int>((channels + panels - 1) / panels));
    channels -= widths.back();
  }
  return widths;
}

int64_t padded_sums(int64_t count) { return (count + 7) / 8 * 8; }

int64_t padded_weights(const Conv2dOp& op, const GradientBlock& block) {
  const int64_t count = int64_t{op.kernel_height} * op.kernel_width *
                        (block.in_end - block.in_begin) * (block.out_end - block.out_begin);
  return padded_sums(count);
}

std::vector<GradientGroup> gradient_groups(const Conv2dOp& op, int lanes) {
  const int64_t limit = kSumBytes / (lanes * static_cast<int64_t>(sizeof(float)));
  int64_t ins = op.in_channels, outs = op.out_channels;
  if (op.kernel_width * ins * outs > limit) {
    outs = std::min<int64_t>(outs, kPanelChannels);
    const int64_t most = std::min(kBlockInputs, limit / (op.kernel_width * outs));
    ins = std::min(ins, std::max<int64_t>(3, most / 3 * 3));
    const int64_t blocks = (op.in_channels + ins - 1) / ins;
    ins = std::min(ins, ((op.in_channels + blocks - 1) / blocks + 2) / 3 * 3);  // as even as can be
  }
  std::vector<GradientGroup> groups(1);
  int64_t weights = 0;
  for (int64_t in = 0; in < op.in_channels; in += ins) {
    for (int64_t out = 0; out < op.out_channels; out += outs) {
      GradientBlock block;
      block.in_begin = static_cast<int>(in);
      block.in_end = static_cast<int>(std::min<int64_t>(in + ins, op.in_channels));
      block.out_begin = static_cast<int>(out);
      block.out_end = static_cast<int>(std::min<int64_t>(out + outs, op.out_channels));
      block.segments = segments_of(op, block.in_end - block.in_begin);
      block.rows = rows_of(op, block.segments);
      const int64_t more = padded_weights(op, block);
      if (weights > 0 && weights + more > kGroupWeights) {
        groups.emplace_back();
        weights = 0;
      }
      weights += more;
      groups.back().push_back(std::move(block));
    }
  }
  return groups;
}

CorrelationPlan::Axis CorrelationPlan::forward_axis(int in, int out, int kernel, int stride,
                                                    int pad) {
  Axis axis;
  axis.kernel_index.resize(1);
  for (int tap = 0; tap < kernel; ++tap) axis.kernel_index[0].push_back(tap);
  for (int i = 0; i < out; ++i) {
    const int first = i * stride - pad;
    const int begin = std::clamp(-first, 0, kernel);
    const int end = std::clamp(in - first, begin, kernel);
    axis.points.push_back({0, begin, end - begin, begin == end ? 0 : first + begin});
  }
  return axis;
}

// For dx[i]: the outputs o with o * stride + k - pad = i, ascending in o.
CorrelationPlan::Axis CorrelationPlan::gradient_axis(int in, int out, int kernel, int stride,
                                                     int pad) {
  Axis axis;
  axis.kernel_index.resize(static_cast<size_t>(stride));
  for (int phase = 0; phase < stride; ++phase) {
    std::vector<int>& indices = axis.kernel_index[static_cast<size_t>(phase)];
    for (int k = phase; k < kernel; k += stride) indices.insert(indices.begin(), k);
  }
  for (int i = 0; i < in; ++i) {
    const int phase = (i + pad) % stride;
    const int taps = static_cast<int>(axis.kernel_index[static_cast<size_t>(phase)].size());
    const int first = (i + pad) / stride - (taps - 1);  // the output that tap 0 meets
    const int begin = std::clamp(-first, 0, taps);
    const int end = std::clamp(out - first, begin, taps);
    axis.points.push_back({phase, begin, end - begin, begin == end ? 0 : first + begin});
  }
  return axis;
}

CorrelationPlan::CorrelationPlan(const Conv2dOp& op, bool data_gradient, int lanes)
    : op_(op), data_gradient_(data_gradient), lanes_(lanes) {
  LOCKSTEP_CHECK(op.stride_height > 0 && op.stride_width > 0);
  LOCKSTEP_CHECK(op.pad_top >= 0 && op.pad_left >= 0);
  const auto make_axis = data_gradient ? gradient_axis : forward_axis;
  y_ = make_axis(op.in_height, op.out_height, op.kernel_height, op.stride_height, op.pad_top);
  x_ = make_axis(op.in_width, op.out_width, op.kernel_width, op.stride_width, op.pad_left);
  in_channels_ = data_gradient ? op.out_channels : op.in_channels;
  out_channels_ = data_gradient ? op.in_channels : op.out_channels;
  in_height_ = data_gradient ? op.out_height : op.in_height;
  in_width_ = data_gradient ? op.out_width : op.in_width;
  panel_channels_ = split_channels(out_channels_);
  set_phases();
  set_classes_and_tiles();
}

void CorrelationPlan::set_phases() {
  for (const std::vector<int>& rows : y_.kernel_index) {
    phase_taps_.emplace_back();
    for (const std::vector<int>& columns : x_.kernel_index) {
      phase_taps_.back().push_back(total_taps_);
      total_taps_ += static_cast<int64_t>(rows.size() * columns.size()) * in_channels_;
    }
  }
}

void CorrelationPlan::set_classes_and_tiles() {
  using Key = std::tuple<int, int, int, int, int, int>;
  std::map<Key, int> class_index;
  std::vector<PixelTile> unfinished;  // one a class
  const int64_t out_width = static_cast<int64_t>(x_.points.size());
  for (size_t row = 0; row < y_.points.size(); ++row) {
    for (size_t column = 0; column < x_.points.size(); ++column) {
      const AxisPoint& y = y_.points[row];
      const AxisPoint& x = x_.points[column];
      const Key key{y.phase, y.first_tap, y.taps, x.phase, x.first_tap, x.taps};
      const auto [entry, added] = class_index.emplace(key, static_cast<int>(classes_.size()));
      if (added) {
        const int64_t row_step =
            static_cast<int64_t>(x_.kernel_index[static_cast<size_t>(x.phase)].size()) *
            in_channels_;
        const int64_t base =
            phase_taps_[static_cast<size_t>(y.phase)][static_cast<size_t>(x.phase)];
        classes_.push_back({base + y.first_tap * row_step + x.first_tap * in_channels_,
                            x.taps == 0 ? 0 : y.taps, x.taps * in_channels_, row_step});
        unfinished.push_back({.tap_class = entry->second});
      }
      PixelTile& tile = unfinished[static_cast<size_t>(entry->second)];
      tile.input[tile.count] = (y.input * in_width_ + x.input) * in_channels_ * lanes_;
      tile.output[tile.count] =
          (static_cast<int64_t>(row) * out_width + static_cast<int64_t>(column)) * out_channels_ *
          lanes_;
      if (++tile.count == kTilePixels) {
        tiles_.push_back(tile);
        tile = {.tap_class = entry->second};
      }
    }
  }
  full_tiles_ = static_cast<int64_t>(tiles_.size());
  for (const PixelTile& tile : unfinished) {
    if (tile.count > 0) tiles_.push_back(tile);
  }
}

void CorrelationPlan::pack_panel(const float* kernel, int channel, int width, float* panel) const {
  for (const std::vector<int>& rows : y_.kernel_index) {
    for (const std::vector<int>& columns : x_.kernel_index) {
      for (const int kh : rows) {
        for (const int kw : columns) {
          const float* tap =
              kernel + (int64_t{kh} * op_.kernel_width + kw) * op_.in_channels * op_.out_channels;
          // Of kernel[kh][kw][in][out] one index is summed over, the other is the panel's.
          const int64_t summed = data_gradient_ ? 1 : op_.out_channels;
          const int64_t kept = data_gradient_ ? op_.out_channels : 1;
          for (int64_t in = 0; in < in_channels_; ++in) {
            for (int c = 0; c < width; ++c) *panel++ = tap[in * summed + (channel + c) * kept];
          }
        }
      }
    }
  }
}

void CorrelationPlan::pack(const float* kernel, float* panels) const {
  int channel = 0;
  for (const int width : panel_channels_) {
    pack_panel(kernel, channel, width, panels + channel * total_taps_);
    channel += width;
  }
}

CorrelationArgs CorrelationPlan::args(int64_t row_blocks) const {
  CorrelationArgs args;
  args.classes = classes_.data();
  args.tiles = tiles_.data();
  args.full_tiles = full_tiles_;
  args.all_tiles = static_cast<int64_t>(tiles_.size());
  args.panel_channels = panel_channels_.data();
  args.panel_count = static_cast<int>(panel_channels_.size());
  args.total_taps = total_taps_;
  args.input_row = in_width_ * in_channels_ * lanes_;
  args.input_block = in_height_ * args.input_row;
  args.output_block =
      static_cast<int64_t>(y_.points.size() * x_.points.size()) * out_channels_ * lanes_;
  args.row_blocks = row_blocks;
  return args;
}

}  // namespace lockstep::cpu
