// Regularizers and constraints on emulated GPUs: Keras' numbers, the same bits on 1 and 2.
#include <gtest/gtest.h>

#include "tests/emulated_cuda/runtime.h"
#include "tests/emulated_cuda/toy.h"
#include "tests/runtime/regularizer_case.h"

namespace lockstep {
namespace {

class EmulatedRegularizers : public testing::TestWithParam<std::string> {};

TEST_P(EmulatedRegularizers, TrainAsKerasTrains) {
  LOCKSTEP_CUDNN_OR_SKIP();
  std::vector<uint64_t> one;
  for (const int devices : {1, 2}) {
    emulated::Machine machine({.devices = devices, .seed = static_cast<uint64_t>(devices)});
    const auto digests =
        golden::RegularizerCase(GetParam())
            .check(
                devices, [](int index) { return make_cuda_device(index, "cuda-fp32"); },
                devices == 1);
    if (devices == 1) one = digests;
    EXPECT_EQ(digests, one);
  }
}

INSTANTIATE_TEST_SUITE_P(cases, EmulatedRegularizers,
                         testing::ValuesIn(golden::regularizer_cases()),
                         [](const auto& name) { return name.param; });

}  // namespace
}  // namespace lockstep
