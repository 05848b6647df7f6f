#include "host/runtime/replica.h"

#include <gtest/gtest.h>

#include <bit>
#include <cstring>

#include "host/cpu/cpu_device.h"
#include "host/job/options.h"
#include "models/models.h"

namespace lockstep {
namespace {

constexpr int64_t kSteps = 3;

struct Trace {
  std::vector<uint64_t> digests;  // after each step
  uint64_t last_of_memory = 0;
  uint64_t last_without_digests = 0;
  std::vector<float> weights;
};

class ReplicaDigest : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    nlohmann::json options = default_values(job_options());
    options["model"] = "lenet";
    options["data"] = "digits:64";
    options["optimizer"] = GetParam();
    job_ = job_from_options(options).value();
    data_ = load_dataset(job_.data, Split::train).value();
    job_.input_shape = data_.row_shape;
    job_.classes = data_.classes;
    job_.train_rows = data_.rows();
  }

  std::unique_ptr<Replica> make_replica(int devices) {
    const auto model = build_model(job_.model, job_.input_shape, job_.classes).value();
    return Replica::create(job_, *model, devices, [](int) { return make_cpu_device("cpu-avx2"); })
        .value();
  }

  void step(Replica& replica, bool digests) {
    const PartitionRange all{0, job_.partitions};
    const auto ranges = replica.device_ranges(all);
    const int64_t step = replica.state().step;
    BatchLoader loader(data_, {{0, data_.rows()}, job_.batch_size, job_.partitions, 0, true});
    const int64_t steps = job_.steps_per_epoch();
    const auto batches = loader.take({step / steps, step % steps, ranges});
    const auto roots = replica.take_roots(step, ranges, true);
    ASSERT_TRUE(roots.ok());
    ASSERT_TRUE(replica.compute(step, ranges, batches, [](int64_t, int64_t) {}).ok());
    ASSERT_TRUE(replica.update(nullptr, *roots, digests).ok());
  }

  Trace run(int devices) {
    const auto replica = make_replica(devices);
    Trace trace;
    for (int64_t t = 0; t < kSteps; ++t) {
      step(*replica, true);
      trace.digests.push_back(replica->state().digest);
    }
    trace.last_of_memory = replica->state_digest().value();
    step(*replica, false);
    trace.last_without_digests = replica->state().digest;
    trace.weights.assign(replica->state().weights.begin(), replica->state().weights.end());
    return trace;
  }

  Job job_;
  Dataset data_;
};

TEST_P(ReplicaDigest, IsTheSameForAnyNumberOfDevices) {
  const Trace alone = run(1);
  EXPECT_NE(alone.digests[0], alone.digests[1]);
  EXPECT_EQ(alone.last_of_memory, alone.digests.back());
  EXPECT_EQ(alone.last_without_digests, 0u);
  for (const int devices : {2, 3}) {
    const Trace shared = run(devices);
    EXPECT_EQ(shared.digests, alone.digests) << devices << " devices";
    EXPECT_EQ(shared.last_of_memory, alone.last_of_memory) << devices << " devices";
    EXPECT_EQ(shared.weights, alone.weights) << devices << " devices";
  }
}

TEST_P(ReplicaDigest, SeesABitAnywhere) {
  const auto replica = make_replica(2);
  step(*replica, true);
  const uint64_t digest = replica->state().digest;
  std::vector<std::span<float>> vectors = replica->state().slots;
  vectors.push_back(replica->state().weights);
  for (const std::span<float> values : vectors) {
    for (const size_t i : {size_t{0}, size_t{4095}, size_t{4096}, values.size() - 1}) {
      for (const int bit : {0, 22, 31}) {
        const float before = values[i];
        values[i] = std::bit_cast<float>(std::bit_cast<uint32_t>(before) ^ (1u << bit));
        EXPECT_NE(replica->state_digest().value(), digest);
        values[i] = before;
      }
    }
  }
  EXPECT_EQ(replica->state_digest().value(), digest);
}

INSTANTIATE_TEST_SUITE_P(optimizers, ReplicaDigest, testing::Values("adam", "sgd"),
                         [](const auto& name) { return name.param; });

}  // namespace
}  // namespace lockstep
