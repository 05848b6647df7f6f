// The kernels of cuda/, compiled as C++, against the CPU device's: bit for bit, for several orders
// of threads and blocks.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "cuda/kernels.h"
#include "host/core/rng.h"
#include "host/reduce/tree_sum.h"
#include "tests/cpu/cpu_test_support.h"
#include "tests/emulated_cuda/memory.h"
#include "tests/emulated_cuda/runtime.h"

namespace lockstep {
namespace {

using cpu_test::Floats;
using cpu_test::OpCase;
using cpu_test::random_floats;
using emulated::Machine;
using emulated::TestGpu;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr uint64_t kKernelSeeds = 4;

// Equal bits; any NaN is as good as another.
void expect_same(const Floats& found, const Floats& expected, const std::string& what) {
  ASSERT_EQ(found.size(), expected.size()) << what;
  for (size_t i = 0; i < found.size(); ++i) {
    if (std::isnan(found[i]) && std::isnan(expected[i])) continue;
    ASSERT_EQ(std::bit_cast<uint32_t>(found[i]), std::bit_cast<uint32_t>(expected[i]))
        << what << ", element " << i << ": " << found[i] << ", expected " << expected[i];
  }
}

// Some of what a kernel may treat in a way of its own.
Floats with_special_values(Floats values) {
  const float specials[] = {0.0f, -0.0f, kNan, std::numeric_limits<float>::infinity(), 1e-42f};
  for (size_t i = 3; i < values.size(); i += 7) values[i] = specials[i / 7 % 5];
  return values;
}

class EmulatedKernels : public testing::Test {
 protected:
  // Calls test(offset) for each order and for aligned and unaligned memory.
  template <class Test>
  void each(const Test& test) {
    for (uint64_t seed = 1; seed <= kKernelSeeds; ++seed) {
      machine_.set_seed(seed);
      for (const size_t offset : {0, 1}) {
        test(offset);
        gpu_.release();
      }
    }
  }

  Machine machine_;
  TestGpu gpu_;
  std::unique_ptr<Device> cpu_ = cpu_test::make_device();
};

const size_t kCounts[] = {1, 3, 4, 5, 127, 128, 129, 511, 1030, 4096, 4097, 9001};

TEST_F(EmulatedKernels, Add) {
  each([&](size_t offset) {
    for (const size_t count : kCounts) {
      const auto n = static_cast<int64_t>(count);
      const Floats a = random_floats(1, n), b = random_floats(2, n);
      Floats expected(count);
      cpu_->add(a.data(), b.data(), expected.data(), n);
      float* on_gpu = gpu_.upload(a, offset);
      ASSERT_TRUE(launch_add(on_gpu, gpu_.upload(b, offset), on_gpu, n, gpu_.stream()).ok());
      expect_same(gpu_.download(on_gpu, count), expected, "add");
    }
  });
}

// The canonical tree over all and over some of the partitions.
TEST_F(EmulatedKernels, Sum) {
  each([&](size_t offset) {
    for (const int64_t count : {1, 6, 515}) {
      std::vector<Floats> values;
      std::vector<const float*> memory;
      for (uint64_t p = 0; p < 64; ++p) {
        values.push_back(random_floats(p, count));
        memory.push_back(gpu_.upload(values.back(), offset));
      }
      for (const int level : {0, 1, 2, 3, 4, 6}) {
        for (const size_t step : {1, 3}) {
          std::vector<TreePiece> on_cpu, on_gpu;
          for (size_t p = 0; p < size_t{1} << level; p += step) {
            on_cpu.push_back({{static_cast<int>(p), 0}, values[p].data()});
            on_gpu.push_back({{static_cast<int>(p), 0}, memory[p]});
          }
          Floats expected(static_cast<size_t>(count));
          tree_sum_range(*cpu_, on_cpu, {0, level}, count, expected.data());
          float* out = gpu_.allocate<float>(expected.size(), offset);
          const auto terms = sum_terms(on_gpu, {0, level});
          ASSERT_TRUE(launch_sum(terms, count, out, gpu_.stream()).ok());
          expect_same(gpu_.download(out, expected.size()), expected, "sum");
        }
      }
    }
  });
}

struct KernelUpdate {
  UpdateDesc desc;
  size_t slots;
};

std::vector<KernelUpdate> kernel_updates() {
  return {{AdamUpdate{0.1f, 0.001f, 0.0031f, 1e-7f}, 2},
          {SgdUpdate{0.01f, 0, false}, 0},
          {SgdUpdate{0.01f, 0.9f, false}, 1},
          {SgdUpdate{0.01f, 0.9f, true}, 1}};
}

TEST_F(EmulatedKernels, UpdateAndDigest) {
  each([&](size_t offset) {
    for (const KernelUpdate& optimizer : kernel_updates()) {
      for (const size_t count : kCounts) {
        const auto n = static_cast<int64_t>(count);
        const Floats gradient = random_floats(1, n);
        std::vector<Floats> state = {random_floats(2, n)};
        std::vector<float*> on_gpu = {gpu_.upload(state[0], offset)}, on_cpu;
        for (size_t i = 0; i < optimizer.slots; ++i) {
          state.push_back(random_floats(3 + i, n));
          for (float& value : state.back()) value = std::fabs(value);
          on_gpu.push_back(gpu_.upload(state.back(), offset));
        }
        for (Floats& vector : state) on_cpu.push_back(vector.data());
        std::vector<DigestLanes> lanes(digest_blocks(n));
        ASSERT_TRUE(cpu_->update(optimizer.desc, gradient.data(), on_cpu[0],
                                 std::span(on_cpu).subspan(1), n, lanes.data())
                        .ok());
        const std::span<float* const> slots = std::span(on_gpu).subspan(1);
        ASSERT_TRUE(launch_update(optimizer.desc, gpu_.upload(gradient, offset), on_gpu[0], slots,
                                  n, gpu_.stream())
                        .ok());
        const size_t words = lanes.size() * DigestLanes::kCount;
        auto* digest = gpu_.allocate<uint32_t>(words);
        const std::vector<const float*> const_slots(slots.begin(), slots.end());
        ASSERT_TRUE(launch_digest(on_gpu[0], const_slots, n, digest, gpu_.stream()).ok());
        for (size_t i = 0; i < state.size(); ++i) {
          expect_same(gpu_.download(on_gpu[i], count), state[i], "vector " + std::to_string(i));
        }
        const std::vector<uint32_t> found = gpu_.download(digest, words);
        EXPECT_EQ(std::memcmp(found.data(), lanes.data(), words * 4), 0) << count;
      }
    }
  });
}

// Of as many vectors as an optimizer may keep.
TEST_F(EmulatedKernels, DigestOfAllSlots) {
  each([&](size_t offset) {
    for (size_t slots = 0; slots <= kMaxSlots; ++slots) {
      const size_t count = 2 * kDigestBlock - 5;
      std::vector<Floats> state;
      std::vector<const float*> on_cpu, on_gpu;
      for (size_t i = 0; i <= slots; ++i) state.push_back(random_floats(i, count));
      for (const Floats& vector : state) {
        on_cpu.push_back(vector.data());
        on_gpu.push_back(gpu_.upload(vector, offset));
      }
      std::vector<DigestLanes> lanes(digest_blocks(count));
      ASSERT_TRUE(cpu_->digest(on_cpu[0], std::span(on_cpu).subspan(1), count, lanes.data()).ok());
      const size_t words = lanes.size() * DigestLanes::kCount;
      auto* digest = gpu_.allocate<uint32_t>(words);
      ASSERT_TRUE(
          launch_digest(on_gpu[0], std::span(on_gpu).subspan(1), count, digest, gpu_.stream())
              .ok());
      const std::vector<uint32_t> found = gpu_.download(digest, words);
      EXPECT_EQ(std::memcmp(found.data(), lanes.data(), words * 4), 0) << slots << " slots";
    }
  });
}

TEST_F(EmulatedKernels, BiasAndActivation) {
  each([&](size_t offset) {
    for (const int64_t channels : {1, 3, 4, 8, 13, 130}) {
      for (const Activation activation : {Activation::linear, Activation::relu}) {
        for (const bool has_bias : {false, true}) {
          const int64_t rows = 7;
          const Floats x = with_special_values(random_floats(1, rows * channels));
          const Floats bias = random_floats(2, channels);
          Floats expected = x;
          for (size_t i = 0; i < expected.size(); ++i) {
            if (has_bias) expected[i] += bias[i % static_cast<size_t>(channels)];
            if (activation == Activation::relu && 0.0f > expected[i]) expected[i] = 0.0f;
          }
          float* y = gpu_.allocate<float>(x.size(), offset);
          ASSERT_TRUE(launch_bias_activation(gpu_.upload(x, offset),
                                             has_bias ? gpu_.upload(bias, offset) : nullptr,
                                             activation, rows, channels, y, gpu_.stream())
                          .ok());
          expect_same(gpu_.download(y, x.size()), expected, "bias");
        }
      }
    }
  });
}

// Up to 64 rows are added in order, as the CPU adds a partition's.
TEST_F(EmulatedKernels, ColumnSumsOfFewRows) {
  each([&](size_t offset) {
    for (const int64_t rows : {1, 2, 33, 64}) {
      for (const int64_t channels : {1, 5, 32, 200}) {
        DenseOp op{Pass::weight_gradient, 2, channels, Activation::linear, 0, 2 * channels};
        const OpCase c = cpu_test::dense_case(op);
        const std::vector<Floats> inputs = cpu_test::random_inputs(c, static_cast<int>(rows), 9);
        const PartitionGroup group{0, {static_cast<int>(rows)}, {{0, 0}}};
        const Floats root = cpu_test::OpRunner(*cpu_).run(c, group, inputs, {}).roots[0];
        float* out = gpu_.allocate<float>(static_cast<size_t>(channels), offset);
        ASSERT_TRUE(launch_column_sums(gpu_.upload(inputs[1], offset), rows, channels, nullptr, out,
                                       gpu_.stream())
                        .ok());
        expect_same(gpu_.download(out, static_cast<size_t>(channels)),
                    {root.begin() + op.bias_offset, root.begin() + 3 * channels}, "column sums");
      }
    }
  });
}

// More rows: an order of its own, which no order of threads changes.
TEST_F(EmulatedKernels, ColumnSumsOfManyRows) {
  for (const int64_t rows : {65, 300, 1111}) {
    for (const int64_t channels : {1, 3, 32, 45}) {
      const Floats x = random_floats(4, rows * channels);
      std::vector<Floats> found;
      each([&](size_t offset) {
        const int64_t floats = column_sums_scratch(rows, channels);
        float* scratch = floats == 0 ? nullptr : gpu_.allocate<float>(static_cast<size_t>(floats));
        float* out = gpu_.allocate<float>(static_cast<size_t>(channels), offset);
        ASSERT_TRUE(
            launch_column_sums(gpu_.upload(x, offset), rows, channels, scratch, out, gpu_.stream())
                .ok());
        found.push_back(gpu_.download(out, static_cast<size_t>(channels)));
        expect_same(found.back(), found[0], "column sums");
      });
      for (int64_t c = 0; c < channels; ++c) {
        double sum = 0;
        for (int64_t row = 0; row < rows; ++row) sum += x[static_cast<size_t>(row * channels + c)];
        EXPECT_NEAR(found[0][static_cast<size_t>(c)], sum, 1e-4);
      }
    }
  }
}

TEST_F(EmulatedKernels, TransposeAndMask) {
  each([&](size_t offset) {
    for (const int64_t rows : {1, 31, 33, 70}) {
      for (const int64_t columns : {1, 9, 32, 65}) {
        const Floats in = with_special_values(random_floats(5, rows * columns));
        const Floats gate = with_special_values(random_floats(6, rows * columns));
        Floats expected(in.size()), masked(in.size());
        for (int64_t r = 0; r < rows; ++r) {
          for (int64_t c = 0; c < columns; ++c) {
            expected[static_cast<size_t>(c * rows + r)] = in[static_cast<size_t>(r * columns + c)];
          }
        }
        for (size_t i = 0; i < in.size(); ++i) masked[i] = gate[i] > 0.0f ? expected[i] : 0.0f;
        float* out = gpu_.allocate<float>(in.size(), offset);
        ASSERT_TRUE(
            launch_transpose(gpu_.upload(in, offset), rows, columns, out, gpu_.stream()).ok());
        expect_same(gpu_.download(out, in.size()), expected, "transpose");
        ASSERT_TRUE(
            launch_mask(gpu_.upload(gate, offset), rows * columns, out, gpu_.stream()).ok());
        expect_same(gpu_.download(out, in.size()), masked, "mask");
      }
    }
  });
}

// An op of the graph by its kernel, as cuda/elementwise_ops.cc launches it.
class KernelRunner {
 public:
  KernelRunner(TestGpu& gpu, size_t offset) : gpu_(gpu), offset_(offset) {}

  Floats run(const OpCase& c, int rows, const std::vector<Floats>& inputs, Floats* root) {
    rows_ = rows;
    for (const Floats& input : inputs) in_.push_back(gpu_.upload(input, offset_));
    if (c.relu_mask) mask_ = in_.back();
    const size_t count = static_cast<size_t>(c.output * rows);
    out_ = gpu_.allocate<float>(count, offset_);
    const auto* loss = std::get_if<SoftmaxCrossEntropyOp>(&c.attributes);
    batch_ = cpu_test::make_batch(0, rows, loss == nullptr ? 10 : loss->classes);
    parameters_ = gpu_.upload(std::vector<RunParameters>{{11, 3, 0.125f}});
    EXPECT_TRUE(std::visit([&](const auto& op) { return launch(op); }, c.attributes).ok());
    if (metrics_ != nullptr) *root = gpu_.download(metrics_, kMetricCount);
    return gpu_.download(out_, count);
  }

 private:
  Status launch(const MaxPool2dOp& op) {
    if (op.pass == Pass::forward) return launch_max_pool(op, in_[0], rows_, out_, stream());
    return launch_max_pool_gradient(op, in_[0], in_[1], in_[2], mask_, rows_, out_, stream());
  }
  Status launch(const DropoutOp& op) {
    return launch_dropout(op, parameters_, gpu_.upload(batch_.positions), in_[0], mask_, rows_,
                          out_, stream());
  }
  Status launch(const ReluOp& op) {
    const int64_t count = rows_ * op.features;
    if (op.pass == Pass::forward) return launch_relu(in_[0], count, out_, stream());
    return launch_relu_gradient(in_[0], in_[1], mask_, count, out_, stream());
  }
  Status launch(const SoftmaxOp& op) {
    return launch_softmax(in_[0], rows_, op.features, out_, stream());
  }
  Status launch(const SoftmaxCrossEntropyOp& op) {
    metrics_ = gpu_.allocate<float>(kMetricCount);
    float* scratch = gpu_.allocate<float>(2 * static_cast<size_t>(rows_));
    return launch_cross_entropy(in_[0], gpu_.upload(batch_.labels), parameters_, rows_, op.classes,
                                out_, scratch, metrics_, stream());
  }
  template <class Op>
  Status launch(const Op&) {
    return Error{"no kernel of ours"};
  }
  cudaStream_t stream() const { return gpu_.stream(); }

  TestGpu& gpu_;
  const size_t offset_;
  int rows_ = 0;
  std::vector<float*> in_;
  const float* mask_ = nullptr;
  float* out_ = nullptr;
  HostBatch batch_;
  const RunParameters* parameters_ = nullptr;
  float* metrics_ = nullptr;
};

// What KernelRunner can launch.
bool is_known(const OpAttributes& op) {
  return std::holds_alternative<MaxPool2dOp>(op) || std::holds_alternative<DropoutOp>(op) ||
         std::holds_alternative<ReluOp>(op) || std::holds_alternative<SoftmaxOp>(op) ||
         std::holds_alternative<SoftmaxCrossEntropyOp>(op);
}

// Ops without a kernel of cuDNN or cublasLt; more sizes than the CPU's own tests have.
std::vector<OpCase> own_cases() {
  std::vector<OpCase> cases;
  for (const OpCase& c : cpu_test::forward_cases()) {
    if (is_known(c.attributes)) cases.push_back(c);
  }
  for (const Pass pass : {Pass::forward, Pass::data_gradient}) {
    for (const int64_t features : {1, 4, 20, 37}) {
      const bool gradient = pass == Pass::data_gradient;
      cases.push_back({"dropout", DropoutOp{pass, features, 0.5f, 2, 3}, {features}, features});
      cases.push_back({"relu", ReluOp{pass, features}, {features}, features, gradient});
      if (gradient) cases.back().inputs.push_back(features);
    }
  }
  for (const int64_t classes : {1, 2, 3, 10, 31, 128, 1000, 2600}) {
    cases.push_back({"softmax", SoftmaxOp{classes}, {classes}, classes});
    cases.push_back(
        {"loss", SoftmaxCrossEntropyOp{classes, 0}, {classes}, classes, false, kMetricCount});
  }
  MaxPool2dOp pool{Pass::forward, 8, 9, 4, 4, 4, 2, 3, 2, 2};  // vectors of channels
  cases.push_back({"pool of 4 channels", pool, {8 * 9 * 4}, 4 * 4 * 4});
  pool.pass = Pass::data_gradient;
  cases.push_back({"pool gradient of 4 channels", pool, {8 * 9 * 4, 64, 64}, 8 * 9 * 4, true});
  return cases;
}

// Ties and special values in the logits, the image and what is masked by.
std::vector<Floats> inputs_of(const OpCase& c, int rows) {
  std::vector<Floats> inputs = cpu_test::random_inputs(c, rows, 21);
  const bool is_softmax = std::holds_alternative<SoftmaxOp>(c.attributes) ||
                          std::holds_alternative<SoftmaxCrossEntropyOp>(c.attributes);
  for (Floats& input : inputs) {
    for (size_t i = 0; i < input.size(); i += 3) input[i] = std::round(4 * input[i]) / 4;
    if (!is_softmax) input = with_special_values(std::move(input));
  }
  return inputs;
}

// The forward pass of a pool gradient, so that y is the maximum of x.
void make_consistent(const OpCase& c, int rows, Device& cpu, std::vector<Floats>* inputs) {
  const auto* pool = std::get_if<MaxPool2dOp>(&c.attributes);
  if (pool == nullptr || pool->pass == Pass::forward) return;
  OpCase forward{"pool", *pool, {c.inputs[0]}, c.inputs[1]};
  std::get<MaxPool2dOp>(forward.attributes).pass = Pass::forward;
  const PartitionGroup group{0, {rows}, {{0, 0}}};
  (*inputs)[1] = cpu_test::OpRunner(cpu).run(forward, group, {(*inputs)[0]}, {}).output;
}

TEST_F(EmulatedKernels, OpsOfTheGraph) {
  for (const OpCase& c : own_cases()) {
    for (const int rows : {1, 5, 67}) {
      std::vector<Floats> inputs = inputs_of(c, rows);
      make_consistent(c, rows, *cpu_, &inputs);
      const PartitionGroup group{0, {rows}, {{0, 0}}};
      const auto expected = cpu_test::OpRunner(*cpu_).run(c, group, inputs, {});
      each([&](size_t offset) {
        const std::string what = c.name + " of " + std::to_string(rows) + " rows";
        Floats root;
        expect_same(KernelRunner(gpu_, offset).run(c, rows, inputs, &root), expected.output, what);
        if (!root.empty()) expect_same(root, expected.roots[0], what + ", metrics");
      });
      if (HasFatalFailure()) return;
    }
  }
}

}  // namespace
}  // namespace lockstep
