// The devices on which the tests of graphs and models run.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "cuda/cuda_device.h"
#include "host/core/check.h"
#include "host/cpu/cpu_device.h"
#include "tests/nn/naive_device.h"

namespace lockstep {

inline std::vector<std::string> test_device_names() {
  std::vector<std::string> names = {"naive", "naive-separate", "cpu-avx2", "cpu-avx512"};
  if (cuda_device_count() > 0) names.push_back("cuda-fp32");
  return names;
}

// nullptr where this machine cannot run it: GTEST_SKIP then.
inline std::unique_ptr<Device> make_test_device(const std::string& name) {
  if (name == "naive") return std::make_unique<naive::NaiveDevice>();
  if (name == "naive-separate") return std::make_unique<naive::NaiveDevice>(true);
  if (name.rfind("cuda-", 0) == 0) {
    auto gpu = make_cuda_device(0, name);
    LOCKSTEP_CHECK(gpu.ok());
    return std::move(gpu).value();
  }
  if (!cpu_supports(name)) return nullptr;
  auto device = make_cpu_device(name);
  LOCKSTEP_CHECK(device.ok());
  (*device)->attach_thread();
  return std::move(device).value();
}

}  // namespace lockstep
