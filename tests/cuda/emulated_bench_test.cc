// What `lockstep bench` measures, on emulated GPUs: that it runs, and measures what it says.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "cuda/cuda_device.h"
#include "host/job/options.h"
#include "host/runtime/device_bench.h"
#include "models/models.h"
#include "tests/emulated_cuda/runtime.h"

namespace lockstep {
namespace {

using emulated::Machine;

constexpr int64_t kMeasured = 4, kWarmUp = 3;

struct Bench {
  uint64_t digest = 0;
  int64_t replays = 0, sums = 0;
};

Bench bench(const std::string& numerics, int devices, const CudaOptions& options,
            const char* exact = "on") {
  Machine machine({.devices = devices});
  nlohmann::json values = default_values(job_options());
  values.update({{"model", "mlp"},
                 {"data", "random"},
                 {"batch_size", 16},
                 {"partitions", 4},
                 {"numerics", numerics},
                 {"exact", exact},
                 {"epochs", 1000}});
  Job job = job_from_options(values).value();
  const Dataset data = random_dataset({4, 4, 1}, 8 * job.batch_size);
  job.input_shape = data.row_shape;
  job.classes = data.classes;
  job.train_rows = data.rows();
  const auto model = build_model(job.model, job.input_shape, job.classes).value();
  const auto replica = Replica::create(job, *model, devices, [&](int index) {
                         return make_cuda_device(index, numerics, options);
                       }).value();
  const auto seconds = measure_steps(*replica, job, data, kMeasured, true);
  EXPECT_TRUE(seconds.ok()) << seconds.error().message;
  EXPECT_GT(seconds->update, 0);
  EXPECT_GT(seconds->step, seconds->update);
  EXPECT_EQ(replica->state().step, kMeasured + kWarmUp);
  return {replica->state().digest, machine.calls("cudaGraphLaunch"),
          machine.calls("ncclAllReduce")};
}

TEST(EmulatedBench, StepsByGraphsAndOneByOneHaveTheSameBits) {
  const Bench replayed = bench("cuda-fp32", 1, {});
  const Bench plain = bench("cuda-fp32", 1, {.replays = false});
  EXPECT_EQ(replayed.replays, kMeasured + kWarmUp - 1);
  EXPECT_EQ(plain.replays, 0);
  EXPECT_EQ(plain.digest, replayed.digest);
}

TEST(EmulatedBench, ExactAndFast) {
  EXPECT_EQ(bench("cuda-bf16", 2, {}).sums, 0);
  EXPECT_EQ(bench("cuda-bf16", 2, {}, "off").sums, 2 * (kMeasured + kWarmUp));
}

TEST(EmulatedBench, Links) {
  for (const int devices : {1, 2, 4}) {
    for (const bool has_nccl : {true, false}) {
      Machine machine({.devices = devices, .has_nccl = has_nccl});
      const auto team = DeviceTeam::create(devices, [](int index) {
                          return make_cuda_device(index, "cuda-fp32");
                        }).value();
      const auto speed = measure_links(*team, 1000, 3);
      ASSERT_EQ(speed.ok(), devices > 1 && has_nccl);
      if (!speed.ok()) continue;
      EXPECT_GT(speed->all_gather_bytes, 0);
      EXPECT_GT(speed->all_reduce_bytes, 0);
      EXPECT_EQ(machine.calls("ncclAllGather"), devices * 4);
      EXPECT_EQ(machine.calls("ncclAllReduce"), devices * 4);
    }
  }
}

}  // namespace
}  // namespace lockstep
