// A row's bits depend on nothing but the row: not on rows beside it, nor on the vector's width.
#include <algorithm>

#include "tests/cpu/cpu_test_support.h"

namespace lockstep::cpu_test {
namespace {

constexpr int kRowCount = 37;

OpResult run_rows(OpRunner& runner, const OpCase& c, const std::vector<Floats>& inputs,
                  const Floats& weights, int begin, int end) {
  std::vector<Floats> rows;
  for (size_t i = 0; i < inputs.size(); ++i) {
    const int64_t features = i < c.inputs.size() ? c.inputs[i] : c.output;
    rows.push_back(slice(inputs[i], features, begin, end));
  }
  PartitionGroup group{.first = 4, .rows = {end - begin}};
  if (c.parameters == kMetricCount) group.roots = {{4, 0}};
  return runner.run(c, group, rows, weights, begin);
}

class RowIndependence : public testing::TestWithParam<std::string> {};

TEST_P(RowIndependence, OfGroupAndNeighbours) {
  if (!cpu_supports(GetParam())) GTEST_SKIP() << "this CPU cannot run " << GetParam();
  const std::unique_ptr<Device> device = make_device(GetParam());
  OpRunner runner(*device);
  for (const OpCase& c : joined(forward_cases(), general_cases())) {
    const std::vector<Floats> inputs = random_inputs(c, kRowCount, 5);
    const Floats weights = random_floats(99, c.parameters);
    const Floats whole = run_rows(runner, c, inputs, weights, 0, kRowCount).output;
    for (const int size : {1, 2, 5, 8, 16}) {
      // Groups that overlap: every row meets other neighbours, in another lane.
      for (int begin = 0; begin + size <= kRowCount; begin += std::max(size - 1, 4)) {
        const Floats part = run_rows(runner, c, inputs, weights, begin, begin + size).output;
        ASSERT_EQ(first_difference(part, slice(whole, c.output, begin, begin + size)), "none")
            << c.name << ", rows from " << begin << ", " << size;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Cpu, RowIndependence, testing::Values("cpu-avx2", "cpu-avx512"));

TEST(VectorWidth, ForwardHasTheSameBits) {
  if (!cpu_supports("cpu-avx512")) GTEST_SKIP() << "this CPU has no AVX-512";
  const std::unique_ptr<Device> narrow = make_device("cpu-avx2");
  const std::unique_ptr<Device> wide = make_device("cpu-avx512");
  OpRunner narrow_runner(*narrow), wide_runner(*wide);
  for (const OpCase& c : joined(forward_cases(), general_cases())) {
    const std::vector<Floats> inputs = random_inputs(c, kRowCount, 6);
    const Floats weights = random_floats(98, c.parameters);
    const OpResult a = run_rows(narrow_runner, c, inputs, weights, 0, kRowCount);
    const OpResult b = run_rows(wide_runner, c, inputs, weights, 0, kRowCount);
    ASSERT_EQ(first_difference(a.output, b.output), "none") << c.name;
    for (size_t i = 0; i < a.roots.size(); ++i) {
      ASSERT_EQ(first_difference(a.roots[i], b.roots[i]), "none") << c.name;
    }
  }
}

TEST(VectorWidth, WeightGradientHasTheSameBits) {
  if (!cpu_supports("cpu-avx512")) GTEST_SKIP() << "this CPU has no AVX-512";
  const std::unique_ptr<Device> narrow = make_device("cpu-avx2");
  const std::unique_ptr<Device> wide = make_device("cpu-avx512");
  const PartitionGroup group{.first = 0, .rows = {13, 1, 0, 20}, .roots = {{0, 1}, {2, 1}}};
  for (const OpCase& c : joined(weight_gradient_cases(), general_gradient_cases())) {
    const std::vector<Floats> inputs = random_inputs(c, group.total_rows(), 7);
    const OpResult a = OpRunner(*narrow).run(c, group, inputs, {});
    const OpResult b = OpRunner(*wide).run(c, group, inputs, {});
    for (size_t i = 0; i < a.roots.size(); ++i) {
      ASSERT_EQ(first_difference(a.roots[i], b.roots[i]), "none") << c.name;
    }
  }
}

TEST(Rows, NoneIsFine) {
  const std::unique_ptr<Device> device = make_device();
  OpRunner runner(*device);
  for (const OpCase& c : joined(joined(forward_cases(), general_cases()),
                                joined(weight_gradient_cases(), general_gradient_cases()))) {
    const PartitionGroup group{.first = 2, .rows = {0, 0}, .roots = {{2, 1}}};
    const OpResult result =
        runner.run(c, group, random_inputs(c, 0, 1), random_floats(1, c.parameters));
    for (const float x : result.roots[0])
      ASSERT_NE(x, x) << c.name << ": an empty root was touched";
  }
}

}  // namespace
}  // namespace lockstep::cpu_test
