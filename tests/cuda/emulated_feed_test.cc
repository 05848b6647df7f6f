// Memory pools, and batches that cross to the GPU while another one is computed with.
#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "cuda/batch_feed.h"
#include "cuda/kernels.h"
#include "host/data/batch_loader.h"
#include "host/data/digits.h"
#include "tests/cuda/sent_batch.h"
#include "tests/emulated_cuda/memory.h"
#include "tests/emulated_cuda/runtime.h"
#include "tests/emulated_cuda/toy.h"

namespace lockstep {
namespace {

using emulated::Machine;
using emulated::TestGpu;

constexpr size_t kFeedFloats = 1000;
constexpr uint64_t kFeedSeeds = 40;

MemoryPool make_pool() { return MemoryPool::create(list_gpus().value().at(0)).value(); }

// Memory is filled and read on one stream, read on another after an event, given back on the first
// after another: again and again, without a wait of the host.
TEST(EmulatedPool, MemoryInTheOrderOfStreams) {
  for (uint64_t seed = 1; seed <= kFeedSeeds; ++seed) {
    Machine machine({.seed = seed});
    TestGpu gpu, other;
    const MemoryPool pool = make_pool();
    cudaEvent_t event = nullptr;
    ASSERT_EQ(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), cudaSuccess);
    const EventHandle owner(event);
    float* sum = other.upload(std::vector<float>(kFeedFloats, 0.0f));
    const float* ones = gpu.upload(std::vector<float>(kFeedFloats, 1.0f));
    for (int i = 0; i < 5; ++i) {
      auto memory = pool.allocate(4 * kFeedFloats, gpu.stream());
      ASSERT_TRUE(memory.ok()) << memory.error().message;
      auto* floats = static_cast<float*>(memory->get());
      ASSERT_TRUE(launch_add(ones, ones, floats, kFeedFloats, gpu.stream()).ok());
      ASSERT_EQ(cudaEventRecord(event, gpu.stream()), cudaSuccess);
      ASSERT_EQ(cudaStreamWaitEvent(other.stream(), event, 0), cudaSuccess);
      ASSERT_TRUE(launch_add(sum, floats, sum, kFeedFloats, other.stream()).ok());
      ASSERT_EQ(cudaEventRecord(event, other.stream()), cudaSuccess);
      ASSERT_EQ(cudaStreamWaitEvent(gpu.stream(), event, 0), cudaSuccess);
    }
    EXPECT_EQ(other.download(sum, kFeedFloats), std::vector<float>(kFeedFloats, 10.0f)) << seed;
  }
}

TEST(EmulatedPool, KeepsWhatIsGivenBackUntilItIsTrimmed) {
  Machine machine({.memory_bytes = int64_t{100} << 20});
  const auto free_mib = [] {
    size_t free_bytes = 0, total_bytes = 0;
    EXPECT_EQ(cudaMemGetInfo(&free_bytes, &total_bytes), cudaSuccess);
    return static_cast<int64_t>(free_bytes) >> 20;
  };
  TestGpu gpu;
  const MemoryPool pool = make_pool();
  {
    const auto first = pool.allocate(int64_t{30} << 20, gpu.stream());
    const auto second = pool.allocate(int64_t{40} << 20, gpu.stream());
    ASSERT_TRUE(first.ok() && second.ok());
    EXPECT_EQ(pool.unused_bytes(), 0);
    const auto third = pool.allocate(int64_t{40} << 20, gpu.stream());
    ASSERT_FALSE(third.ok());
    EXPECT_NE(third.error().message.find("cannot allocate 40.0 MiB"), std::string::npos);
    EXPECT_NE(third.error().message.find("30.0 of 100.0 MiB are free"), std::string::npos)
        << third.error().message;
  }
  ASSERT_EQ(cudaStreamSynchronize(gpu.stream()), cudaSuccess);
  EXPECT_EQ(pool.unused_bytes(), int64_t{70} << 20);
  EXPECT_EQ(free_mib(), 30);
  EXPECT_TRUE(pool.trim().ok());
  EXPECT_EQ(pool.unused_bytes(), 0);
  EXPECT_EQ(free_mib(), 100);
}

TEST(EmulatedPool, WithoutPoolsItIsPlainMemory) {
  Machine machine({.memory_pools = false});
  TestGpu gpu;
  {
    const MemoryPool pool = make_pool();
    const auto memory = pool.allocate(4 * kFeedFloats, gpu.stream());
    ASSERT_TRUE(memory.ok()) << memory.error().message;
    EXPECT_EQ(machine.calls("cudaMalloc"), 1);
    EXPECT_EQ(pool.unused_bytes(), 0);
    EXPECT_TRUE(pool.trim().ok());
  }
  EXPECT_EQ(machine.calls("cudaFree"), 1);
  EXPECT_EQ(machine.leaks(), "1 streams");
}

// What the pool holds and doesn't need counts as free, and can be had.
TEST(EmulatedPool, TheDeviceTakesWhatThePoolDoesNotNeed) {
  Machine machine({.memory_bytes = int64_t{640} << 20});
  const auto device = emulated::make_gpu();
  const int64_t before = device->free_bytes().value();
  const int rows = static_cast<int>((int64_t{40} << 20) / (128 * 4));
  HostBatch batch{.rows = rows, .features = 128};
  batch.inputs.resize(static_cast<size_t>(rows) * 128);
  batch.copy = device->prefetch(batch);
  ASSERT_NE(batch.copy.get(), nullptr);
  EXPECT_LE(device->free_bytes().value(), before - (int64_t{40} << 20));
  EXPECT_FALSE(device->allocate(before - (int64_t{20} << 20)).ok());
  batch = {};
  machine.drain();
  EXPECT_EQ(device->free_bytes().value(), before);
  EXPECT_TRUE(device->allocate(before - (int64_t{20} << 20)).ok());
}

// Steps of training, each of whose batches is sent while the step before is under way.
std::vector<float> train(Device& device, const Graph& graph, int steps, bool ahead) {
  TrainingStep step(device, graph);
  step.set_weights(initial_weights(graph, 5));
  const auto root = allocate_floats(device, graph.flat_size);
  float* const roots[] = {root->data()};
  const HostBatch all = emulated::toy_batch(16 * (steps + 1));
  const auto make = [&](int t) {
    return ahead ? sent_batch(device, all, 16 * t, 16 * (t + 1))
                 : slice_batch(all, 16 * t, 16 * (t + 1));
  };
  std::vector<HostBatch> next;
  next.push_back(make(0));
  for (int t = 0; t < steps; ++t) {
    const HostBatch batch = std::move(next.back());
    next.pop_back();
    next.push_back(make(t + 1));
    Program* program = step.programs().program_for(group_of(16, 4, {0, 4})).value();
    RunContext context = step.context(batch, 16, roots);
    context.epoch = static_cast<uint32_t>(t);
    LOCKSTEP_CHECK(program->run(context, {}).ok());
    LOCKSTEP_CHECK(device
                       .update(SgdUpdate{0.1f, 0, false}, root->data(), step.weights(), {},
                               graph.parameter_count, nullptr)
                       .ok());
  }
  return step.copy_weights();
}

TEST(EmulatedFeed, SendingAheadChangesNoBitInAnyOrder) {
  const Graph graph = emulated::toy_dense_graph();
  for (const bool pools : {true, false}) {
    Machine machine({.memory_pools = pools});
    const auto device = emulated::make_gpu();
    const std::vector<float> expected = train(*device, graph, 6, false);
    for (const float value : expected) ASSERT_FALSE(std::isnan(value));
    for (uint64_t seed = 1; seed <= kFeedSeeds; ++seed) {
      machine.set_seed(seed);
      ASSERT_EQ(train(*device, graph, 6, true), expected) << "seed " << seed;
    }
  }
}

// Blocks of pinned memory go round; rows in them aren't copied on the host.
TEST(EmulatedFeed, PinnedMemoryIsUsedAgain) {
  Machine machine;
  const auto device = emulated::make_gpu();
  const HostBatch all = emulated::toy_batch(24);
  const auto send = [&](int rows) { sent_batch(*device, all, 0, rows); };
  send(20);
  const int64_t blocks = machine.calls("cudaMallocHost");
  EXPECT_EQ(blocks, 4);  // inputs; labels, positions and weights, which are in no such memory
  for (int i = 0; i < 5; ++i) send(20);
  send(19);  // the last of an epoch
  EXPECT_EQ(machine.calls("cudaMallocHost"), blocks);
  send(1);
  send(1);
  EXPECT_EQ(machine.calls("cudaMallocHost"), blocks + 1);
}

// Batches that nobody computes with, from another thread, while the device is recorded.
TEST(EmulatedFeed, AnyThreadSendsAndDrops) {
  const Graph graph = emulated::toy_dense_graph();
  Machine machine;
  const auto device = emulated::make_gpu();
  const std::vector<float> expected = train(*device, graph, 6, false);
  const HostBatch all = emulated::toy_batch(24);
  for (uint64_t seed = 1; seed <= 8; ++seed) {
    machine.set_seed(seed);
    std::atomic<bool> over = false;
    std::thread loader([&] {
      while (!over) sent_batch(*device, all, 0, 24);
    });
    const std::vector<float> found = train(*device, graph, 6, true);
    over = true;
    loader.join();
    ASSERT_EQ(found, expected) << "seed " << seed;
  }
}

TEST(EmulatedFeed, TheLoaderSendsWhatItHasLoaded) {
  Machine machine({.devices = 2});
  std::vector<std::unique_ptr<Device>> devices;
  for (const int index : {0, 1}) devices.push_back(emulated::make_gpu(index));
  const Dataset data = make_digits(64, Split::train);
  LoaderOptions options{.rows = {0, 64}, .batch_size = 16, .partitions = 4, .seed = 3};
  const BatchRequest request{0, 1, {{0, 3}, {3, 4}}};
  std::vector<HostBatch> expected = BatchLoader(data, options).take(request);
  options.devices = {devices[0].get(), devices[1].get()};
  BatchLoader loader(data, options);
  loader.prefetch(request);
  const std::vector<HostBatch> batches = loader.take(request);
  ASSERT_EQ(batches.size(), 2u);
  for (size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(std::vector<float>(batches[i].inputs), std::vector<float>(expected[i].inputs));
    EXPECT_EQ(batches[i].inputs.get_allocator().resource(), devices[i]->batch_memory());
    EXPECT_NE(batches[i].copy.get(), nullptr);
    EXPECT_EQ(expected[i].copy.get(), nullptr);
  }
}

// Whatever fails where a batch is sent ahead: the step sends it itself, or says what is wrong.
TEST(EmulatedFeed, WhatFailsAheadIsDoneOrSaidLater) {
  const Graph graph = emulated::toy_dense_graph();
  Machine machine;
  const HostBatch all = emulated::toy_batch(16);
  std::vector<float> expected;
  int failed = 0;
  for (int64_t n = 0;; ++n) {
    {
      const auto device = emulated::make_gpu();
      TrainingStep step(*device, graph);
      step.set_weights(initial_weights(graph, 5));
      const auto root = allocate_floats(*device, graph.flat_size);
      float* const roots[] = {root->data()};
      machine.fail_call(n);
      const HostBatch batch = sent_batch(*device, all, 0, 16);
      const std::string call = machine.failed_call();
      machine.fail_call(0);
      if (n > 0 && call.empty()) break;
      failed += n > 0 && batch.copy.get() == nullptr ? 1 : 0;
      Program* program = step.programs().program_for(group_of(16, 4, {0, 4})).value();
      const Status status = program->run(step.context(batch, 16, roots), {});
      ASSERT_TRUE(status.ok()) << call << ": " << status.error().message;
      const std::vector<float> found = fetch(*device, root->data(), graph.flat_size);
      if (n == 0) expected = found;
      EXPECT_EQ(found, expected) << call << ", call " << n;
    }
    EXPECT_EQ(machine.leaks(), "");
  }
  EXPECT_GT(failed, 6);
}

}  // namespace
}  // namespace lockstep
