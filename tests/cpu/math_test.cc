// exp and log: accuracy, special values, and the same bits as scalars and in vectors.
#include "host/core/math.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "host/cpu/kernels.h"
#include "tests/cpu/cpu_test_support.h"

namespace lockstep::cpu_test {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Distance in units of the last place of the exact result.
double ulp_error(float actual, double exact) {
  const float rounded = static_cast<float>(exact);
  if (std::isinf(rounded) || rounded == 0) return actual == rounded ? 0 : 1e9;
  const double place = std::max(std::ldexp(1.0, std::ilogb(exact) - 23),
                                static_cast<double>(1.401298464324817e-45f));
  return std::abs(static_cast<double>(actual) - exact) / place;
}

Floats exp_inputs() {
  Floats inputs;
  for (int i = 0; i <= 400000; ++i)
    inputs.push_back(-104.0f + 193.0f * static_cast<float>(i) / 4e5f);
  for (int i = 0; i <= 100000; ++i) inputs.push_back(-1.0f + 2e-5f * static_cast<float>(i));
  return inputs;
}

Floats log_inputs() {
  Floats inputs;
  for (uint32_t bits = 1; bits < 0x7f800000; bits += 4099) {
    inputs.push_back(std::bit_cast<float>(bits));
  }
  for (int i = 0; i <= 100000; ++i) inputs.push_back(0.5f + 2e-5f * static_cast<float>(i));
  return inputs;
}

const Floats kSpecial = {0.0f,     -0.0f,  kInfinity, -kInfinity, __builtin_nanf(""),
                         -1.0f,    1.0f,   1e-45f,    -1e-45f,    3.4e38f,
                         -3.4e38f, 88.73f, -103.9f,   -104.1f,    1e-38f};

TEST(Math, ExpIsAccurate) {
  double worst = 0;
  for (const float x : exp_inputs()) {
    worst = std::max(worst, ulp_error(math::exp(x), std::exp(static_cast<double>(x))));
  }
  RecordProperty("worst_ulp", std::to_string(worst));
  EXPECT_LE(worst, 2.0);
  EXPECT_EQ(math::exp(0.0f), 1.0f);
  EXPECT_EQ(math::exp(kInfinity), kInfinity);
  EXPECT_EQ(math::exp(89.0f), kInfinity);
  EXPECT_EQ(math::exp(3e38f), kInfinity);
  EXPECT_EQ(math::exp(-kInfinity), 0.0f);
  EXPECT_EQ(math::exp(-3e38f), 0.0f);
  EXPECT_TRUE(std::isnan(math::exp(__builtin_nanf(""))));
}

TEST(Math, LogIsAccurate) {
  double worst = 0;
  for (const float x : log_inputs()) {
    if (x == 1) continue;
    worst = std::max(worst, ulp_error(math::log(x), std::log(static_cast<double>(x))));
  }
  RecordProperty("worst_ulp", std::to_string(worst));
  EXPECT_LE(worst, 2.0);
  EXPECT_EQ(math::log(1.0f), 0.0f);
  EXPECT_EQ(math::log(0.0f), -kInfinity);
  EXPECT_EQ(math::log(-0.0f), -kInfinity);
  EXPECT_EQ(math::log(kInfinity), kInfinity);
  EXPECT_TRUE(std::isnan(math::log(-1.0f)));
  EXPECT_TRUE(std::isnan(math::log(__builtin_nanf(""))));
}

TEST(Math, VectorsHaveTheSameBits) {
  for (const std::string_view numerics : {"cpu-avx2", "cpu-avx512"}) {
    if (!cpu_supports(numerics)) continue;
    const cpu::KernelTable& kernels =
        numerics == "cpu-avx512" ? cpu::avx512_kernels() : cpu::avx2_kernels();
    Floats xs = exp_inputs();
    xs.insert(xs.end(), kSpecial.begin(), kSpecial.end());
    Floats ys(xs.size()), expected;
    kernels.exp(xs.data(), ys.data(), static_cast<int64_t>(xs.size()));
    for (const float x : xs) expected.push_back(math::exp(x));
    EXPECT_EQ(first_difference(ys, expected), "none") << "exp, " << numerics;
    xs = log_inputs();
    xs.insert(xs.end(), kSpecial.begin(), kSpecial.end());
    ys.resize(xs.size());
    expected.clear();
    kernels.log(xs.data(), ys.data(), static_cast<int64_t>(xs.size()));
    for (const float x : xs) expected.push_back(math::log(x));
    EXPECT_EQ(first_difference(ys, expected), "none") << "log, " << numerics;
  }
}

}  // namespace
}  // namespace lockstep::cpu_test
