// The emulated runtime itself: what it must refuse and find. The rest of tests/cuda/emulated_*
// leans on it.
#include <gtest/gtest.h>

#include <vector>

#include "cuda/handle.h"
#include "cuda/kernels.h"
#include "tests/emulated_cuda/memory.h"
#include "tests/emulated_cuda/runtime.h"

namespace lockstep {
namespace {

using emulated::Machine;

using emulated::TestGpu;

constexpr size_t kFloats = 1000;

TEST(EmulatedRuntime, CopiesAndAdds) {
  Machine machine;
  TestGpu gpu;
  float* a = gpu.upload(std::vector<float>(kFloats, 1.5f));
  float* sum = gpu.allocate<float>(kFloats);
  ASSERT_TRUE(launch_add(a, a, sum, kFloats, gpu.stream()).ok());
  EXPECT_EQ(gpu.download(sum, kFloats), std::vector<float>(kFloats, 3.0f));
}

// Nothing happens before somebody waits, and polling ends.
TEST(EmulatedRuntime, WorkIsDeferred) {
  Machine machine({.seed = 1});
  TestGpu gpu;
  float* a = gpu.upload(std::vector<float>(kFloats, 1.0f));
  const int64_t before = machine.executed();
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(launch_add(a, a, a, kFloats, gpu.stream()).ok());
  EXPECT_EQ(machine.executed(), before);
  EXPECT_EQ(cudaStreamQuery(gpu.stream()), cudaErrorNotReady);
  int polls = 1;
  while (cudaStreamQuery(gpu.stream()) == cudaErrorNotReady) ++polls;
  EXPECT_LE(polls, 3);
  EXPECT_EQ(gpu.download(a, 1)[0], 8.0f);
}

TEST(EmulatedRuntime, GpusHaveMemoryOfTheirOwn) {
  Machine machine({.devices = 2});
  TestGpu first;
  float* from = first.upload(std::vector<float>(kFloats, 2.0f));
  ASSERT_EQ(cudaSetDevice(1), cudaSuccess);
  TestGpu second;
  float* to = second.allocate<float>(kFloats);
  ASSERT_EQ(cudaMemcpyPeerAsync(to, 1, from, 0, 4 * kFloats, second.stream()), cudaSuccess);
  EXPECT_EQ(second.download(to, kFloats), std::vector<float>(kFloats, 2.0f));
}

TEST(EmulatedRuntime, MemoryInTheOrderOfAStream) {
  Machine machine;
  TestGpu gpu;
  {
    cudaMemPoolProps properties{};
    properties.allocType = cudaMemAllocationTypePinned;
    properties.location.type = cudaMemLocationTypeDevice;
    cudaMemPool_t pool = nullptr;
    ASSERT_EQ(cudaMemPoolCreate(&pool, &properties), cudaSuccess);
    void* memory = nullptr;
    ASSERT_EQ(cudaMallocFromPoolAsync(&memory, 4 * kFloats, pool, gpu.stream()), cudaSuccess);
    auto* floats = static_cast<float*>(memory);
    ASSERT_EQ(cudaMemsetAsync(memory, 0, 4 * kFloats, gpu.stream()), cudaSuccess);
    float* sum = gpu.allocate<float>(kFloats);
    ASSERT_TRUE(launch_add(floats, floats, sum, kFloats, gpu.stream()).ok());
    ASSERT_EQ(cudaFreeAsync(memory, gpu.stream()), cudaSuccess);
    EXPECT_EQ(machine.leaks(), "1 of device memory, 1 streams, 1 memory pools");
    EXPECT_EQ(gpu.download(sum, kFloats), std::vector<float>(kFloats));
    ASSERT_EQ(cudaMemPoolDestroy(pool), cudaSuccess);
  }
  gpu.release();
  EXPECT_EQ(machine.leaks(), "1 streams");
}

// A graph of two branches, launched twice, on its own and after work of the stream.
TEST(EmulatedRuntime, GraphsKeepTheirOrder) {
  for (uint64_t seed = 1; seed <= 16; ++seed) {
    Machine machine({.seed = seed});
    TestGpu gpu, branch;
    float* a = gpu.upload(std::vector<float>(kFloats, 1.0f));
    float* b = gpu.allocate<float>(kFloats);
    cudaEvent_t event = nullptr;
    ASSERT_EQ(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), cudaSuccess);
    const EventHandle owner(event);
    ASSERT_EQ(cudaStreamBeginCapture(gpu.stream(), cudaStreamCaptureModeRelaxed), cudaSuccess);
    ASSERT_TRUE(launch_add(a, a, a, kFloats, gpu.stream()).ok());
    ASSERT_EQ(cudaEventRecord(event, gpu.stream()), cudaSuccess);
    ASSERT_EQ(cudaStreamWaitEvent(branch.stream(), event, 0), cudaSuccess);
    ASSERT_TRUE(launch_add(a, a, b, kFloats, branch.stream()).ok());
    ASSERT_EQ(cudaEventRecord(event, branch.stream()), cudaSuccess);
    ASSERT_EQ(cudaStreamWaitEvent(gpu.stream(), event, 0), cudaSuccess);
    ASSERT_TRUE(launch_add(a, b, a, kFloats, gpu.stream()).ok());
    cudaGraph_t graph = nullptr;
    ASSERT_EQ(cudaStreamEndCapture(gpu.stream(), &graph), cudaSuccess);
    const GraphTemplateHandle captured(graph);
    cudaGraphExec_t executable = nullptr;
    ASSERT_EQ(cudaGraphInstantiate(&executable, graph, 0), cudaSuccess);
    const GraphHandle kept(executable);
    ASSERT_EQ(cudaGraphLaunch(executable, gpu.stream()), cudaSuccess);  // 1 -> 2 + 4
    ASSERT_TRUE(launch_add(a, a, a, kFloats, gpu.stream()).ok());       // 12
    ASSERT_EQ(cudaGraphLaunch(executable, gpu.stream()), cudaSuccess);  // 24 + 48
    EXPECT_EQ(gpu.download(a, kFloats), std::vector<float>(kFloats, 72.0f)) << seed;
  }
}

TEST(EmulatedRuntime, CallsAreCountedAndFail) {
  Machine machine;
  TestGpu gpu;
  machine.fail_call(2);
  void* memory = nullptr;
  EXPECT_EQ(cudaMalloc(&memory, 100), cudaSuccess);
  EXPECT_EQ(machine.calls("cudaMalloc"), 1);
  EXPECT_EQ(cudaFree(memory), cudaErrorUnknown);
  EXPECT_EQ(machine.failed_call(), "cudaFree");
  EXPECT_EQ(machine.leaks(), "1 streams");
}

}  // namespace
}  // namespace lockstep
