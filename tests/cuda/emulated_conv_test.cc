// Our own convolutions for layers of few channels, compiled as C++: near the CPU's, and the same
// bits whatever the tile and the order of threads and blocks.
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "cuda/kernels_conv.h"
#include "tests/cpu/cpu_test_support.h"
#include "tests/emulated_cuda/memory.h"
#include "tests/emulated_cuda/runtime.h"

namespace lockstep {
namespace {

using cpu_test::Floats;
using cpu_test::OpCase;
using emulated::Machine;
using emulated::TestGpu;

constexpr uint64_t kSeeds = 2;

void expect_near(const Floats& found, const Floats& expected, const std::string& what) {
  ASSERT_EQ(found.size(), expected.size()) << what;
  for (size_t i = 0; i < found.size(); ++i) {
    ASSERT_NEAR(found[i], expected[i], 1e-4 * (1 + std::fabs(expected[i]))) << what << ", " << i;
  }
}

// Those that are small enough; a third has many rows.
std::vector<std::pair<OpCase, int>> small_cases(bool weight_gradients) {
  std::vector<std::pair<OpCase, int>> cases;
  const auto all = weight_gradients ? cpu_test::weight_gradient_cases() : cpu_test::forward_cases();
  for (const OpCase& c : all) {
    const auto* op = std::get_if<Conv2dOp>(&c.attributes);
    const int rows = cases.size() % 3 == 0 ? 9 : 2;
    if (op != nullptr && small_conv_suits(*op, rows)) cases.emplace_back(c, rows);
  }
  return cases;
}

class EmulatedConv : public testing::Test {
 protected:
  cpu_test::OpResult on_cpu(const OpCase& c, int rows, const std::vector<Floats>& inputs,
                            const Floats& weights) {
    const PartitionGroup group{0, {rows}, {{0, 0}}};
    return cpu_test::OpRunner(*cpu_).run(c, group, inputs, weights);
  }

  Machine machine_;
  TestGpu gpu_;
  std::unique_ptr<Device> cpu_ = cpu_test::make_device();
};

// The weights lie at an odd offset: aligned to 4 bytes and no more.
TEST_F(EmulatedConv, ForwardAndDataGradient) {
  for (const auto& [c, rows] : small_cases(false)) {
    const auto& op = std::get<Conv2dOp>(c.attributes);
    const auto inputs = cpu_test::random_inputs(c, rows, 3);
    const Floats weights = cpu_test::random_floats(8, c.parameters);
    const Floats expected = on_cpu(c, rows, inputs, weights).output;
    Floats first;
    for (uint64_t seed = 1; seed <= kSeeds; ++seed) {
      machine_.set_seed(seed);
      for (const ConvTile& tile :
           {conv_tile(op, rows), ConvTile{4, 1, 64}, ConvTile{4, 2, 128}, ConvTile{4, 4, 32}}) {
        const float* in = gpu_.upload(inputs[0]);
        const float* parameters = gpu_.upload(weights, 1);
        const float* kernel = parameters + op.kernel_offset;
        const float* mask = c.relu_mask ? gpu_.upload(inputs.back()) : nullptr;
        float* out = gpu_.allocate<float>(expected.size());
        const float* bias = op.bias_offset < 0 ? nullptr : parameters + op.bias_offset;
        const Status status =
            op.pass == Pass::forward
                ? launch_conv(op, tile, rows, in, kernel, bias, out, gpu_.stream())
                : launch_conv_data_gradient(op, tile, rows, in, kernel, mask, out, gpu_.stream());
        ASSERT_TRUE(status.ok()) << status.error().message;
        const Floats found = gpu_.download(out, expected.size());
        expect_near(found, expected, c.name);
        if (first.empty()) first = found;
        ASSERT_TRUE(cpu_test::same_bits(found, first)) << c.name << ", seed " << seed;
        gpu_.release();
      }
    }
    if (HasFatalFailure()) return;
  }
}

TEST_F(EmulatedConv, WeightGradient) {
  for (const auto& [c, rows] : small_cases(true)) {
    const auto& op = std::get<Conv2dOp>(c.attributes);
    const auto inputs = cpu_test::random_inputs(c, rows, 3);
    const Floats expected = on_cpu(c, rows, inputs, {}).roots[0];
    const auto plan = plan_conv_gradient(op, rows);
    const auto scratch_floats = static_cast<size_t>(conv_gradient_scratch(op, plan));
    Floats first;
    for (uint64_t seed = 1; seed <= kSeeds; ++seed) {
      machine_.set_seed(seed);
      float* root = gpu_.allocate<float>(expected.size(), 1);
      float* bias = op.bias_offset < 0 ? nullptr : root + op.bias_offset;
      const Status status = launch_conv_weight_gradient(
          op, plan, rows, gpu_.upload(inputs[0]), gpu_.upload(inputs[1]),
          gpu_.allocate<float>(scratch_floats + 1), root + op.kernel_offset, bias, gpu_.stream());
      ASSERT_TRUE(status.ok()) << status.error().message;
      Floats found = gpu_.download(root, expected.size());
      for (size_t i = 0; i < found.size(); ++i) {
        ASSERT_EQ(std::isnan(found[i]), std::isnan(expected[i])) << c.name << ", element " << i;
        if (std::isnan(found[i])) found[i] = 0;  // no part of the op's
      }
      Floats near = expected;
      for (float& value : near) value = std::isnan(value) ? 0 : value;
      expect_near(found, near, c.name);
      if (first.empty()) first = found;
      ASSERT_TRUE(cpu_test::same_bits(found, first)) << c.name << ", seed " << seed;
      gpu_.release();
    }
    if (HasFatalFailure()) return;
  }
}

}  // namespace
}  // namespace lockstep
