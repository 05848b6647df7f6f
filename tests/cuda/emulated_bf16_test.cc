// bfloat16: the kernels that round, and training with rounded factors on emulated GPUs.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdio>
#include <functional>
#include <limits>
#include <vector>

#include "cuda/bf16.h"
#include "cuda/gpu.h"
#include "cuda/kernels.h"
#include "tests/emulated_cuda/memory.h"
#include "tests/emulated_cuda/planted.h"
#include "tests/emulated_cuda/runtime.h"
#include "tests/emulated_cuda/toy.h"
#include "tests/emulated_cuda/toy_kernels.h"

namespace lockstep {
namespace {

using emulated::Machine;
using emulated::TestGpu;

// All upper halves, with what lies at, beside and half way between two of them.
std::vector<float> every_kind_of_float() {
  std::vector<float> values;
  for (uint32_t upper = 0; upper < 0x10000; ++upper) {
    for (const uint32_t lower : {0x0000u, 0x0001u, 0x7fffu, 0x8000u, 0x8001u, 0xffffu}) {
      values.push_back(std::bit_cast<float>(upper << 16 | lower));
    }
  }
  return values;
}

// By the distances to both neighbours, which doubles hold.
uint16_t nearest_bf16(float x) {
  const auto bits = std::bit_cast<uint32_t>(x);
  const uint32_t toward_zero = bits >> 16;
  if (std::isnan(x)) return static_cast<uint16_t>(toward_zero | 0x40);
  if (std::isinf(x)) return static_cast<uint16_t>(toward_zero);
  const uint32_t away = toward_zero + 1;  // perhaps infinity
  const auto value = [](uint32_t upper) {
    const bool is_infinite = (upper & 0x7fff) == 0x7f80;  // there: 2 to the 128
    const double size =
        is_infinite ? std::ldexp(1.0, 128) : std::fabs(std::bit_cast<float>(upper << 16));
    return size;
  };
  const double size = std::fabs(x);
  const double below = size - value(toward_zero), above = value(away) - size;
  if (below != above) return static_cast<uint16_t>(below < above ? toward_zero : away);
  return static_cast<uint16_t>(toward_zero % 2 == 0 ? toward_zero : away);
}

using Cast = std::function<Status(const float*, int64_t, Bf16*, cudaStream_t)>;

// The index of the first value that the cast on the GPU does not round as nearest_bf16; -1: none.
int64_t first_misrounded(TestGpu& gpu, const std::vector<float>& values, size_t offset,
                         const Cast& cast) {
  const auto count = static_cast<int64_t>(values.size());
  Bf16* out = gpu.allocate<Bf16>(values.size(), offset);
  if (!cast(gpu.upload(values, offset), count, out, gpu.stream()).ok()) return 0;
  const std::vector<Bf16> found = gpu.download(out, values.size());
  for (int64_t i = 0; i < count; ++i) {
    const auto at = static_cast<size_t>(i);
    if (found[at].bits != nearest_bf16(values[at])) return i;
  }
  return -1;
}

TEST(EmulatedBf16, RoundsToTheNearest) {
  Machine machine;
  TestGpu gpu;
  const std::vector<float> values = every_kind_of_float();
  for (const size_t offset : {0, 1}) {
    const int64_t wrong = first_misrounded(gpu, values, offset, launch_to_bf16);
    EXPECT_EQ(wrong, -1) << values[static_cast<size_t>(std::max<int64_t>(wrong, 0))];
  }
  EXPECT_EQ(to_bf16(std::numeric_limits<float>::max()).bits, 0x7f80);
  EXPECT_TRUE(std::isnan(to_float(to_bf16(std::bit_cast<float>(0x7f800001u)))));
  EXPECT_TRUE(std::signbit(to_float(to_bf16(-0.0f))));
}

TEST(EmulatedBf16, WidensExactly) {
  Machine machine;
  TestGpu gpu;
  std::vector<Bf16> values;
  for (uint32_t bits = 0; bits < 0x10000; ++bits) values.push_back({static_cast<uint16_t>(bits)});
  for (const size_t offset : {0, 1}) {
    float* out = gpu.allocate<float>(values.size(), offset);
    ASSERT_TRUE(launch_from_bf16(gpu.upload(values, offset), 0x10000, out, gpu.stream()).ok());
    const std::vector<float> found = gpu.download(out, values.size());
    for (size_t i = 0; i < values.size(); ++i) {
      ASSERT_EQ(std::bit_cast<uint32_t>(found[i]), static_cast<uint32_t>(i) << 16);
    }
  }
}

TEST(EmulatedBf16, CastsThatRoundWronglyAreFound) {
  const std::vector<float> values = every_kind_of_float();
  const auto found = [&](const char* defect, const Cast& cast) {
    const emulated::Verdict verdict = emulated::watch([&] {
      Machine machine;
      TestGpu gpu;
      return first_misrounded(gpu, values, 0, cast) < 0;
    });
    std::printf("%-52s %s\n", defect, verdict.how.c_str());
    return verdict.found;
  };
  const auto with = [](void (*kernel)(const float*, int64_t, Bf16*)) {
    return [kernel](const float* in, int64_t count, Bf16* out, cudaStream_t stream) {
      return launch("cast", kernel, {64, 64}, stream, in, count, out);
    };
  };
  EXPECT_FALSE(found("control", launch_to_bf16));
  EXPECT_TRUE(found("a cast that truncates", with(emulated::truncating_cast)));
  EXPECT_TRUE(found("a cast that rounds halves up", with(emulated::half_up_cast)));
  EXPECT_TRUE(found("a cast that makes infinity of NaN", with(emulated::nan_losing_cast)));
}

std::unique_ptr<Device> make_bf16_gpu() { return make_cuda_device(0, "cuda-bf16").value(); }

std::vector<float> gradients_of(Device& device, const Graph& graph, const HostBatch& batch) {
  TrainingStep step(device, graph);
  step.set_weights(initial_weights(graph, 5));
  return step.flat(batch, 4);
}

// Every product's relative error is at most 2^-8 of each factor's size: gradients are near, and
// not equal.
TEST(EmulatedBf16, GradientsAreNearThoseOfFloat32) {
  std::vector<Graph> graphs = {emulated::toy_dense_graph()};
  if (emulated::missing_cudnn().empty()) graphs.push_back(emulated::toy_graph());
  for (const Graph& graph : graphs) {
    Machine machine;
    const HostBatch batch = emulated::toy_batch(13);
    const auto exact = gradients_of(*emulated::make_gpu(), graph, batch);
    const auto rounded = gradients_of(*make_bf16_gpu(), graph, batch);
    ASSERT_EQ(rounded.size(), exact.size());
    double difference = 0, size = 0;
    for (size_t i = 0; i < exact.size(); ++i) {
      difference += std::pow(double{rounded[i]} - exact[i], 2);
      size += std::pow(double{exact[i]}, 2);
    }
    EXPECT_GT(difference, 0);
    EXPECT_LT(std::sqrt(difference / size), 0.02);
    EXPECT_EQ(machine.leaks(), "");
  }
}

// Many orders of the work, plain, captured and replayed: the same bits.
TEST(EmulatedBf16, OrderChangesNoBit) {
  LOCKSTEP_CUDNN_OR_SKIP();
  const Graph graph = emulated::toy_graph();
  const HostBatch batch = emulated::toy_batch(13);
  std::vector<float> first;
  for (uint64_t seed = 1; seed <= 32; ++seed) {
    Machine machine({.seed = seed});
    const auto device = make_bf16_gpu();
    TrainingStep step(*device, graph);
    step.set_weights(initial_weights(graph, 5));
    for (int run = 0; run < 3; ++run) {
      const std::vector<float> found = step.flat(batch, 4);
      if (first.empty()) first = found;
      ASSERT_EQ(found, first) << "seed " << seed << ", run " << run;
    }
  }
}

TEST(EmulatedBf16, OlderGpusAreRefused) {
  for (const int compute : {70, 75, 80}) {
    Machine machine({.compute = compute});
    const Status status = check_cuda_device("cuda-bf16");
    EXPECT_EQ(make_cuda_device(0, "cuda-bf16").ok(), compute >= 80);
    ASSERT_EQ(status.ok(), compute >= 80);
    if (compute != 75) continue;
    EXPECT_TRUE(check_cuda_device("cuda-fp32").ok());
    EXPECT_EQ(status.error().kind, ErrorKind::refused);
    for (const char* part : {"compute 7.5", "compute 8.0 or later", "--numerics cuda-fp32"}) {
      EXPECT_NE(status.error().message.find(part), std::string::npos) << status.error().message;
    }
  }
}

TEST(EmulatedBf16, UnknownNumericsAreRefused) {
  Machine machine;
  const Status status = check_cuda_device("cuda-bf61");
  ASSERT_FALSE(status.ok());
  EXPECT_EQ(status.error().kind, ErrorKind::usage);
  EXPECT_NE(status.error().message.find("did you mean 'cuda-bf16'"), std::string::npos);
  EXPECT_FALSE(make_cuda_device(0, "cpu-avx2").ok());
}

int64_t planned(const Device& device, const Graph& graph, int rows, int partitions) {
  return Program::planned_bytes(device, graph, group_of(rows, partitions, {0, partitions}));
}

// Of 32 x 12 factors of 2 rows: 64, 384 and 24 values, each in units of 256 bytes; for as many
// partitions as run side by side.
TEST(EmulatedBf16, OperandsAreInTheMemoryPlan) {
  constexpr int64_t kOperands = 256 + 768 + 256;
  Machine machine;
  const Graph graph = emulated::toy_dense_graph();
  const auto rounding = make_bf16_gpu();
  const auto exact = emulated::make_gpu();
  EXPECT_EQ(planned(*rounding, graph, 8, 4) - planned(*exact, graph, 8, 4), 4 * kOperands);
  EXPECT_EQ(planned(*rounding, graph, 32, 16) - planned(*exact, graph, 32, 16),
            kBranches * kOperands);
}

// What is planned is all that a Program takes.
TEST(EmulatedBf16, ARunAllocatesNothingForOperands) {
  const Graph graph = emulated::toy_dense_graph();
  Machine machine;
  const auto allocations = [&](std::unique_ptr<Device> device) {
    TrainingStep step(*device, graph);
    step.set_weights(initial_weights(graph, 5));
    const auto root = allocate_floats(*device, graph.flat_size);
    float* const roots[] = {root->data()};
    const HostBatch batch = emulated::toy_batch(8);
    Program* program = step.programs().program_for(group_of(8, 4, {0, 4})).value();
    const int64_t before = machine.calls("cudaMalloc");
    LOCKSTEP_CHECK(program->run(step.context(batch, 8, roots), {}).ok());
    return machine.calls("cudaMalloc") - before;
  };
  EXPECT_EQ(allocations(make_bf16_gpu()), allocations(emulated::make_gpu()));
}

}  // namespace
}  // namespace lockstep
