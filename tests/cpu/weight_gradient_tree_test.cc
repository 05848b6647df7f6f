// Roots are sums in the order of the one tree, wherever it is cut.
#include <cmath>

#include "host/core/partitions.h"
#include "tests/cpu/cpu_test_support.h"

namespace lockstep::cpu_test {
namespace {

const std::vector<int> kPartitionRows = {13, 1, 0, 4, 0, 0, 9, 2};

std::vector<OpCase> cases_with_metrics() {
  std::vector<OpCase> cases = joined(weight_gradient_cases(), general_gradient_cases());
  cases.push_back({"loss", SoftmaxCrossEntropyOp{10, 0}, {10}, 10, false, kMetricCount});
  cases.push_back({"loss only", SoftmaxCrossEntropyOp{10, 0}, {10}, 0, false, kMetricCount});
  return cases;
}

int rows_before(int partition) {
  int rows = 0;
  for (int p = 0; p < partition; ++p) rows += kPartitionRows[static_cast<size_t>(p)];
  return rows;
}

bool has_rows(const Subtree& tree) { return rows_before(tree.first) < rows_before(tree.end()); }

// Runs the partitions [begin, end) as one group with these roots.
std::vector<Floats> run_range(OpRunner& runner, const OpCase& c, const std::vector<Floats>& inputs,
                              PartitionRange range, const std::vector<Subtree>& roots) {
  PartitionGroup group{.first = range.begin, .roots = roots};
  group.rows.assign(kPartitionRows.begin() + range.begin, kPartitionRows.begin() + range.end);
  std::vector<Floats> rows;
  for (size_t i = 0; i < inputs.size(); ++i) {
    rows.push_back(slice(inputs[i], c.inputs[i], rows_before(range.begin), rows_before(range.end)));
  }
  return runner.run(c, group, rows, {}, rows_before(range.begin)).roots;
}

void expect_written(const OpCase& c, const Floats& expected, const Floats& actual) {
  // What the op does not write stays as it was, NaN: the test's parameters begin at an offset.
  ASSERT_EQ(first_difference(expected, actual), "none") << c.name;
  int untouched = 0;
  for (const float x : actual) untouched += x != x ? 1 : 0;
  ASSERT_LT(untouched, static_cast<int>(actual.size())) << c.name;
}

class WeightGradientTree : public testing::TestWithParam<std::string> {};

TEST_P(WeightGradientTree, EveryCutGivesTheSameRoots) {
  if (!cpu_supports(GetParam())) GTEST_SKIP() << "this CPU cannot run " << GetParam();
  const std::unique_ptr<Device> device = make_device(GetParam());
  OpRunner runner(*device);
  const int partitions = static_cast<int>(kPartitionRows.size());
  for (const OpCase& c : cases_with_metrics()) {
    const std::vector<Floats> inputs = random_inputs(c, rows_before(partitions), 17);
    std::vector<Floats> leaves;
    for (int p = 0; p < partitions; ++p) {
      leaves.push_back(run_range(runner, c, inputs, {p, p + 1}, {{p, 0}})[0]);
    }
    for (int begin = 0; begin < partitions; begin += 3) {
      for (int end = begin + 1; end <= partitions; ++end) {
        const std::vector<Subtree> roots = maximal_subtrees({begin, end});
        const std::vector<Floats> sums = run_range(runner, c, inputs, {begin, end}, roots);
        for (size_t i = 0; i < roots.size(); ++i) {
          if (has_rows(roots[i])) {
            expect_written(c, sum_of_leaves(*device, leaves, roots[i], has_rows), sums[i]);
          } else {
            for (const float x : sums[i]) ASSERT_NE(x, x) << c.name << ": empty root touched";
          }
        }
      }
    }
  }
}

// A partition's gradient is its rows' gradients added in row order.
TEST_P(WeightGradientTree, ConvolutionRowsAreAddedInOrder) {
  if (!cpu_supports(GetParam())) GTEST_SKIP() << "this CPU cannot run " << GetParam();
  const std::unique_ptr<Device> device = make_device(GetParam());
  OpRunner runner(*device);
  const OpCase c = conv_case(conv(6, 3, 5, 3, 1, true, Pass::weight_gradient));
  const int rows = 19;
  const std::vector<Floats> inputs = random_inputs(c, rows, 23);
  Floats sum;
  for (int row = 0; row < rows; ++row) {
    const std::vector<Floats> one = {slice(inputs[0], c.inputs[0], row, row + 1),
                                     slice(inputs[1], c.inputs[1], row, row + 1)};
    const PartitionGroup group{.first = 0, .rows = {1}, .roots = {{0, 0}}};
    const Floats gradient = runner.run(c, group, one, {}).roots[0];
    if (row == 0) {
      sum = gradient;
    } else {
      for (size_t i = 0; i < sum.size(); ++i) sum[i] += gradient[i];
    }
  }
  const PartitionGroup all{.first = 0, .rows = {rows}, .roots = {{0, 0}}};
  EXPECT_EQ(first_difference(sum, runner.run(c, all, inputs, {}).roots[0]), "none");
}

// A partition's dense gradient is one FMA chain over its rows, its bias gradient their sum in
// order.
TEST_P(WeightGradientTree, DenseRowsAreOneChain) {
  if (!cpu_supports(GetParam())) GTEST_SKIP() << "this CPU cannot run " << GetParam();
  const std::unique_ptr<Device> device = make_device(GetParam());
  OpRunner runner(*device);
  const int in = 21, out = 35;
  const OpCase c = dense_case({.pass = Pass::weight_gradient,
                               .in_features = in,
                               .out_features = out,
                               .bias_offset = in * out});
  for (const int rows : {1, 3, 4, 8, 9, 19}) {
    const std::vector<Floats> inputs = random_inputs(c, rows, 29);
    Floats expected;
    for (int i = 0; i < (in + 1) * out; ++i) {
      float sum = -0.0f;
      for (int row = 0; row < rows; ++row) {
        const float dy = inputs[1][static_cast<size_t>(row * out + i % out)];
        const bool bias = i >= in * out;
        const float x = bias ? 1 : inputs[0][static_cast<size_t>(row * in + i / out)];
        sum = std::fma(x, dy, sum);
      }
      expected.push_back(sum);
    }
    const PartitionGroup group{.first = 0, .rows = {rows}, .roots = {{0, 0}}};
    EXPECT_EQ(first_difference(expected, runner.run(c, group, inputs, {}).roots[0]), "none");
  }
}

INSTANTIATE_TEST_SUITE_P(Cpu, WeightGradientTree, testing::Values("cpu-avx2", "cpu-avx512"));

}  // namespace
}  // namespace lockstep::cpu_test
