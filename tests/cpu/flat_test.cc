// Arithmetic over flat memory: naive numbers, and the same bits however many devices share it.
#include <array>
#include <cmath>

#include "host/device/flat_math.h"
#include "tests/cpu/cpu_test_support.h"
#include "tests/support/flat_cases.h"

namespace lockstep::cpu_test {
namespace {

// In memory that is there even where there are none.
Floats values(uint64_t seed, int64_t count) {
  Floats made = random_floats(seed, count);
  made.reserve(1);
  return made;
}

class Flat : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    if (!cpu_supports(GetParam())) GTEST_SKIP() << "this CPU cannot run " << GetParam();
    for (auto& device : devices_) device = make_device(GetParam());
  }
  // The first `count` devices, one after the other.
  FlatMath math(size_t count) {
    std::vector<Device*> devices;
    for (size_t i = 0; i < count; ++i) devices.push_back(devices_[i].get());
    return FlatMath(devices, [count](const FlatMath::Task& task) {
      for (size_t i = count; i-- > 0;) task(static_cast<int>(i));
    });
  }
  // Of 1 and of 3 devices: the same. `compute(math, out)`.
  template <class Compute>
  Floats result(int64_t count, const Compute& compute) {
    Floats one(static_cast<size_t>(count)), three(one);
    FlatMath alone = math(1), shared = math(3);
    EXPECT_TRUE(compute(alone, one.data()).ok());
    EXPECT_TRUE(compute(shared, three.data()).ok());
    EXPECT_TRUE(same_bits(one, three));
    return one;
  }

  std::array<std::unique_ptr<Device>, 3> devices_;
};

TEST_P(Flat, Squares) {
  for (const int64_t count : flat_cases::kSquares) {
    const Floats x = values(1, count), y = values(2, 77);
    const std::vector<SquaresTask> tasks = {{flat_cases::itself(), {x.data()}, count},
                                            {flat_cases::itself(), {y.data()}, 77}};
    FlatMath alone = math(1), shared = math(3);
    const auto sums = alone.squares(tasks).value();
    EXPECT_EQ(sums, shared.squares(tasks).value());
    for (size_t i = 0; i < tasks.size(); ++i) {
      double expected = 0;
      for (const float value : i == 0 ? x : y) expected += double{value} * value;
      EXPECT_NEAR(sums[i][0], expected, 1e-12 * expected);
    }
  }
}

TEST_P(Flat, SumsAlongAnAxis) {
  for (const AxisSum& sum : flat_cases::axis_sums()) {
    const Floats x = values(3, sum.outputs() * sum.size);
    const Floats found = result(sum.outputs(), [&](FlatMath& math, float* out) {
      return math.sum_axis(x.data(), sum, out);
    });
    for (int64_t i = 0; i < sum.outputs(); ++i) {
      double expected = 0;
      for (int64_t k = 0; k < sum.size; ++k) {
        expected +=
            x[static_cast<size_t>((i / sum.inner * sum.size + k) * sum.inner + i % sum.inner)];
      }
      EXPECT_EQ(found[static_cast<size_t>(i)], static_cast<float>(expected)) << i;
    }
  }
}

TEST_P(Flat, Products) {
  for (const MatmulOp& op : flat_cases::products()) {
    const Floats x = values(4, flat_cases::x_size(op));
    const Floats z = values(5, flat_cases::z_size(op));
    const Floats found = result(flat_cases::out_size(op), [&](FlatMath& math, float* out) {
      return math.multiply(op, x.data(), z.data(), out);
    });
    for (int64_t i = 0; i < std::ssize(found); ++i) {
      const int64_t batch = i / op.columns / op.rows;
      const int64_t m = i / op.columns % op.rows, n = i % op.columns;
      float expected = 0;
      for (int64_t k = 0; k < op.inner; ++k) {
        const int64_t x_at = batch * op.x.batch + m * op.x.row + k * op.x.column;
        const int64_t z_at = batch * op.z.batch + k * op.z.row + n * op.z.column;
        expected = std::fma(x[static_cast<size_t>(x_at)], z[static_cast<size_t>(z_at)], expected);
      }
      ASSERT_EQ(found[static_cast<size_t>(i)], expected) << i;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(isas, Flat, testing::Values("cpu-avx2", "cpu-avx512"),
                         [](const auto& name) { return name.param.substr(4); });

}  // namespace
}  // namespace lockstep::cpu_test
