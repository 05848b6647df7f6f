// The chains of host/cpu/pins.h, term by term in scalar arithmetic: the same bits.
#include "host/cpu/pins.h"

#include <algorithm>
#include <cmath>

#include "tests/cpu/cpu_test_support.h"

namespace lockstep::cpu_test {
namespace {

// One chain over products, in blocks of kChainBlock terms where `blocks`.
class Chain {
 public:
  explicit Chain(bool blocks) : blocks_(blocks) {}
  void add(float a, float b) {
    if (blocks_ && terms_ == cpu::kChainBlock) end_block();
    block_ = std::fma(a, b, block_);
    ++terms_;
  }
  float sum() {
    end_block();
    return total_;
  }

 private:
  void end_block() {
    total_ = has_total_ ? total_ + block_ : block_;
    has_total_ = true;
    block_ = -0.0f;
    terms_ = 0;
  }
  bool blocks_, has_total_ = false;
  int terms_ = 0;
  float block_ = -0.0f, total_ = -0.0f;
};

float relu(float x) { return 0 > x ? 0 : x; }

Floats dense_chains(const DenseOp& op, const Floats& input, const Floats& weights) {
  const bool forward = op.pass == Pass::forward;
  const int64_t outs = forward ? op.out_features : op.in_features;
  const int64_t ins = forward ? op.in_features : op.out_features;
  Floats output;
  for (int64_t o = 0; o < outs; ++o) {
    Chain chain(true);
    for (int64_t i = 0; i < ins; ++i) {
      const int64_t at = forward ? i * op.out_features + o : o * op.out_features + i;
      chain.add(weights[static_cast<size_t>(at)], input[static_cast<size_t>(i)]);
    }
    const float sum = chain.sum();
    output.push_back(forward ? relu(sum + weights[static_cast<size_t>(op.bias_offset + o)]) : sum);
  }
  return output;
}

// y (forward) or dx (data gradient) of one row, each in the pinned order of its terms.
Floats conv_chains(const Conv2dOp& op, const Floats& input, const Floats& weights) {
  const bool forward = op.pass == Pass::forward;
  const int height = forward ? op.out_height : op.in_height;
  const int width = forward ? op.out_width : op.in_width;
  const int channels = forward ? op.out_channels : op.in_channels;
  const int other_height = forward ? op.in_height : op.out_height;
  const int other_width = forward ? op.in_width : op.out_width;
  const int other_channels = forward ? op.in_channels : op.out_channels;
  Floats output;
  for (int i = 0; i < height * width * channels; ++i) {
    const int y = i / channels / width, x = i / channels % width, c = i % channels;
    Chain chain(false);
    // (kh, kw, ci) ascending is (iy, ix, ci) ascending, for dx it is (oy, ox, co).
    for (int j = 0; j < other_height * other_width * other_channels; ++j) {
      const int b = j / other_channels / other_width, a = j / other_channels % other_width;
      const int d = j % other_channels;
      const int oy = forward ? y : b, ox = forward ? x : a;
      const int kh = (forward ? b : y) + op.pad_top - oy * op.stride_height;
      const int kw = (forward ? a : x) + op.pad_left - ox * op.stride_width;
      if (kh < 0 || kh >= op.kernel_height || kw < 0 || kw >= op.kernel_width) continue;
      const int in = forward ? d : c, out = forward ? c : d;
      const int64_t at = op.kernel_offset +
                         ((kh * op.kernel_width + kw) * op.in_channels + in) * op.out_channels +
                         out;
      chain.add(weights[static_cast<size_t>(at)], input[static_cast<size_t>(j)]);
    }
    const float sum = chain.sum();
    output.push_back(forward ? sum + weights[static_cast<size_t>(op.bias_offset + c)] : sum);
  }
  return output;
}

const PartitionGroup kOneRow{.first = 0, .rows = {1}};

TEST(Pins, DenseChains) {
  const std::unique_ptr<Device> device = make_device();
  for (const Pass pass : {Pass::forward, Pass::data_gradient}) {
    const DenseOp op{.pass = pass,
                     .in_features = 600,
                     .out_features = 515,
                     .activation = Activation::relu,
                     .bias_offset = 600 * 515};
    const OpCase c = dense_case(op);
    const Floats input = random_floats(1, c.inputs[0]), weights = random_floats(2, c.parameters);
    const Floats output = OpRunner(*device).run(c, kOneRow, {input}, weights).output;
    EXPECT_EQ(first_difference(output, dense_chains(op, input, weights)), "none");
  }
}

TEST(Pins, ConvolutionChains) {
  const std::unique_ptr<Device> device = make_device();
  for (const Pass pass : {Pass::forward, Pass::data_gradient}) {
    for (const int stride : {1, 2, 3}) {
      for (const bool same : {false, true}) {
        const Conv2dOp op = conv(7, 3, 5, 3, stride, same, pass);
        const OpCase c = conv_case(op);
        const Floats input = random_floats(3, c.inputs[0]);
        const Floats weights = random_floats(4, c.parameters);
        const Floats output = OpRunner(*device).run(c, kOneRow, {input}, weights).output;
        EXPECT_EQ(first_difference(output, conv_chains(op, input, weights)), "none") << c.name;
      }
    }
  }
}

// Each weight of one row sums over the output pixels in order.
TEST(Pins, ConvolutionWeightChains) {
  const std::unique_ptr<Device> device = make_device();
  const Conv2dOp op = conv(8, 2, 3, 3, 2, true, Pass::weight_gradient);
  const OpCase c = conv_case(op);
  const std::vector<Floats> inputs = random_inputs(c, 1, 5);
  PartitionGroup group = kOneRow;
  group.roots = {{0, 0}};
  const Floats root = OpRunner(*device).run(c, group, inputs, {}).roots[0];
  for (int i = 0; i < 3 * 3 * 2 * 3; ++i) {
    const int kh = i / 18, kw = i / 6 % 3, in = i / 3 % 2, out = i % 3;
    Chain chain(false);
    for (int j = 0; j < op.out_height * op.out_width; ++j) {
      const int y = j / op.out_width * 2 + kh - op.pad_top;
      const int x = j % op.out_width * 2 + kw - op.pad_left;
      if (y < 0 || y >= op.in_height || x < 0 || x >= op.in_width) continue;
      chain.add(inputs[0][static_cast<size_t>((y * op.in_width + x) * 2 + in)],
                inputs[1][static_cast<size_t>(j * 3 + out)]);
    }
    ASSERT_EQ(root[static_cast<size_t>(op.kernel_offset + i)], chain.sum()) << i;
  }
}

}  // namespace
}  // namespace lockstep::cpu_test
