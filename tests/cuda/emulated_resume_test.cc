// A job that is not exact, on emulated GPUs, whose coordinator dies: it goes on, if not to the same
// bits.
#include <gtest/gtest.h>

#include <cstring>
#include <mutex>
#include <nlohmann/json.hpp>
#include <thread>
#include <vector>

#include "cuda/cuda_device.h"
#include "host/core/file_system.h"
#include "host/job/options.h"
#include "host/job/recipe.h"
#include "host/nn/model.h"
#include "host/runtime/coordinator_runtime.h"
#include "host/runtime/node_runtime.h"
#include "host/runtime/state_file.h"
#include "host/train/resolve.h"
#include "rpc/network.h"
#include "tests/emulated_cuda/runtime.h"
#include "tests/support/test_folder.h"

namespace lockstep {
namespace {

using emulated::Machine;

constexpr int kPatienceMs = 60'000;
constexpr int kEpochs = 2;

// What an emulated GPU soon has done, in two buckets.
Result<std::unique_ptr<Model>> small_model(const std::string&, const Shape& input_shape,
                                           int64_t classes) {
  auto model = std::make_unique<Model>("small", input_shape);
  model->add("Flatten")
      .add("Dense", {{"units", 24}, {"activation", "relu"}})
      .add("Dense", {{"units", classes}, {"activation", "softmax"}});
  return model;
}

// One life of the coordinator.
struct Life {
  int64_t first_step = -1;       // that was trained in it
  int64_t last_checkpoint = -1;  // durable
  CoordinatorResult result;      // of one that has seen the job's end
};

class EmulatedResume : public testing::Test {
 protected:
  void SetUp() override {
    nlohmann::json options = default_values(job_options());
    options["model"] = "mlp";
    options["data"] = "digits:64";
    options["batch_size"] = 16;
    options["partitions"] = 8;
    options["epochs"] = kEpochs;
    options["numerics"] = "cuda-fp32";
    options["exact"] = "off";
    auto resolved = resolve_job(options, small_model);
    ASSERT_TRUE(resolved.ok()) << resolved.error().message;
    resolved_ = std::move(resolved).value();
    ASSERT_FALSE(resolved_.job.exact);
    run_.checkpoint_every = {0, 2};
  }

  // The coordinator lives until the job's end or, where it `dies`, until its first checkpoint. Its
  // port, once it serves, is in port_.
  Life coordinate(const std::string& folder, bool dies, int devices = 0) {
    Life life;
    std::mutex mutex;
    const auto observe = [&](const CoordinatorAction& action) {
      const std::lock_guard lock(mutex);
      const auto* step = std::get_if<StepDone>(&action);
      if (step != nullptr && life.first_step < 0) life.first_step = step->step;
      const auto* checkpoint = std::get_if<CheckpointDone>(&action);
      if (checkpoint != nullptr) life.last_checkpoint = checkpoint->step;
    };
    const JournalOptions options{.state = folder,
                                 .recipe_sha256 = lineage_sha256(resolved_.job),
                                 .steps_per_epoch = resolved_.job.steps_per_epoch(),
                                 .metrics = MetricTable(resolved_.job)};
    const auto journal = Journal::open(files_, options).value();
    CoordinatorRuntime coordinator(observe);
    EXPECT_TRUE(coordinator.listen(*network_, {"127.0.0.1", port_}).ok());
    port_ = coordinator.port();
    const ClusterFacts facts = cluster_facts(resolved_, run_);
    const auto optimizer = Optimizer::create(resolved_.job.optimizer).value();
    coordinator.start(facts, *journal,
                      state_bytes(resolved_.graph.parameter_count,
                                  1 + std::ssize(optimizer.slots()), facts.metric_sums),
                      true);
    if (devices > 0) start_node(devices);
    const auto is_over = [&] {
      const std::lock_guard lock(mutex);
      return dies && life.last_checkpoint > 0;
    };
    for (int waited = 0; waited < kPatienceMs && !is_over(); waited += 5) {
      if (coordinator.wait_for_end(5)) break;
    }
    if (!dies) life.result = coordinator.finish(kPatienceMs);
    return life;
  }

  void start_node(int devices) {
    NodeOptions options;
    options.coordinator = {"127.0.0.1", port_};
    options.name = "node";
    options.devices = devices;
    options.coordinator_away_ms = away_ms_;
    options.available_devices = [devices](const std::string&) { return devices; };
    options.make_device = [](const std::string& numerics, int index) {
      return make_cuda_device(index, numerics, {.bucket_bytes = 1 << 16});
    };
    node_ = std::thread([this, options] {
      NodeRuntime node(options, *network_);
      node_status_ = node.run();
    });
  }
  Status end_of_node() {
    node_.join();
    return node_status_;
  }

  std::vector<float> weights_of(const Life& life) {
    EXPECT_TRUE(life.result.status.ok()) << life.result.status.error().message;
    const auto state = decode_state(life.result.state);
    EXPECT_TRUE(state.ok());
    if (!state.ok()) return {};
    EXPECT_EQ(state->header.step, kEpochs * resolved_.job.steps_per_epoch());
    std::vector<float> weights(static_cast<size_t>(state->header.parameters));
    std::memcpy(weights.data(), state->vectors[0].data(), state->vectors[0].size());
    return weights;
  }
  // Without a death, on two GPUs.
  std::vector<float> undisturbed() {
    const TestFolder folder;
    const Life life = coordinate(folder.path(), false, 2);
    EXPECT_TRUE(end_of_node().ok());
    EXPECT_EQ(life.first_step, 0);
    return weights_of(life);
  }
  static void expect_near(const std::vector<float>& found, const std::vector<float>& expected) {
    ASSERT_EQ(found.size(), expected.size());
    for (size_t i = 0; i < found.size(); ++i) ASSERT_NEAR(found[i], expected[i], 1e-3) << i;
  }

  ResolvedJob resolved_;
  RunOptions run_;
  PosixFileSystem files_;
  const std::unique_ptr<Network> network_ = make_thrift_network();
  int port_ = 0;
  int away_ms_ = kPatienceMs;
  std::thread node_;
  Status node_status_;
};

// The node waits for it, and goes on.
TEST_F(EmulatedResume, ACoordinatorThatComesBack) {
  Machine machine({.devices = 2});
  const std::vector<float> expected = undisturbed();
  port_ = 0;
  const TestFolder folder;
  const Life first = coordinate(folder.path(), true, 2);
  ASSERT_GT(first.last_checkpoint, 0);
  const Life second = coordinate(folder.path(), false);
  EXPECT_TRUE(end_of_node().ok());
  expect_near(weights_of(second), expected);
  EXPECT_GT(machine.calls("ncclAllReduce"), 0);
  EXPECT_EQ(machine.leaks(), "");
}

// All of it dies, as `train` does, and is resumed from the checkpoint, on more GPUs: sums in
// another order.
TEST_F(EmulatedResume, ARunThatDies) {
  Machine machine({.devices = 4});
  const std::vector<float> expected = undisturbed();
  port_ = 0;
  const TestFolder folder;
  away_ms_ = 1;
  const Life first = coordinate(folder.path(), true, 2);
  ASSERT_GT(first.last_checkpoint, 0);
  EXPECT_FALSE(end_of_node().ok());
  port_ = 0;
  away_ms_ = kPatienceMs;
  const Life second = coordinate(folder.path(), false, 4);
  EXPECT_TRUE(end_of_node().ok());
  EXPECT_GE(second.first_step, first.last_checkpoint);
  const std::vector<float> found = weights_of(second);
  EXPECT_NE(found, expected);
  expect_near(found, expected);
  EXPECT_EQ(machine.leaks(), "");
}

}  // namespace
}  // namespace lockstep
