// Expressions, gathers, matrices, embeddings and sums against the naive device.
#include <cmath>

#include "tests/cpu/cpu_test_support.h"
#include "tests/nn/naive_device.h"

namespace lockstep::cpu_test {
namespace {

void expect_near(const Floats& expected, const Floats& actual, double tolerance,
                 const std::string& name) {
  ASSERT_EQ(expected.size(), actual.size()) << name;
  for (size_t i = 0; i < expected.size(); ++i) {
    const double e = static_cast<double>(expected[i]), a = static_cast<double>(actual[i]);
    ASSERT_EQ(std::isnan(e), std::isnan(a)) << name << ", element " << i;
    if (std::isnan(e)) continue;
    ASSERT_NEAR(e, a, tolerance * (1 + std::abs(e))) << name << ", element " << i;
  }
}

// y as the maxima of x, where a case wants that.
void set_maxima(Device& device, const OpCase& c, const PartitionGroup& group,
                std::vector<Floats>* inputs) {
  const auto* op = std::get_if<GatherMaximumGradientOp>(&c.attributes);
  if (op == nullptr) return;
  // Ties: few different values.
  for (float& x : (*inputs)[0]) x = std::round(x * 2);
  GatherOp forward;
  forward.lists = op->lists;
  forward.input_features = {op->lists->inputs};
  forward.gathering = Gathering::maximum;
  const OpCase y{"y", forward, {op->lists->inputs}, op->lists->outputs()};
  (*inputs)[1] = OpRunner(device).run(y, group, {(*inputs)[0]}, {}).output;
}

// The naive device knows no masks of ops that are no gradients.
void mask_output(const OpCase& c, const Floats& mask, Floats* output) {
  const bool masks =
      std::holds_alternative<MapOp>(c.attributes) || std::holds_alternative<GatherOp>(c.attributes);
  for (size_t i = 0; masks && i < output->size(); ++i) {
    if (!(mask[i] > 0)) (*output)[i] = 0;
  }
}

class General : public testing::TestWithParam<std::string> {};

TEST_P(General, AgreesWithTheNaiveDevice) {
  if (!cpu_supports(GetParam())) GTEST_SKIP() << "this CPU cannot run " << GetParam();
  const std::unique_ptr<Device> device = make_device(GetParam());
  naive::NaiveDevice naive;
  for (const std::vector<int>& rows : {std::vector<int>{1}, {3}, {19}, {5, 0, 11, 4}}) {
    PartitionGroup group{.first = 0, .rows = rows, .roots = {{0, rows.size() == 1 ? 0 : 2}}};
    for (const OpCase& c : joined(general_cases(), general_gradient_cases())) {
      std::vector<Floats> inputs = random_inputs(c, group.total_rows(), 31);
      set_maxima(naive, c, group, &inputs);
      const Floats weights = random_floats(32, c.parameters);
      OpResult expected = OpRunner(naive).run(c, group, inputs, weights);
      const OpResult actual = OpRunner(*device).run(c, group, inputs, weights);
      if (c.relu_mask) mask_output(c, inputs[c.inputs.size()], &expected.output);
      expect_near(expected.output, actual.output, 2e-6, c.name);
      for (size_t i = 0; i < expected.roots.size(); ++i) {
        expect_near(expected.roots[i], actual.roots[i], 1e-5, c.name);
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Cpu, General, testing::Values("cpu-avx2", "cpu-avx512"));

}  // namespace
}  // namespace lockstep::cpu_test
