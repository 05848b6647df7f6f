// Convolutions with groups or dilation.
#include <algorithm>
#include <cstring>
#include <vector>

#include "host/cpu/lane_sums.h"
#include "host/cpu/prepared_ops.h"

namespace lockstep::cpu {
namespace {

// Kernel place k of output o meets this input; it may be outside of the image.
struct TapAxis {
  int in = 0, out = 0, kernel = 0, stride = 0, pad = 0, dilation = 0;
  int input(int o, int k) const { return o * stride + k * dilation - pad; }
  bool is_inside(int i) const { return 0 <= i && i < in; }
  // The output that meets input i at place k, or -1.
  int output(int i, int k) const {
    const int from = i + pad - k * dilation;
    return from >= 0 && from % stride == 0 && from / stride < out ? from / stride : -1;
  }
};
TapAxis rows_of(const Conv2dOp& op) {
  return {op.in_height,     op.out_height, op.kernel_height,
          op.stride_height, op.pad_top,    op.dilation_height};
}
TapAxis columns_of(const Conv2dOp& op) {
  return {op.in_width,     op.out_width, op.kernel_width,
          op.stride_width, op.pad_left,  op.dilation_width};
}

// (place in the kernel, coordinate of the other image) by rising coordinate, for each coordinate.
struct AxisTap {
  int place = 0, at = 0;
};
std::vector<std::vector<AxisTap>> taps_of(const TapAxis& axis, bool data_gradient) {
  std::vector<std::vector<AxisTap>> taps(static_cast<size_t>(data_gradient ? axis.in : axis.out));
  for (size_t i = 0; i < taps.size(); ++i) {
    const int at = static_cast<int>(i);
    for (int n = 0; n < axis.kernel; ++n) {
      const int k = data_gradient ? axis.kernel - 1 - n : n;
      const int other = data_gradient ? axis.output(at, k) : axis.input(at, k);
      if (data_gradient ? other >= 0 : axis.is_inside(other)) taps[i].push_back({k, other});
    }
  }
  return taps;
}

// Forward, and the data gradient.
class TapCorrelationOp : public CpuOp {
 public:
  TapCorrelationOp(const OpSetting& setting, const Conv2dOp& op) : setting_(setting), op_(op) {
    const bool backwards = op.pass == Pass::data_gradient;
    const auto rows = taps_of(rows_of(op), backwards);
    const auto columns = taps_of(columns_of(op), backwards);
    const int64_t width = backwards ? op.out_width : op.in_width;
    const int64_t place = int64_t{op.group_inputs()} * op.out_channels;
    begin_.push_back(0);
    for (const auto& row : rows) {
      for (const auto& column : columns) {
        for (const AxisTap& y : row) {
          for (const AxisTap& x : column) {
            taps_.push_back(
                {y.at * width + x.at, (int64_t{y.place} * op.kernel_width + x.place) * place});
          }
        }
        begin_.push_back(static_cast<int64_t>(taps_.size()));
      }
    }
  }

  void run(const RunContext& context, std::span<float* const> values) override {
    TapCorrelationArgs args;
    args.input = setting_.input(0, values);
    args.weights = context.weights + op_.kernel_offset;
    args.mask = setting_.relu_mask(values);
    args.output = setting_.output(values);
    args.begin = begin_.data();
    args.taps = taps_.data();
    args.output_pixels = static_cast<int64_t>(begin_.size()) - 1;
    args.groups = op_.groups;
    args.group_step = op_.group_outputs();
    args.row_blocks = setting_.row_blocks();
    if (op_.pass == Pass::forward) {
      args.input_pixels = int64_t{op_.in_height} * op_.in_width;
      args.group_inputs = op_.group_inputs();
      args.group_outputs = op_.group_outputs();
      args.input_step = op_.out_channels;
      args.output_step = 1;
      if (op_.bias_offset >= 0) args.bias = context.weights + op_.bias_offset;
      args.relu = op_.activation == Activation::relu;
    } else {
      args.input_pixels = int64_t{op_.out_height} * op_.out_width;
      args.group_inputs = op_.group_outputs();
      args.group_outputs = op_.group_inputs();
      args.input_step = 1;
      args.output_step = op_.out_channels;
    }
    setting_.kernels->correlate_taps(args);
  }

 private:
  OpSetting setting_;
  Conv2dOp op_;
  std::vector<int64_t> begin_;
  std::vector<ConvTap> taps_;
};

constexpr int64_t kBlockSums = 8192;  // of a place's weights that are summed at a time

class TapGradientOp : public CpuOp {
 public:
  TapGradientOp(const OpSetting& setting, const Conv2dOp& op)
      : setting_(setting),
        op_(op),
        block_inputs_(std::clamp<int64_t>(kBlockSums / op.out_channels, 1, op.group_inputs())),
        weights_(*setting.kernels, setting.group, block_inputs_ * op.out_channels),
        biases_(*setting.kernels, setting.group, op.out_channels) {
    const TapAxis rows = rows_of(op), columns = columns_of(op);
    for (int kh = 0; kh < op.kernel_height; ++kh) {
      for (int kw = 0; kw < op.kernel_width; ++kw) {
        std::vector<PixelPair> pairs;
        for (int oy = 0; oy < op.out_height; ++oy) {
          const int iy = rows.input(oy, kh);
          if (!rows.is_inside(iy)) continue;
          for (int ox = 0; ox < op.out_width; ++ox) {
            const int ix = columns.input(ox, kw);
            if (!columns.is_inside(ix)) continue;
            pairs.push_back({int64_t{iy} * op.in_width + ix, int64_t{oy} * op.out_width + ox});
          }
        }
        pairs_.push_back(std::move(pairs));
      }
    }
  }

  int64_t work_floats() const override {
    return std::max(weights_.lane_floats(), biases_.lane_floats());
  }
  void run(const RunContext& context, std::span<float* const> values) override {
    sums_ = static_cast<float*>(context.work);
    const float* dy = setting_.input(1, values);
    for (size_t place = 0; place < pairs_.size(); ++place) {
      for (int64_t in = 0; in < op_.group_inputs(); in += block_inputs_) {
        const int64_t end = std::min<int64_t>(in + block_inputs_, op_.group_inputs());
        sum_block(place, in, end, setting_.input(0, values), dy);
        const int64_t first = static_cast<int64_t>(place) * op_.group_inputs() + in;
        copy_roots(context, weights_, op_.kernel_offset + first * op_.out_channels,
                   (end - in) * op_.out_channels);
      }
    }
    if (op_.bias_offset < 0) return;
    sum_bias(dy);
    copy_roots(context, biases_, op_.bias_offset, op_.out_channels);
  }

 private:
  void sum_block(size_t place, int64_t in, int64_t end, const float* x, const float* dy) {
    const int64_t lanes = setting_.kernels->lanes;
    TapGradientArgs args;
    args.sums = sums_;
    args.pairs = pairs_[place].data();
    args.pair_count = static_cast<int64_t>(pairs_[place].size());
    args.groups = op_.groups;
    args.group_inputs = op_.group_inputs();
    args.group_outputs = op_.group_outputs();
    args.in_begin = in;
    args.in_end = end;
    for (int64_t block = 0; block < setting_.row_blocks(); ++block) {
      args.x = x + block * op_.in_height * op_.in_width * op_.in_channels * lanes;
      args.dy = dy + block * op_.out_height * op_.out_width * op_.out_channels * lanes;
      setting_.kernels->tap_weight_gradient(args);
      weights_.add(block, sums_);
    }
  }

  void sum_bias(const float* dy) {
    ConvBiasArgs args;
    args.sums = sums_;
    args.pixels = int64_t{op_.out_height} * op_.out_width;
    args.channels = op_.out_channels;
    for (int64_t block = 0; block < setting_.row_blocks(); ++block) {
      args.dy = dy + block * args.pixels * args.channels * setting_.kernels->lanes;
      setting_.kernels->conv_bias_gradient(args);
      biases_.add(block, sums_);
    }
  }

  static void copy_roots(const RunContext& context, const LaneSums& sums, int64_t offset,
                         int64_t count) {
    for (size_t i = 0; i < context.roots.size(); ++i) {
      if (!sums.present(static_cast<int>(i))) continue;
      std::memcpy(context.roots[i] + offset, sums.root(static_cast<int>(i)),
                  static_cast<size_t>(count) * sizeof(float));
    }
  }

  OpSetting setting_;
  Conv2dOp op_;
  int64_t block_inputs_;
  LaneSums weights_, biases_;
  float* sums_ = nullptr;                      // in lanes
  std::vector<std::vector<PixelPair>> pairs_;  // of each kernel place, by rising output pixel
};

}  // namespace

std::unique_ptr<CpuOp> prepare_tap_conv(const OpSetting& setting, const Conv2dOp& op) {
  if (op.pass == Pass::weight_gradient) return std::make_unique<TapGradientOp>(setting, op);
  return std::make_unique<TapCorrelationOp>(setting, op);
}

}  // namespace lockstep::cpu
