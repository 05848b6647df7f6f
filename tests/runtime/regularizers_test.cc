// Regularizers and constraints against Keras, and the same bits on any number of devices.
#include <gtest/gtest.h>

#include "host/cpu/cpu_device.h"
#include "host/runtime/penalties.h"
#include "tests/runtime/regularizer_case.h"

namespace lockstep {
namespace {

std::unique_ptr<Device> make_device() { return make_cpu_device("cpu-avx2").value(); }

class Regularizers : public testing::TestWithParam<std::string> {};

TEST_P(Regularizers, TrainAsKerasTrainsOnAnyNumberOfDevices) {
  const DeviceFactory factory = [](int) { return make_cpu_device("cpu-avx2"); };
  const auto one = golden::RegularizerCase(GetParam()).check(1, factory, true);
  EXPECT_EQ(one.size(), 3u);
  for (const int devices : {2, 3}) {
    EXPECT_EQ(golden::RegularizerCase(GetParam()).check(devices, factory, true), one)
        << devices << " devices";
  }
}

INSTANTIATE_TEST_SUITE_P(cases, Regularizers, testing::ValuesIn(golden::regularizer_cases()),
                         [](const auto& name) { return name.param; });

// Several blocks, cut across parameters.
TEST(Penalties, AreTheSumsOfTheirBlocks) {
  Graph graph;
  std::vector<float> weights;
  double expected = 0;
  for (const int64_t count : {7, 100, 33}) {
    Parameter parameter;
    parameter.shape = {count};
    parameter.offset = graph.parameter_count;
    parameter.gradient_offset = graph.parameter_count;
    parameter.regularizer = {{"class_name", "L1L2"}, {"config", {{"l1", 0.5}, {"l2", 0.25}}}};
    graph.parameters.push_back(parameter);
    graph.parameter_count += count;
  }
  for (int64_t i = 0; i < graph.parameter_count; ++i) {
    weights.push_back(static_cast<float>(i % 5) - 2);
    expected += 0.5 * std::abs(weights.back()) + 0.25 * weights.back() * weights.back();
  }
  const auto device = make_device();
  for (const int64_t block : {16, 64, 1000}) {
    const Penalties penalties(graph, block);
    std::vector<float> scratch(static_cast<size_t>(penalties.scratch_size()));
    std::vector<float> gradient(weights.size(), 1.0f);
    double sum = 0;
    for (int64_t b = 0; b < penalties.blocks(); ++b) {
      sum += penalties.value(*device, b, weights.data(), scratch.data()).value();
      ASSERT_TRUE(penalties.add_gradient(*device, b, weights.data(), gradient.data()).ok());
    }
    EXPECT_EQ(sum, expected) << block;  // all of these are exact
    for (size_t i = 0; i < weights.size(); ++i) {
      const float sign = weights[i] > 0 ? 1.0f : weights[i] < 0 ? -1.0f : 0.0f;
      EXPECT_EQ(gradient[i], 1 + 0.5f * sign + 0.5f * weights[i]);
    }
  }
}

}  // namespace
}  // namespace lockstep
