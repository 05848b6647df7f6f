// The devices on which the tests of graphs and models run.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "host/core/check.h"
#include "host/cpu/cpu_device.h"
#include "tests/nn/naive_device.h"

namespace lockstep {

inline std::vector<std::string> test_device_names() { return {"naive", "cpu-avx2", "cpu-avx512"}; }

// nullptr where this machine cannot run it: GTEST_SKIP then.
inline std::unique_ptr<Device> make_test_device(const std::string& name) {
  if (name == "naive") return std::make_unique<naive::NaiveDevice>();
  if (!cpu_supports(name)) return nullptr;
  auto device = make_cpu_device(name);
  LOCKSTEP_CHECK(device.ok());
  (*device)->attach_thread();
  return std::move(device).value();
}

}  // namespace lockstep
