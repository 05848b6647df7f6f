// Defects of the GPU kind, planted one at a time: each must be found. Prints a table.
#include <gtest/gtest.h>

#include <cstdio>
#include <functional>
#include <string>
#include <vector>

#include "cuda/gpu.h"
#include "host/core/math.h"
#include "tests/cuda/sent_batch.h"
#include "tests/emulated_cuda/memory.h"
#include "tests/emulated_cuda/planted.h"
#include "tests/emulated_cuda/runtime.h"
#include "tests/emulated_cuda/toy.h"
#include "tests/emulated_cuda/toy_kernels.h"

namespace lockstep {
namespace {

using emulated::Bug;
using emulated::Machine;
using emulated::TestGpu;

constexpr size_t kFloats = 1000;

// Rounds of a Program with other rows each time, weights updated between them. `ahead`: the rows of
// each round are sent while the one before is under way.
std::vector<float> rounds(const Graph& graph, uint64_t seed, Bug bug, int64_t n, bool ahead) {
  Machine machine({.seed = seed});
  std::vector<float> result;
  const auto device = emulated::make_gpu();
  TrainingStep step(*device, graph);
  step.set_weights(initial_weights(graph, 5));
  const auto root = allocate_floats(*device, graph.flat_size);
  float* const roots[] = {root->data()};
  const HostBatch all = emulated::toy_batch(40);
  machine.plant(bug, n);
  const auto make = [&](int t) {
    return ahead ? sent_batch(*device, all, 8 * t, 8 * (t + 1))
                 : slice_batch(all, 8 * t, 8 * (t + 1));
  };
  std::vector<HostBatch> next;
  next.push_back(make(0));
  for (int t = 0; t < 4; ++t) {
    const HostBatch batch = std::move(next.back());
    next.pop_back();
    next.push_back(make(t + 1));
    Program* program = step.programs().program_for(group_of(8, 4, {0, 4})).value();
    RunContext context = step.context(batch, 8, roots);
    context.epoch = static_cast<uint32_t>(t);
    LOCKSTEP_CHECK(program->run(context, {}).ok());
    LOCKSTEP_CHECK(device
                       ->update(SgdUpdate{0.1f, 0, false}, root->data(), step.weights(), {},
                                graph.parameter_count, nullptr)
                       .ok());
  }
  return step.copy_weights();
}

// Whether the planted bug is found by what the device computes with it.
emulated::Tally in_the_device(const Graph& graph, Bug bug, int64_t n, bool ahead = false) {
  const std::vector<float> expected = rounds(graph, 1, Bug::none, 0, false);
  return emulated::watch_seeds(
      [&](uint64_t seed) { return rounds(graph, seed, bug, n, ahead) == expected; });
}

class EmulatedPlanted : public testing::Test {
 protected:
  // A scenario on a machine with two GPUs.
  void expect_found(const char* defect, const std::function<bool(Machine&, TestGpu&)>& scenario,
                    const emulated::Options& options = {.devices = 2}) {
    report(defect, emulated::watch_seeds([&](uint64_t seed) {
             emulated::Options own = options;
             own.seed = seed;
             Machine machine(own);
             TestGpu gpu;
             return scenario(machine, gpu);
           }));
  }
  void report(const char* defect, const emulated::Tally& tally) {
    std::printf("%-52s %d of %d seeds: %s\n", defect, tally.found, tally.tried, tally.how.c_str());
    EXPECT_GT(tally.found, 0) << defect;
  }
};

// Sums of 64 ones a block.
bool tree_is_right(TestGpu& gpu, void (*kernel)(const float*, float*)) {
  const float* in = gpu.upload(std::vector<float>(4 * emulated::kToyThreads, 1.0f));
  float* out = gpu.allocate<float>(4);
  EXPECT_TRUE(
      launch("tree_kernel", kernel, {4, emulated::kToyThreads}, gpu.stream(), in, out).ok());
  return gpu.download(out, 4) == std::vector<float>(4, 64.0f);
}

TEST_F(EmulatedPlanted, ControlsAreRight) {
  const auto right = [](const std::function<bool(TestGpu&)>& scenario) {
    return emulated::watch_seeds([&](uint64_t seed) {
      Machine machine({.seed = seed});
      TestGpu gpu;
      return scenario(gpu);
    });
  };
  EXPECT_EQ(
      right([](TestGpu& gpu) { return tree_is_right(gpu, emulated::tree_kernel<false>); }).found,
      0);
  for (const bool ahead : {false, true}) {
    EXPECT_EQ(in_the_device(emulated::toy_dense_graph(), Bug::none, 0, ahead).found, 0);
  }
}

TEST_F(EmulatedPlanted, Barriers) {
  expect_found("a barrier left out in a tree", [](Machine&, TestGpu& gpu) {
    return tree_is_right(gpu, emulated::tree_kernel<true>);
  });
  expect_found("threads at different barriers", [](Machine&, TestGpu& gpu) {
    float* out = gpu.allocate<float>(kFloats);
    return launch("k", emulated::diverging_kernel, {1, 64}, gpu.stream(), out).ok() &&
           !gpu.download(out, 64).empty();
  });
  expect_found("threads that leave before a barrier", [](Machine&, TestGpu& gpu) {
    float* out = gpu.allocate<float>(kFloats);
    return launch("k", emulated::leaving_kernel, {1, 64}, gpu.stream(), out).ok() &&
           !gpu.download(out, 64).empty();
  });
  expect_found("two threads write one element", [](Machine&, TestGpu& gpu) {
    float* out = gpu.allocate<float>(1);
    return launch("k", emulated::racing_kernel, {1, 64}, gpu.stream(), out).ok() &&
           gpu.download(out, 1)[0] == 63;
  });
}

// The barriers of our own kernels, each left out by itself.
TEST_F(EmulatedPlanted, BarriersOfOurKernels) {
  const auto softmax = [](TestGpu& gpu) {
    const int rows = 5, classes = 100;
    std::vector<float> logits(rows * classes);
    for (size_t i = 0; i < logits.size(); ++i) logits[i] = static_cast<float>(i * 7 % 97) / 16;
    float* out = gpu.allocate<float>(logits.size());
    EXPECT_TRUE(launch_softmax(gpu.upload(logits), rows, classes, out, gpu.stream()).ok());
    return gpu.download(out, logits.size());
  };
  for (const int64_t barrier : {1, 2, 3, 5}) {  // the 4th guards the tile's next turn
    expect_found(("softmax without its barrier " + std::to_string(barrier)).c_str(),
                 [&](Machine& machine, TestGpu& gpu) {
                   const std::vector<float> expected = softmax(gpu);
                   machine.plant(Bug::skip_barrier, barrier);
                   return softmax(gpu) == expected;
                 });
  }
  const auto sums = [](Machine& machine, TestGpu& gpu) {
    machine.plant(Bug::skip_barrier, 1);
    float* out = gpu.allocate<float>(3);
    const float* in = gpu.upload(std::vector<float>(3 * 65, 1.0f));
    EXPECT_TRUE(launch_column_sums(in, 65, 3, nullptr, out, gpu.stream()).ok());
    return gpu.download(out, 3) == std::vector<float>(3, 65.0f);
  };
  expect_found("column sums without their barrier", sums);
  const auto transpose = [](Machine& machine, TestGpu& gpu) {
    machine.plant(Bug::skip_barrier, 1);
    std::vector<float> in(40 * 40);
    for (size_t i = 0; i < in.size(); ++i) in[i] = static_cast<float>(i);
    float* out = gpu.allocate<float>(in.size());
    EXPECT_TRUE(launch_transpose(gpu.upload(in), 40, 40, out, gpu.stream()).ok());
    const std::vector<float> found = gpu.download(out, in.size());
    for (size_t i = 0; i < in.size(); ++i) {
      if (found[i] != in[i % 40 * 40 + i / 40]) return false;
    }
    return true;
  };
  expect_found("transpose without its barrier", transpose);
}

// Each event wait of a run is left out: one for the batch that crosses; four branches, so three
// waits at the fork, three at the join; one before the batch's memory is given back. The first
// eight are the plain run's, then come those of the capture.
TEST_F(EmulatedPlanted, EventWaits) {
  const Graph graph = emulated::toy_dense_graph();
  report("plain: no wait at the fork", in_the_device(graph, Bug::skip_stream_wait, 2));
  report("plain: no wait at the join", in_the_device(graph, Bug::skip_stream_wait, 5));
  report("captured: no wait at the fork", in_the_device(graph, Bug::skip_stream_wait, 10));
  report("captured: no wait at the join", in_the_device(graph, Bug::skip_stream_wait, 13));
  // 1: the batch has crossed, 2: the parameters, 3: the batch is taken, 4: the fork, 5 to 7: the
  // join.
  report("plain: no record at the fork", in_the_device(graph, Bug::skip_event_record, 4));
  report("plain: no record at the join", in_the_device(graph, Bug::skip_event_record, 5));
  report("parameters overwritten before the copy", in_the_device(graph, Bug::skip_event_wait, 3));
}

// Of batches that are sent ahead.
TEST_F(EmulatedPlanted, SentAhead) {
  const Graph graph = emulated::toy_dense_graph();
  const auto ahead = [&](Bug bug, int64_t n) { return in_the_device(graph, bug, n, true); };
  report("a batch is taken before it has crossed", ahead(Bug::skip_stream_wait, 1));
  report("its memory is given back before it is taken", ahead(Bug::skip_stream_wait, 8));
  report("no record of a batch that has crossed", ahead(Bug::skip_event_record, 1));
  report("no record of a batch that is taken", ahead(Bug::skip_event_record, 4));
  report("rows overwritten before they have crossed", ahead(Bug::skip_event_wait, 2));
  report("its memory is given back at once", ahead(Bug::early_free, 1));
}

TEST_F(EmulatedPlanted, Libraries) {
  const Graph dense = emulated::toy_dense_graph();
  report("a leading dimension too large", in_the_device(dense, Bug::wrong_leading, 1));
  if (!emulated::missing_cudnn().empty()) return;
  report("padding on the wrong side", in_the_device(emulated::toy_graph(), Bug::wrong_padding, 1));
}

// Two streams multiply with one workspace.
TEST_F(EmulatedPlanted, SharedWorkspace) {
  const auto scenario = [](TestGpu& gpu, bool shared) {
    const auto handle = CublasLtHandle::create(emulated::cublaslt_api());
    TestGpu other;
    std::vector<float> results;
    for (const int64_t out : {3, 4, 5, 6, 7, 8}) {  // some of them work in two pieces
      const DenseOp op{Pass::forward, 16, out, Activation::linear, 0, -1};
      auto matmul = Matmul::create(*handle, op, 4, {.kernel_alignment_bytes = 256});
      std::vector<float> x(64), kernel(static_cast<size_t>(16 * out));
      for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i);
      for (size_t i = 0; i < kernel.size(); ++i) kernel[i] = static_cast<float>(i % 7);
      float* a = gpu.allocate<float>(4 * 8);
      float* b = gpu.allocate<float>(4 * 8);
      void* workspace = gpu.allocate<float>(1000);
      void* second = shared ? workspace : gpu.allocate<float>(1000);
      const float* on_gpu = gpu.upload(x);
      const float* reversed = gpu.upload(std::vector<float>(x.rbegin(), x.rend()));
      const float* weights = gpu.upload(kernel);
      EXPECT_TRUE(
          matmul->run({.x = on_gpu, .kernel = weights, .out = a}, workspace, gpu.stream()).ok());
      EXPECT_TRUE(
          matmul->run({.x = reversed, .kernel = weights, .out = b}, second, other.stream()).ok());
      for (float* memory : {a, b}) {
        EXPECT_EQ(cudaStreamSynchronize(other.stream()), cudaSuccess);
        for (const float v : gpu.download(memory, static_cast<size_t>(4 * out))) {
          results.push_back(v);
        }
      }
    }
    return results;
  };
  std::vector<float> expected;
  {
    Machine machine;
    TestGpu gpu;
    expected = scenario(gpu, false);
  }
  expect_found("one workspace for two streams",
               [&](Machine&, TestGpu& gpu) { return scenario(gpu, true) == expected; });
}

bool download_works(TestGpu& gpu, const float* memory) { return !gpu.download(memory, 1).empty(); }

TEST_F(EmulatedPlanted, Memory) {
  expect_found("the host reads device memory", [](Machine&, TestGpu& gpu) {
    const volatile float* memory = gpu.allocate<float>(kFloats);
    return *memory == 0;
  });
  expect_found("memory is read before it is written", [](Machine&, TestGpu& gpu) {
    float* sum = gpu.allocate<float>(kFloats);
    EXPECT_TRUE(launch_add(gpu.allocate<float>(kFloats), gpu.allocate<float>(kFloats), sum, kFloats,
                           gpu.stream())
                    .ok());
    for (const float value : gpu.download(sum, kFloats)) {
      if (std::isnan(value)) return false;
    }
    return true;
  });
  expect_found("a kernel writes behind its memory", [](Machine&, TestGpu& gpu) {
    float* out = gpu.allocate<float>(kFloats);
    return launch("k", emulated::store_kernel, {1, 1}, gpu.stream(), out, int64_t{kFloats}).ok() &&
           download_works(gpu, out);
  });
  expect_found("a kernel writes before its memory", [](Machine&, TestGpu& gpu) {
    float* out = gpu.allocate<float>(kFloats);
    return launch("k", emulated::store_kernel, {1, 1}, gpu.stream(), out, int64_t{-3}).ok() &&
           download_works(gpu, out);
  });
  expect_found("a kernel writes far behind its memory", [](Machine&, TestGpu& gpu) {
    float* out = gpu.allocate<float>(kFloats);
    return launch("k", emulated::store_kernel, {1, 1}, gpu.stream(), out, int64_t{1} << 20).ok() &&
           download_works(gpu, out);
  });
#ifndef __clang__  // GCC alone compiles in what finds it
  expect_found("a vector that is not aligned", [](Machine&, TestGpu& gpu) {
    float* x = gpu.allocate<float>(kFloats, 1);
    return launch("k", emulated::vector_kernel, {1, 1}, gpu.stream(), x).ok() &&
           download_works(gpu, x);
  });
#endif
}

TEST_F(EmulatedPlanted, Lifetimes) {
  const auto freed_early = [](Machine&, TestGpu& gpu) {
    float* kept = gpu.allocate<float>(kFloats);
    void* memory = nullptr;
    EXPECT_EQ(cudaMalloc(&memory, 4 * kFloats), cudaSuccess);
    const auto* in = static_cast<const float*>(memory);
    EXPECT_TRUE(launch_add(in, in, kept, kFloats, gpu.stream()).ok());
    EXPECT_EQ(cudaFree(memory), cudaSuccess);
    return download_works(gpu, kept);
  };
  expect_found("memory freed while work is queued", freed_early,
               {.devices = 1, .free_waits = false});
  expect_found("memory freed twice", [](Machine&, TestGpu& gpu) {
    float* memory = gpu.allocate<float>(kFloats);
    return cudaFree(memory) == cudaSuccess && cudaFree(memory) == cudaSuccess;
  });
  const auto pinned = [](Machine&, TestGpu& gpu) {
    float* memory = gpu.allocate<float>(kFloats);
    void* host = nullptr;
    EXPECT_EQ(cudaMallocHost(&host, 4 * kFloats), cudaSuccess);
    EXPECT_EQ(cudaMemcpyAsync(memory, host, 4 * kFloats, cudaMemcpyHostToDevice, gpu.stream()),
              cudaSuccess);
    EXPECT_EQ(cudaFreeHost(host), cudaSuccess);
    return download_works(gpu, memory);
  };
  expect_found("pinned memory freed while a copy is queued", pinned,
               {.devices = 1, .free_waits = false});
  expect_found("a stream used after its end", [](Machine&, TestGpu& gpu) {
    float* memory = gpu.allocate<float>(kFloats);
    cudaStream_t stream = nullptr;
    EXPECT_EQ(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
    EXPECT_EQ(cudaStreamDestroy(stream), cudaSuccess);
    return launch_add(memory, memory, memory, kFloats, stream).ok();
  });
}

// Memory of a pool, of which two streams know.
bool shares_pool_memory(TestGpu& gpu, bool wait_before, bool wait_after) {
  TestGpu other;
  const MemoryPool pool = MemoryPool::create(list_gpus().value().at(0)).value();
  cudaEvent_t event = nullptr;
  EXPECT_EQ(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), cudaSuccess);
  const auto follow = [&](cudaStream_t first, cudaStream_t second) {
    EXPECT_EQ(cudaEventRecord(event, first), cudaSuccess);
    EXPECT_EQ(cudaStreamWaitEvent(second, event, 0), cudaSuccess);
  };
  float* kept = gpu.allocate<float>(kFloats);
  {
    const PooledMemory memory = pool.allocate(4 * kFloats, gpu.stream()).value();
    auto* floats = static_cast<float*>(memory.get());
    if (wait_before) follow(gpu.stream(), other.stream());
    EXPECT_EQ(cudaMemsetAsync(floats, 0, 4 * kFloats, other.stream()), cudaSuccess);
    EXPECT_TRUE(launch_add(floats, floats, kept, kFloats, other.stream()).ok());
    if (wait_after) follow(other.stream(), gpu.stream());
  }
  return other.download(kept, kFloats) == std::vector<float>(kFloats);
}

TEST_F(EmulatedPlanted, Pools) {
  EXPECT_EQ(emulated::watch_seeds([](uint64_t seed) {
              Machine machine({.seed = seed});
              TestGpu gpu;
              return shares_pool_memory(gpu, true, true);
            }).found,
            0);
  expect_found("a pool's memory used before it is there",
               [](Machine&, TestGpu& gpu) { return shares_pool_memory(gpu, false, true); });
  expect_found("a pool's memory given back while it is used",
               [](Machine&, TestGpu& gpu) { return shares_pool_memory(gpu, true, false); });
  const auto make = [](TestGpu& gpu) {
    const MemoryPool pool = MemoryPool::create(list_gpus().value().at(0)).value();
    return pool.allocate(4 * kFloats, gpu.stream()).value().get();
  };
  expect_found("a pool's memory used after it was given back", [&](Machine&, TestGpu& gpu) {
    return cudaMemsetAsync(make(gpu), 0, 4, gpu.stream()) == cudaSuccess;
  });
  expect_found("a pool's memory given back twice", [&](Machine&, TestGpu& gpu) {
    return cudaFreeAsync(make(gpu), gpu.stream()) == cudaSuccess;
  });
  expect_found("a pool's memory given back in a capture", [](Machine&, TestGpu& gpu) {
    const MemoryPool pool = MemoryPool::create(list_gpus().value().at(0)).value();
    const PooledMemory memory = pool.allocate(4 * kFloats, gpu.stream()).value();
    EXPECT_EQ(cudaStreamBeginCapture(gpu.stream(), cudaStreamCaptureModeRelaxed), cudaSuccess);
    return true;
  });
}

TEST_F(EmulatedPlanted, Pointers) {
  expect_found("a host pointer for the device's", [](Machine&, TestGpu& gpu) {
    std::vector<float> host(kFloats), other(kFloats);
    return cudaMemcpyAsync(host.data(), other.data(), 4, cudaMemcpyHostToDevice, gpu.stream()) ==
           cudaSuccess;
  });
  expect_found("the wrong kind of a copy", [](Machine&, TestGpu& gpu) {
    std::vector<float> host(kFloats);
    return cudaMemcpyAsync(gpu.allocate<float>(kFloats), host.data(), 4, cudaMemcpyDeviceToHost,
                           gpu.stream()) == cudaSuccess;
  });
#ifndef __clang__  // GCC alone compiles in what finds it
  expect_found("a kernel gets pinned memory", [](Machine&, TestGpu& gpu) {
    void* host = nullptr;
    EXPECT_EQ(cudaMallocHost(&host, 4 * kFloats), cudaSuccess);
    const auto* in = static_cast<const float*>(host);
    return launch_add(in, in, gpu.allocate<float>(kFloats), kFloats, gpu.stream()).ok();
  });
#endif
  expect_found("a kernel gets another GPU's memory", [](Machine&, TestGpu& gpu) {
    float* first = gpu.allocate<float>(kFloats);
    EXPECT_EQ(cudaSetDevice(1), cudaSuccess);
    float* second = gpu.allocate<float>(kFloats);
    EXPECT_EQ(cudaSetDevice(0), cudaSuccess);
    return launch_add(second, second, first, kFloats, gpu.stream()).ok();
  });
  expect_found("a launch while another GPU is current", [](Machine&, TestGpu& gpu) {
    float* memory = gpu.allocate<float>(kFloats);
    EXPECT_EQ(cudaSetDevice(1), cudaSuccess);
    return launch_add(memory, memory, memory, kFloats, gpu.stream()).ok();
  });
  expect_found("the default stream", [](Machine&, TestGpu& gpu) {
    float* memory = gpu.allocate<float>(kFloats);
    return launch_add(memory, memory, memory, kFloats, nullptr).ok();
  });
}

TEST_F(EmulatedPlanted, Captures) {
  const auto capture = [](TestGpu& gpu, const std::function<void(TestGpu&)>& work) {
    EXPECT_EQ(cudaStreamBeginCapture(gpu.stream(), cudaStreamCaptureModeRelaxed), cudaSuccess);
    work(gpu);
    cudaGraph_t graph = nullptr;
    return cudaStreamEndCapture(gpu.stream(), &graph) == cudaSuccess;
  };
  expect_found("a capture ends with unjoined work", [&](Machine&, TestGpu& gpu) {
    TestGpu branch;
    float* memory = gpu.allocate<float>(kFloats);
    cudaEvent_t event = nullptr;
    EXPECT_EQ(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), cudaSuccess);
    return capture(gpu, [&](TestGpu&) {
      EXPECT_EQ(cudaEventRecord(event, gpu.stream()), cudaSuccess);
      EXPECT_EQ(cudaStreamWaitEvent(branch.stream(), event, 0), cudaSuccess);
      EXPECT_TRUE(launch_add(memory, memory, memory, kFloats, branch.stream()).ok());
    });
  });
  expect_found("a wait in a capture", [&](Machine&, TestGpu& gpu) {
    return capture(
        gpu, [](TestGpu& own) { EXPECT_NE(cudaStreamSynchronize(own.stream()), cudaSuccess); });
  });
  expect_found("a capture waits for work outside of it", [&](Machine&, TestGpu& gpu) {
    TestGpu other;
    float* memory = gpu.allocate<float>(kFloats);
    cudaEvent_t event = nullptr;
    EXPECT_EQ(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), cudaSuccess);
    EXPECT_TRUE(launch_add(memory, memory, memory, kFloats, other.stream()).ok());
    EXPECT_EQ(cudaEventRecord(event, other.stream()), cudaSuccess);
    return capture(gpu, [&](TestGpu& own) {
      EXPECT_NE(cudaStreamWaitEvent(own.stream(), event, 0), cudaSuccess);
    });
  });
}

// A copy of Staging::stage's end that forgets to look.
Status drops_an_error(float* to, const float* from, cudaStream_t stream) {
  cudaMemcpyAsync(to, from, 4, cudaMemcpyHostToDevice, stream);
  return LOCKSTEP_CUDA_STATUS(cudaStreamSynchronize(stream));
}

TEST_F(EmulatedPlanted, DroppedErrors) {
  expect_found("an error code is dropped", [](Machine& machine, TestGpu& gpu) {
    const float value = 1;
    float* memory = gpu.allocate<float>(1);
    machine.fail_call(1);
    const bool lost = drops_an_error(memory, &value, gpu.stream()).ok();
    return !(lost && machine.failed_call() == "cudaMemcpyAsync");
  });
}

}  // namespace
}  // namespace lockstep
