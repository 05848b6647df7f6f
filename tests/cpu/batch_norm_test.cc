// Batch normalization: against the naive device, and each partition as if it were alone.
#include "tests/cpu/cpu_test_support.h"
#include "tests/nn/naive_device.h"

namespace lockstep::cpu_test {
namespace {

struct Norm {
  int64_t features = 0;
  Broadcast channel;
  bool has_scale = true;
  bool relu_mask = false;
};

const std::vector<Norm> kNorms = {
    {1, {1, 1}},           {13, {1, 13}},       {40, {1, 8}, false}, {33, {1, 3}, true, true},
    {100, {1, 1}},         {16 * 70, {1, 16}},  {17 * 31, {31, 17}}, {12, {3, 4}, false, true},
    {2 * 5 * 50, {50, 5}}, {3 * 7 * 9, {9, 7}},
};

OpCase forward_case(const Norm& norm) {
  const int64_t channels = norm.channel.modulus;
  BatchNormOp op{.features = norm.features, .channel = norm.channel, .epsilon = 1e-3f};
  if (norm.has_scale) op.gamma_offset = 1, op.beta_offset = 1 + channels;
  op.mean_offset = 3;
  OpCase c{"norm", op, {norm.features}, norm.features};
  c.parameters = 3 + 2 * channels;
  c.partition_outputs = {channels, channels};
  return c;
}

OpCase gradient_case(const Norm& norm) {
  const int64_t channels = norm.channel.modulus;
  BatchNormOp op{.pass = Pass::data_gradient, .features = norm.features, .channel = norm.channel};
  if (norm.has_scale) {
    op.gamma_offset = op.gamma_gradient = 1;
    op.beta_offset = op.beta_gradient = 1 + channels;
  }
  OpCase c{"norm gradient", op, {norm.features, norm.features}, norm.features, norm.relu_mask};
  c.parameters = 3 + 2 * channels;
  c.partition_inputs = {channels, channels};
  return c;
}

const std::vector<int> kRows = {13, 1, 0, 4, 0, 0, 9, 2};

int norm_rows_before(int partition) {
  int rows = 0;
  for (int p = 0; p < partition; ++p) rows += kRows[static_cast<size_t>(p)];
  return rows;
}

bool norm_has_rows(const Subtree& tree) {
  return norm_rows_before(tree.first) < norm_rows_before(tree.end());
}

PartitionGroup group_of(int begin, int end) {
  PartitionGroup group{.first = begin, .roots = maximal_subtrees({begin, end})};
  group.rows.assign(kRows.begin() + begin, kRows.begin() + end);
  return group;
}

// The results of both passes for a group; the gradient's input is the forward pass' result.
struct Results {
  OpResult forward, gradient;
};

Results run(Device& device, const Norm& norm, const std::vector<Floats>& inputs,
            const Floats& weights, int begin, int end) {
  const PartitionGroup group = group_of(begin, end);
  const auto rows = [&](const Floats& data) {
    return slice(data, norm.features, norm_rows_before(begin), norm_rows_before(end));
  };
  Results results;
  OpRunner runner(device);
  results.forward = runner.run(forward_case(norm), group, {rows(inputs[0])}, weights);
  std::vector<Floats> values = {rows(inputs[0]), rows(inputs[1])};
  if (norm.relu_mask) values.push_back(rows(inputs[2]));
  for (const Floats& numbers : results.forward.partition_outputs) values.push_back(numbers);
  results.gradient = runner.run(gradient_case(norm), group, values, weights);
  return results;
}

std::vector<Floats> inputs_of(const Norm& norm, int rows) {
  std::vector<Floats> inputs;
  for (uint64_t key = 0; key < 3; ++key) inputs.push_back(random_floats(key, norm.features * rows));
  for (float& x : inputs[0]) x = 3 * x + 5;
  return inputs;
}

void expect_near(const Floats& expected, const Floats& actual, float tolerance) {
  ASSERT_EQ(expected.size(), actual.size());
  for (size_t i = 0; i < expected.size(); ++i) {
    const float e = expected[i], a = actual[i];
    ASSERT_EQ(e != e, a != a) << i;
    if (e != e) continue;
    ASSERT_NEAR(e, a, tolerance * (1 + std::abs(e))) << i;
  }
}

class BatchNorm : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    if (!cpu_supports(GetParam())) GTEST_SKIP() << "this CPU cannot run " << GetParam();
    device_ = make_device(GetParam());
  }
  std::unique_ptr<Device> device_;
};

TEST_P(BatchNorm, AgreesWithTheNaiveDevice) {
  naive::NaiveDevice naive;
  const int partitions = static_cast<int>(kRows.size());
  for (const Norm& norm : kNorms) {
    SCOPED_TRACE(std::to_string(norm.features) + "/" + std::to_string(norm.channel.modulus));
    const std::vector<Floats> inputs = inputs_of(norm, norm_rows_before(partitions));
    const Floats weights = random_floats(9, 3 + 2 * norm.channel.modulus);
    const Results expected = run(naive, norm, inputs, weights, 0, partitions);
    const Results actual = run(*device_, norm, inputs, weights, 0, partitions);
    // One row of one term has no variance: its deviation is large, and so are errors.
    const float tolerance = norm.features == norm.channel.modulus ? 5e-5f : 5e-6f;
    expect_near(expected.forward.output, actual.forward.output, tolerance);
    expect_near(expected.forward.roots[0], actual.forward.roots[0], 5e-6f);
    expect_near(expected.gradient.output, actual.gradient.output, tolerance);
    expect_near(expected.gradient.roots[0], actual.gradient.roots[0], 5e-5f);
    for (size_t i = 0; i < 2; ++i) {
      const int64_t channels = norm.channel.modulus;
      for (int p = 0; p < partitions; ++p) {
        if (kRows[static_cast<size_t>(p)] == 0) continue;  // has none
        expect_near(slice(expected.forward.partition_outputs[i], channels, p, p + 1),
                    slice(actual.forward.partition_outputs[i], channels, p, p + 1), 2e-6f);
      }
    }
  }
}

// A partition begins in the middle of a row block, and stands beside others: its bits are the same.
TEST_P(BatchNorm, EveryGroupGivesTheSameBits) {
  const int partitions = static_cast<int>(kRows.size());
  for (const Norm& norm : kNorms) {
    const int64_t features = norm.features, channels = norm.channel.modulus;
    SCOPED_TRACE(std::to_string(features) + "/" + std::to_string(channels));
    const std::vector<Floats> inputs = inputs_of(norm, norm_rows_before(partitions));
    const Floats weights = random_floats(9, 3 + 2 * channels);
    std::vector<Results> alone;
    std::vector<Floats> forward_leaves, gradient_leaves;
    for (int p = 0; p < partitions; ++p) {
      alone.push_back(run(*device_, norm, inputs, weights, p, p + 1));
      forward_leaves.push_back(alone.back().forward.roots[0]);
      gradient_leaves.push_back(alone.back().gradient.roots[0]);
    }
    for (int begin = 0; begin < partitions; begin += 3) {
      for (int end = begin + 1; end <= partitions; ++end) {
        const Results group = run(*device_, norm, inputs, weights, begin, end);
        for (int p = begin; p < end; ++p) {
          const Results& one = alone[static_cast<size_t>(p)];
          const int first = norm_rows_before(p) - norm_rows_before(begin), last = first + kRows[p];
          if (first == last) continue;
          ASSERT_TRUE(
              same_bits(one.forward.output, slice(group.forward.output, features, first, last)));
          ASSERT_TRUE(
              same_bits(one.gradient.output, slice(group.gradient.output, features, first, last)));
          for (size_t i = 0; i < 2; ++i) {
            ASSERT_TRUE(same_bits(
                one.forward.partition_outputs[i],
                slice(group.forward.partition_outputs[i], channels, p - begin, p - begin + 1)));
          }
        }
        const std::vector<Subtree> roots = maximal_subtrees({begin, end});
        for (size_t i = 0; i < roots.size(); ++i) {
          if (!norm_has_rows(roots[i])) continue;
          const Floats forward = sum_of_leaves(*device_, forward_leaves, roots[i], norm_has_rows);
          const Floats gradient = sum_of_leaves(*device_, gradient_leaves, roots[i], norm_has_rows);
          ASSERT_EQ(first_difference(forward, group.forward.roots[i]), "none");
          ASSERT_EQ(first_difference(gradient, group.gradient.roots[i]), "none");
        }
      }
    }
  }
}

// Values far from zero, relative to how they vary.
TEST_P(BatchNorm, VarianceIsAccurate) {
  for (const float mean : {0.0f, 100.0f, 3000.0f}) {
    const Norm norm{48 * 48 * 3, {1, 3}, false};
    const int rows = 19;
    Floats x = random_floats(4, norm.features * rows);
    for (size_t i = 0; i < x.size(); ++i) x[i] = x[i] * static_cast<float>(1 + i % 3) + mean;
    const PartitionGroup group{.first = 0, .rows = {rows}, .roots = {{0, 0}}};
    const OpResult result = OpRunner(*device_).run(forward_case(norm), group, {x}, {});
    for (size_t c = 0; c < 3; ++c) {
      double sum = 0, squares = 0;
      const double n = static_cast<double>(x.size() / 3);
      for (size_t i = c; i < x.size(); i += 3) sum += static_cast<double>(x[i]);
      for (size_t i = c; i < x.size(); i += 3) {
        squares += std::pow(static_cast<double>(x[i]) - sum / n, 2);
      }
      const double variance = squares / n;
      // Of a mean a thousand times the deviation, sums lose digits.
      const double tolerance = mean > 1000 ? 1e-5 : 1e-6;
      EXPECT_NEAR(result.roots[0][6 + c] / rows, variance, tolerance * variance) << mean;
      EXPECT_NEAR(result.roots[0][3 + c] / rows, sum / n, 1e-6 * (std::abs(sum / n) + 0.1));
    }
  }
}

TEST(BatchNormWidth, HasTheSameBits) {
  if (!cpu_supports("cpu-avx512")) GTEST_SKIP() << "this CPU has no AVX-512";
  const std::unique_ptr<Device> narrow = make_device("cpu-avx2");
  const std::unique_ptr<Device> wide = make_device("cpu-avx512");
  for (const Norm& norm : kNorms) {
    const std::vector<Floats> inputs = inputs_of(norm, norm_rows_before(8));
    const Floats weights = random_floats(9, 3 + 2 * norm.channel.modulus);
    const Results a = run(*narrow, norm, inputs, weights, 0, 8);
    const Results b = run(*wide, norm, inputs, weights, 0, 8);
    EXPECT_TRUE(same_bits(a.forward.output, b.forward.output));
    EXPECT_TRUE(same_bits(a.gradient.output, b.gradient.output));
    EXPECT_TRUE(same_bits(a.forward.roots[0], b.forward.roots[0]));
    EXPECT_TRUE(same_bits(a.gradient.roots[0], b.gradient.roots[0]));
  }
}

INSTANTIATE_TEST_SUITE_P(Cpu, BatchNorm, testing::Values("cpu-avx2", "cpu-avx512"));

}  // namespace
}  // namespace lockstep::cpu_test
