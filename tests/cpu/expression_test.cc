// Random expressions against their instructions one by one, to the bit.
#include <cmath>

#include "host/core/math.h"
#include "host/core/math_power.h"
#include "host/cpu/expression_plan.h"
#include "tests/cpu/cpu_test_support.h"

namespace lockstep::cpu_test {
namespace {

// Counted random numbers for choices.
class Choices {
 public:
  explicit Choices(uint64_t key) : key_(key) {}
  int below(int end) {
    return static_cast<int>(uniform_at(key_, next_++) * static_cast<float>(end));
  }
  float number() {
    const float special[] = {0.0f, -0.0f, 1, -1, 2, 0.5f, 1e30f, -1e-40f, INFINITY, NAN};
    if (below(6) == 0) return special[below(10)];
    return 4 * uniform_at(key_, next_++) - 2;
  }

 private:
  uint64_t key_;
  uint64_t next_ = 0;
};

constexpr int kOperands = 4;

Expression random_expression(Choices& choices, int outputs, bool random) {
  ExpressionBuilder e;
  std::vector<Term> terms;
  for (int i = 0; i < kOperands; ++i) terms.push_back(e.operand(i));
  terms.push_back(e.scalar(0));
  const int length = choices.below(30) + 1;
  const int first = static_cast<int>(Operation::negate);
  const int count = static_cast<int>(Operation::select) - first + 1;
  for (int i = 0; i < length; ++i) {
    const auto term = [&] {
      return terms[static_cast<size_t>(choices.below(static_cast<int>(terms.size())))];
    };
    const int choice = choices.below(count + 2);
    if (choice == count) {
      terms.push_back(e.constant(static_cast<double>(choices.number())));
    } else if (choice > count) {
      if (random) terms.push_back(choices.below(2) == 0 ? e.uniform(1) : e.normal(0));
    } else {
      terms.push_back(e.apply(static_cast<Operation>(first + choice), term(), term(), term()));
    }
  }
  std::vector<Term> results = {terms.back()};
  while (static_cast<int>(results.size()) < outputs) {
    results.push_back(terms[static_cast<size_t>(choices.below(static_cast<int>(terms.size())))]);
  }
  return e.finish(results);
}

float unary(Operation operation, float a) {
  switch (operation) {
    case Operation::negate:
      return -a;
    case Operation::absolute:
      return math::absolute(a);
    case Operation::sign:
      return math::sign(a);
    case Operation::floor:
      return math::floor(a);
    case Operation::square_root:
      return math::square_root(a);
    case Operation::exp:
      return math::exp(a);
    case Operation::expm1:
      return math::expm1(a);
    case Operation::log:
      return math::log(a);
    case Operation::log1p:
      return math::log1p(a);
    case Operation::tanh:
      return math::tanh(a);
    case Operation::sigmoid:
      return math::sigmoid(a);
    default:
      return math::erf(a);
  }
}

float binary(Operation operation, float a, float b) {
  switch (operation) {
    case Operation::add:
      return a + b;
    case Operation::subtract:
      return a - b;
    case Operation::multiply:
      return a * b;
    case Operation::divide:
      return a / b;
    case Operation::maximum:
      return a > b ? a : b;
    case Operation::minimum:
      return a < b ? a : b;
    case Operation::power:
      return math::power(a, b);
    case Operation::greater:
      return a > b ? 1.0f : 0.0f;
    case Operation::greater_equal:
      return a >= b ? 1.0f : 0.0f;
    default:
      return a == b ? 1.0f : 0.0f;
  }
}

// noise(stream): the words.
template <class Noise>
Floats results_of(const Expression& expression, const Floats& operands, float scalar,
                  const Noise& noise) {
  Floats results;
  for (const Instruction& i : expression.code) {
    const auto value = [&](int index) { return results[static_cast<size_t>(index)]; };
    const int count = argument_count(i.operation);
    float result = i.value;
    if (i.operation == Operation::operand) result = operands[static_cast<size_t>(i.a)];
    if (i.operation == Operation::scalar) result = scalar;
    if (i.operation == Operation::uniform) result = uniform_from_bits(noise(i.a)[0]);
    if (i.operation == Operation::normal) {
      result = normal_from_bits(noise(i.a)[0], noise(i.a)[1]);
    }
    if (count == 1) result = unary(i.operation, value(i.a));
    if (count == 2) result = binary(i.operation, value(i.a), value(i.b));
    if (count == 3) result = value(i.a) != 0 ? value(i.b) : value(i.c);
    results.push_back(result);
  }
  Floats outputs;
  for (const int output : expression.outputs)
    outputs.push_back(results[static_cast<size_t>(output)]);
  return outputs;
}

// Which NaN it is does not matter.
bool same(float a, float b) {
  return std::bit_cast<uint32_t>(a) == std::bit_cast<uint32_t>(b) || (a != a && b != b);
}

class Expressions : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    if (!cpu_supports(GetParam())) GTEST_SKIP() << "this CPU cannot run " << GetParam();
    device_ = make_device(GetParam());
  }
  std::unique_ptr<Device> device_;
};

TEST_P(Expressions, OverValues) {
  for (uint64_t seed = 0; seed < 300; ++seed) {
    Choices choices(seed);
    MapOp op;
    const int64_t channels = choices.below(20) + 1;
    const int64_t divisor = choices.below(5) + 1;
    op.features = channels * divisor * (choices.below(6) + 1);
    op.expression = random_expression(choices, 1, seed % 3 == 0);
    op.noise = {1, op.features};
    op.layer = 7;
    op.call = 2;
    int inputs = 0;
    for (int i = 0; i < kOperands; ++i) {
      const Broadcast shapes[] = {
          {1, op.features}, {1, op.features}, {1, channels}, {divisor, channels}, {1, 1}};
      const bool parameters = choices.below(4) == 0;
      op.operands.push_back({parameters ? -1 : inputs, 3 * i, shapes[choices.below(5)]});
      if (!parameters) ++inputs;
    }
    const OpCase c = map_case(op, "map");
    const int rows = choices.below(20) + 1;
    const PartitionGroup group{.first = 0, .rows = {rows}};
    std::vector<Floats> data = random_inputs(c, rows, seed);
    Floats weights(static_cast<size_t>(c.parameters));
    for (Floats& values : data) {
      for (float& x : values) x = choices.number();
    }
    for (float& x : weights) x = choices.number();
    const Floats y = OpRunner(*device_).run(c, group, data, weights).output;
    const HostBatch batch = make_batch(0, rows, 10);
    for (int64_t at = 0; at < rows * op.features; ++at) {
      const int64_t row = at / op.features, f = at % op.features;
      Floats operands;
      for (const MapOperand& operand : op.operands) {
        const int64_t index = operand.broadcast.at(f);
        operands.push_back(
            operand.input < 0 ? weights[static_cast<size_t>(operand.offset + index)]
                              : data[static_cast<size_t>(operand.input)]
                                    [static_cast<size_t>(row * operand.broadcast.modulus + index)]);
      }
      const auto noise = [&](int stream) {
        return philox4x32({static_cast<uint32_t>(f), batch.positions[static_cast<size_t>(row)], 3,
                           7 + (static_cast<uint32_t>(stream) << 20)},
                          derive_key(11, kNoisePurpose, 2));
      };
      const float expected = results_of(op.expression, operands, 0.125f, noise)[0];
      ASSERT_TRUE(same(expected, y[static_cast<size_t>(at)]))
          << "seed " << seed << ", element " << at << ": " << expected << " and "
          << y[static_cast<size_t>(at)];
    }
  }
}

// Outputs lie where operands lie, as in an optimizer's step.
TEST_P(Expressions, OverFlatMemory) {
  const auto& kernels = GetParam() == "cpu-avx512" ? cpu::avx512_kernels() : cpu::avx2_kernels();
  for (uint64_t seed = 0; seed < 300; ++seed) {
    Choices choices(seed);
    const int outputs = choices.below(kOperands) + 1;
    const Expression expression = random_expression(choices, outputs, false);
    const int64_t count = choices.below(3) * 512 + choices.below(40);
    std::vector<Floats> data(kOperands, Floats(static_cast<size_t>(count) + 1, 77.0f));
    for (Floats& values : data) {
      for (int64_t i = 0; i < count; ++i) values[static_cast<size_t>(i)] = choices.number();
    }
    const std::vector<Floats> before = data;
    std::vector<const float*> operands;
    std::vector<float*> results;
    for (Floats& values : data) operands.push_back(values.data());
    for (int k = 0; k < outputs; ++k) results.push_back(data[static_cast<size_t>(k)].data());
    const float scalar = choices.number();
    cpu::FlatExpression(kernels, expression).evaluate(operands, {&scalar, 1}, results, count);
    for (size_t i = 0; i <= static_cast<size_t>(count); ++i) {
      Floats expected;
      for (const Floats& values : before) expected.push_back(values[i]);
      const auto no_noise = [](int) { return std::array<uint32_t, 4>(); };
      const Floats computed = results_of(expression, expected, scalar, no_noise);
      if (i < static_cast<size_t>(count))
        std::copy(computed.begin(), computed.end(), expected.begin());
      for (size_t k = 0; k < data.size(); ++k) {
        ASSERT_TRUE(same(expected[k], data[k][i]))
            << "seed " << seed << ", operand " << k << ", element " << i;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Cpu, Expressions, testing::Values("cpu-avx2", "cpu-avx512"));

}  // namespace
}  // namespace lockstep::cpu_test
