// The CUDA device, whole, on the emulated machine: toy models, many orders of the work.
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "host/cpu/cpu_device.h"
#include "tests/emulated_cuda/runtime.h"
#include "tests/emulated_cuda/toy.h"

#ifdef LOCKSTEP_SANITIZED
// The vendors' libraries leak at each start (see cudnn_plans_test.cc).
extern "C" int __lsan_is_turned_off() { return 1; }
#endif

namespace lockstep {
namespace {

using emulated::Machine;
using emulated::make_gpu;
using emulated::toy_batch;
using emulated::toy_dense_graph;
using emulated::toy_graph;

constexpr uint64_t kDeviceSeeds = 32;

std::vector<float> flat_on(Device& device, const Graph& graph, const HostBatch& batch,
                           int partitions) {
  TrainingStep step(device, graph);
  step.set_weights(initial_weights(graph, 5));
  return step.flat(batch, partitions);
}

void expect_near(const std::vector<float>& found, const std::vector<float>& expected) {
  ASSERT_EQ(found.size(), expected.size());
  for (size_t i = 0; i < found.size(); ++i) {
    ASSERT_NEAR(found[i], expected[i], 1e-5 + 1e-4 * std::abs(expected[i])) << i;
  }
}

void expect_the_cpus_gradients(const Graph& graph, const HostBatch& batch) {
  const auto cpu = make_cpu_device("cpu-avx2").value();
  cpu->attach_thread();
  const auto gpu = make_gpu();
  expect_near(flat_on(*gpu, graph, batch, 4), flat_on(*cpu, graph, batch, 4));
}

TEST(EmulatedDevice, DenseGradientsAreTheCpus) {
  Machine machine;
  expect_the_cpus_gradients(toy_dense_graph(), toy_batch(13));
}

TEST(EmulatedDevice, AllGradientsAreTheCpus) {
  LOCKSTEP_CUDNN_OR_SKIP();
  Machine machine;
  expect_the_cpus_gradients(toy_graph(), toy_batch(13));
}

TEST(EmulatedDevice, ModelsGradientsAreTheCpus) {
  LOCKSTEP_CUDNN_OR_SKIP();
  for (const std::string name : {"seed-cnn", "mlp", "lenet"}) {
    const int size = name == "lenet" ? 16 : 8;
    const auto model = build_model(name, {size, size, 1}, 10);
    ASSERT_TRUE(model.ok()) << model.error().message;
    const Graph graph = (*model)->training_graph(emulated::kToyLoss).value();
    Machine machine;
    SCOPED_TRACE(name);
    expect_the_cpus_gradients(graph, made_up_batch(9, size * size, 10));
  }
}

TEST(EmulatedDevice, NothingIsLeft) {
  Machine machine;
  flat_on(*make_gpu(), toy_dense_graph(), toy_batch(5), 2);
  EXPECT_EQ(machine.leaks(), "");
  if (!emulated::missing_cudnn().empty()) return;
  flat_on(*make_gpu(), toy_graph(), toy_batch(5), 2);
  EXPECT_EQ(machine.leaks(), "");
}

TEST(EmulatedDevice, GroupingChangesNoBit) {
  LOCKSTEP_CUDNN_OR_SKIP();
  Machine machine;
  const auto device = make_gpu();
  const Graph graph = toy_graph();
  TrainingStep step(*device, graph);
  step.set_weights(initial_weights(graph, 5));
  for (const int rows : {5, 37}) {
    const HostBatch batch = toy_batch(rows);
    const std::vector<float> whole = step.flat(batch, 8);
    for (const std::vector<int>& cuts : std::vector<std::vector<int>>{
             {0, 4, 8}, {0, 3, 8}, {0, 1, 2, 3, 4, 5, 6, 7, 8}, {0, 7, 8}}) {
      std::vector<GroupResult> results;
      for (size_t i = 0; i + 1 < cuts.size(); ++i) {
        const PartitionRange range{cuts[i], cuts[i + 1]};
        if (group_of(rows, 8, range).total_rows() > 0) {
          results.push_back(step.run(batch, 8, range));
        }
      }
      EXPECT_EQ(combine(*device, results, 8, graph.flat_size), whole) << rows << " rows";
    }
  }
}

// The first run of a Program is plain, the second is captured, from the third on it is replayed.
TEST(EmulatedDevice, RecordingChangesNoBit) {
  LOCKSTEP_CUDNN_OR_SKIP();
  Machine machine;
  const auto device = make_gpu();
  const Graph graph = toy_graph();
  TrainingStep step(*device, graph);
  step.set_weights(initial_weights(graph, 5));
  std::vector<HostBatch> batches;
  for (const int first : {0, 11, 22})
    batches.push_back(slice_batch(toy_batch(33), first, first + 11));
  std::vector<std::vector<float>> plain;
  for (const HostBatch& batch : batches) plain.push_back(flat_on(*device, graph, batch, 8));
  EXPECT_NE(plain[0], plain[1]);
  const int64_t launches = machine.calls("cudaGraphLaunch");
  for (int round = 0; round < 3; ++round) {
    for (size_t i = 0; i < batches.size(); ++i) EXPECT_EQ(step.flat(batches[i], 8), plain[i]);
  }
  EXPECT_EQ(machine.calls("cudaGraphLaunch"), launches + 3 * 3 - 1);
}

// Replays without a wait between them, weights changed by the optimizer: as in training.
std::vector<float> train(Device& device, const Graph& graph, int steps, int partitions) {
  TrainingStep step(device, graph);
  step.set_weights(initial_weights(graph, 5));
  const auto root = allocate_floats(device, graph.flat_size);
  const auto momentum = allocate_floats(device, graph.parameter_count);
  upload(device, std::vector<float>(static_cast<size_t>(graph.parameter_count)), momentum->data());
  float* const roots[] = {root->data()};
  float* const slots[] = {momentum->data()};
  const HostBatch all = toy_batch(16 * steps);
  for (int t = 0; t < steps; ++t) {
    const HostBatch batch = slice_batch(all, 16 * t, 16 * (t + 1));
    Program* program =
        step.programs().program_for(group_of(16, partitions, {0, partitions})).value();
    RunContext context = step.context(batch, 16, roots);
    context.epoch = static_cast<uint32_t>(t);
    LOCKSTEP_CHECK(program->run(context, {}).ok());
    LOCKSTEP_CHECK(device
                       .update(SgdUpdate{0.1f, 0.9f, false}, root->data(), step.weights(), slots,
                               graph.parameter_count, nullptr)
                       .ok());
  }
  std::vector<float> result = step.copy_weights();
  const std::vector<float> gradient = fetch(device, root->data(), graph.flat_size);
  result.insert(result.end(), gradient.begin(), gradient.end());
  return result;
}

TEST(EmulatedDevice, NoOrderOfTheWorkChangesABit) {
  LOCKSTEP_CUDNN_OR_SKIP();
  Machine machine;
  const auto device = make_gpu();
  const Graph graph = toy_graph();
  const std::vector<float> expected = train(*device, graph, 4, 4);
  for (const float value : expected) ASSERT_FALSE(std::isnan(value));
  for (uint64_t seed = 2; seed <= kDeviceSeeds; ++seed) {
    machine.set_seed(seed);
    ASSERT_EQ(train(*device, graph, 4, 4), expected) << "seed " << seed;
  }
}

// More partitions than streams.
TEST(EmulatedDevice, NoOrderChangesABitOfManyPartitions) {
  Machine machine;
  const auto device = make_gpu();
  const Graph graph = toy_dense_graph();
  const std::vector<float> expected = train(*device, graph, 4, 16);
  for (uint64_t seed = 2; seed <= kDeviceSeeds; ++seed) {
    machine.set_seed(seed);
    ASSERT_EQ(train(*device, graph, 4, 16), expected) << "seed " << seed;
  }
}

// A larger Program takes a larger arena while the smaller one's work is under way.
TEST(EmulatedDevice, GrowingTheArenaChangesNoBit) {
  const Graph graph = toy_dense_graph();
  std::vector<float> expected;
  for (uint64_t seed = 1; seed <= 8; ++seed) {
    Machine machine({.seed = seed});
    const auto device = make_gpu();
    TrainingStep step(*device, graph);
    step.set_weights(initial_weights(graph, 5));
    std::vector<std::unique_ptr<Buffer>> roots;
    std::vector<float> results;
    for (const int rows : {3, 3, 3, 40, 3, 40, 40}) {
      roots.push_back(allocate_floats(*device, graph.flat_size));
      float* const root[] = {roots.back()->data()};
      const HostBatch batch = toy_batch(rows);
      Program* program = step.programs().program_for(group_of(rows, 4, {0, 4})).value();
      ASSERT_TRUE(program->run(step.context(batch, rows, root), {}).ok());
    }
    for (const auto& root : roots) {
      const std::vector<float> flat = fetch(*device, root->data(), graph.flat_size);
      results.insert(results.end(), flat.begin(), flat.end());
    }
    if (expected.empty()) expected = results;
    EXPECT_EQ(results, expected) << "seed " << seed;
    for (const float value : results) ASSERT_FALSE(std::isnan(value));
  }
}

TEST(EmulatedDevice, NothingIsUsedAfterItWasFreed) {
  LOCKSTEP_CUDNN_OR_SKIP();
  for (uint64_t seed = 1; seed <= 8; ++seed) {
    Machine machine({.seed = seed, .free_waits = false});
    const auto device = make_gpu();
    train(*device, toy_graph(), 4, 4);
  }
}

TEST(EmulatedDevice, OutOfMemorySaysHowMuch) {
  Machine machine({.memory_bytes = int64_t{600} << 20});
  const auto device = make_gpu();
  const auto buffer = device->allocate(int64_t{200} << 20);
  ASSERT_FALSE(buffer.ok());
  EXPECT_NE(buffer.error().message.find("cannot allocate 200.0 MiB"), std::string::npos)
      << buffer.error().message;
  EXPECT_NE(buffer.error().message.find("of 600.0 MiB are free"), std::string::npos);
  EXPECT_TRUE(device->allocate(int64_t{20} << 20).ok());
}

TEST(EmulatedDevice, DigestsAreTheCpus) {
  Machine machine;
  const auto gpu = make_gpu();
  const auto cpu = make_cpu_device("cpu-avx2").value();
  for (const int64_t count : {5, 4096, 9000}) {
    std::vector<float> weights(static_cast<size_t>(count)), slot(weights.size());
    for (size_t i = 0; i < weights.size(); ++i) {
      weights[i] = static_cast<float>(made_up_uniform(1, i));
      slot[i] = static_cast<float>(made_up_uniform(2, i));
    }
    const auto a = allocate_floats(*gpu, count), b = allocate_floats(*gpu, count);
    upload(*gpu, weights, a->data());
    upload(*gpu, slot, b->data());
    std::vector<DigestLanes> found(digest_blocks(count)), expected(digest_blocks(count));
    const float* const on_gpu[] = {b->data()};
    const float* const on_cpu[] = {slot.data()};
    ASSERT_TRUE(gpu->digest(a->data(), on_gpu, count, found.data()).ok());
    ASSERT_TRUE(cpu->digest(weights.data(), on_cpu, count, expected.data()).ok());
    EXPECT_EQ(state_digest_of(found), state_digest_of(expected));
  }
}

}  // namespace
}  // namespace lockstep
