// Every optimizer on an emulated GPU: the CPU's bits.
#include <gtest/gtest.h>

#include <algorithm>

#include "host/cpu/cpu_device.h"
#include "tests/emulated_cuda/runtime.h"
#include "tests/emulated_cuda/toy.h"
#include "tests/optim/optimizer_steps.h"

namespace lockstep {
namespace {

class EmulatedOptimizers : public testing::TestWithParam<std::string> {};

TEST_P(EmulatedOptimizers, StepAsOnTheCpu) {
  const nlohmann::json& golden = optimizer_golden::golden_file().at("optimizers").at(GetParam());
  const Optimizer optimizer = Optimizer::create(golden.at("config")).value();
  const auto cpu = make_cpu_device("cpu-avx2").value();
  cpu->attach_thread();
  optimizer_golden::State expected(*cpu, optimizer, golden);
  for (int64_t t = 1; t <= optimizer_golden::golden_file().at("steps"); ++t) {
    expected.step(optimizer, t, nullptr);
  }
  for (const uint64_t seed : {1, 2}) {
    emulated::Machine machine({.seed = seed});
    const auto gpu = make_cuda_device(0, "cuda-fp32").value();
    gpu->attach_thread();
    optimizer_golden::State found(*gpu, optimizer, golden);
    for (int64_t t = 1; t <= optimizer_golden::golden_file().at("steps"); ++t) {
      found.step(optimizer, t, nullptr);
    }
    for (size_t i = 0; i <= optimizer.slots().size(); ++i) {
      EXPECT_EQ(found.copy(i), expected.copy(i)) << "vector " << i;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(cases, EmulatedOptimizers,
                         testing::ValuesIn(optimizer_golden::case_names()),
                         [](const auto& name) { return name.param; });

}  // namespace
}  // namespace lockstep
