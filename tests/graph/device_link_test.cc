// Links between the GPUs of this machine. One GPU is linked with itself alone: no more can be seen.
#include <gtest/gtest.h>

#include <vector>

#include "tests/cuda/link_tasks.h"

namespace lockstep {
namespace {

TEST(DeviceLink, EachGpuGetsTheSumOfAll_cuda) {
  const int devices = cuda_device_count();
  if (devices == 0) GTEST_SKIP() << "skipped: no GPU";
  std::vector<std::vector<float>> results;
  for (const Status& status : sum_on(devices, &results)) {
    ASSERT_TRUE(status.ok()) << status.error().message;
  }
  for (const auto& result : results) EXPECT_EQ(result, expected_sum(devices));
}

TEST(DeviceLink, AddsForEachGpu_cuda) {
  const int devices = cuda_device_count();
  if (devices == 0) GTEST_SKIP() << "skipped: no GPU";
  std::vector<std::vector<float>> results;
  for (const Status& status : reduce_on(devices, &results)) {
    ASSERT_TRUE(status.ok()) << status.error().message;
  }
  for (const auto& result : results) EXPECT_EQ(result, expected_sum(devices));
}

}  // namespace
}  // namespace lockstep
