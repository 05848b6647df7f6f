// The functions of host/core/math*.h: accuracy, special values, and the same bits as scalars and in
// vectors.
#include "host/core/math.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "host/cpu/kernels.h"
#include "tests/cpu/cpu_test_support.h"
#include "tests/cpu/math_functions.h"

namespace lockstep::cpu_test {
namespace {

using math::kInfinity;
using math::kNan;
// Sanitizers look at how values are read, not at their bits: some lead through all branches.
#ifdef LOCKSTEP_SANITIZED
constexpr int kThinning = 16;
#else
constexpr int kThinning = 1;
#endif
constexpr long double kPi = 3.14159265358979323846264338327950288L;

// Distance in units of the last place of the exact result.
double ulp_error(float actual, double exact) {
  const float rounded = static_cast<float>(exact);
  if (std::isnan(exact)) return std::isnan(actual) ? 0 : 1e9;
  if (std::isinf(rounded) || rounded == 0) return actual == rounded ? 0 : 1e9;
  if (!std::isfinite(actual)) return 1e9;
  const double place = std::max(std::ldexp(1.0, std::ilogb(exact) - 23),
                                static_cast<double>(1.401298464324817e-45f));
  return std::abs(static_cast<double>(actual) - exact) / place;
}

// Floats of all magnitudes and both signs, each kind as often as its bit patterns: two millions.
Floats all_kinds() {
  Floats inputs;
  for (uint32_t bits = 0; bits < 0x7f800000; bits += 2039 * kThinning) {
    inputs.push_back(std::bit_cast<float>(bits));
    inputs.push_back(-inputs.back());
  }
  return inputs;
}

Floats exp_inputs() {
  Floats inputs;
  for (int i = 0; i <= 400000; i += kThinning)
    inputs.push_back(-104.0f + 193.0f * static_cast<float>(i) / 4e5f);
  for (int i = 0; i <= 100000; ++i) inputs.push_back(-1.0f + 2e-5f * static_cast<float>(i));
  return inputs;
}

Floats log_inputs() {
  Floats inputs;
  for (uint32_t bits = 1; bits < 0x7f800000; bits += 4099 * kThinning) {
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

// The largest error over all kinds of floats and a closer look at [-16, 16]. Where the function is
// odd or rises, the results must too; and they never leave [low, high].
struct Shape {
  bool odd = false;
  bool rising = false;
  float low = -kInfinity, high = kInfinity;
};

void expect_accurate(float (*function)(float), double (*exact)(double), double bound,
                     const Shape& shape) {
  Floats inputs = all_kinds();
  for (int i = -800000; i <= 800000; i += kThinning)
    inputs.push_back(2e-5f * static_cast<float>(i));
  if (shape.rising) std::sort(inputs.begin(), inputs.end());
  double worst = 0;
  float previous = shape.low, worst_input = 0;
  int64_t falls = 0, outside = 0, uneven = 0;
  for (const float x : inputs) {
    const float y = function(x);
    const double error = ulp_error(y, exact(x));
    if (error > worst) {
      worst = error;
      worst_input = x;
    }
    falls += shape.rising && y < previous;
    previous = y;
    outside += y < shape.low || y > shape.high;
    uneven += shape.odd && std::bit_cast<int32_t>(function(-x)) != std::bit_cast<int32_t>(-y);
  }
  testing::Test::RecordProperty("worst_ulp", std::to_string(worst));
  EXPECT_LE(worst, bound) << "at " << worst_input;
  EXPECT_EQ(falls, 0);
  EXPECT_EQ(outside, 0);
  EXPECT_EQ(uneven, 0);
}

bool is_minus_zero(float x) { return x == 0 && std::signbit(x); }

TEST(Math, Expm1IsAccurate) {
  expect_accurate(math::expm1, std::expm1, 1.5, {.rising = true, .low = -1});
  EXPECT_EQ(math::expm1(kInfinity), kInfinity);
  EXPECT_EQ(math::expm1(88.73f), kInfinity);
  EXPECT_EQ(math::expm1(-kInfinity), -1.0f);
  EXPECT_EQ(math::expm1(1e-45f), 1e-45f);
  EXPECT_TRUE(is_minus_zero(math::expm1(-0.0f)));
  EXPECT_TRUE(std::isnan(math::expm1(kNan)));
}

TEST(Math, Log1pIsAccurate) {
  expect_accurate(math::log1p, std::log1p, 1.5, {});
  EXPECT_EQ(math::log1p(kInfinity), kInfinity);
  EXPECT_EQ(math::log1p(-1.0f), -kInfinity);
  EXPECT_EQ(math::log1p(1e-45f), 1e-45f);
  EXPECT_TRUE(is_minus_zero(math::log1p(-0.0f)));
  EXPECT_TRUE(std::isnan(math::log1p(-1.0000001f)));
  EXPECT_TRUE(std::isnan(math::log1p(-kInfinity)));
  EXPECT_TRUE(std::isnan(math::log1p(kNan)));
}

TEST(Math, TanhIsAccurate) {
  expect_accurate(math::tanh, std::tanh, 1.5, {.odd = true, .rising = true, .low = -1, .high = 1});
  EXPECT_EQ(math::tanh(kInfinity), 1.0f);
  EXPECT_EQ(math::tanh(-kInfinity), -1.0f);
  EXPECT_EQ(math::tanh(1e-45f), 1e-45f);
  EXPECT_TRUE(is_minus_zero(math::tanh(-0.0f)));
  EXPECT_TRUE(std::isnan(math::tanh(kNan)));
}

double exact_sigmoid(double x) {
  const double e = std::exp(-std::abs(x));
  return (x < 0 ? e : 1) / (1 + e);
}

TEST(Math, SigmoidIsAccurate) {
  expect_accurate(math::sigmoid, exact_sigmoid, 1.5, {.rising = true, .low = 0, .high = 1});
  EXPECT_EQ(math::sigmoid(0.0f), 0.5f);
  EXPECT_EQ(math::sigmoid(-0.0f), 0.5f);
  EXPECT_EQ(math::sigmoid(kInfinity), 1.0f);
  EXPECT_EQ(math::sigmoid(-kInfinity), 0.0f);
  EXPECT_EQ(math::sigmoid(-3e38f), 0.0f);
  EXPECT_TRUE(std::isnan(math::sigmoid(kNan)));
}

TEST(Math, ErfIsAccurate) {
  expect_accurate(math::erf, std::erf, 1.5, {.odd = true, .rising = true, .low = -1, .high = 1});
  EXPECT_EQ(math::erf(kInfinity), 1.0f);
  EXPECT_EQ(math::erf(-kInfinity), -1.0f);
  EXPECT_TRUE(is_minus_zero(math::erf(-0.0f)));
  EXPECT_TRUE(std::isnan(math::erf(kNan)));
}

TEST(Math, SquareRootAndFloorAreExact) {
  for (const float x : all_kinds()) {
    const float root = math::square_root(x);
    if (x < 0) {
      ASSERT_TRUE(std::isnan(root));
    } else {
      ASSERT_EQ(root, std::sqrt(x));
    }
    ASSERT_EQ(math::floor(x), std::floor(x));
  }
  EXPECT_EQ(math::square_root(kInfinity), kInfinity);
  EXPECT_TRUE(std::isnan(math::square_root(-kInfinity)));
  EXPECT_TRUE(is_minus_zero(math::square_root(-0.0f)));
  EXPECT_TRUE(is_minus_zero(math::floor(-0.0f)));
  EXPECT_EQ(math::floor(-kInfinity), -kInfinity);
  EXPECT_EQ(math::floor(-1e-45f), -1.0f);
}

TEST(Math, SignsAreRight) {
  EXPECT_EQ(math::sign(1e-45f), 1.0f);
  EXPECT_EQ(math::sign(-kInfinity), -1.0f);
  EXPECT_FALSE(std::signbit(math::sign(-0.0f)));
  EXPECT_EQ(math::sign(-0.0f), 0.0f);
  EXPECT_TRUE(std::isnan(math::sign(kNan)));
  EXPECT_EQ(math::absolute(-2.5f), 2.5f);
  EXPECT_FALSE(std::signbit(math::absolute(-0.0f)));
  EXPECT_EQ(math::absolute(-kInfinity), kInfinity);
  EXPECT_TRUE(std::isnan(math::absolute(kNan)));
  EXPECT_EQ(math::negate(2.5f), -2.5f);
  EXPECT_TRUE(is_minus_zero(math::negate(0.0f)));
}

TEST(Math, SinAndCosOfTurnsAreAccurate) {
  double worst = 0;
  for (int i = 0; i < 1 << 24; i += 7 * kThinning) {
    if (i % (1 << 22) == 0) continue;
    const float u = static_cast<float>(i) / 16777216.0f;
    const long double angle = 2 * kPi * u;
    worst = std::max(worst, ulp_error(math::sin_turn(u), static_cast<double>(std::sin(angle))));
    worst = std::max(worst, ulp_error(math::cos_turn(u), static_cast<double>(std::cos(angle))));
  }
  RecordProperty("worst_ulp", std::to_string(worst));
  EXPECT_LE(worst, 1.0);
  const Floats sines = {0, 1, 0, -1, 0};
  for (size_t quarter = 0; quarter < 4; ++quarter) {
    const float u = 0.25f * static_cast<float>(quarter);
    EXPECT_EQ(math::sin_turn(u), sines[quarter]);
    EXPECT_EQ(math::cos_turn(u), sines[quarter + 1]);
  }
}

// Pairs whose power has a binary logarithm of at most `range`.
std::vector<std::pair<float, float>> power_inputs(uint64_t key, float range, int count) {
  std::vector<std::pair<float, float>> inputs;
  constexpr float kSpreads[] = {0.01f, 1.0f, 20.0f, 252.0f};  // of log2(a)
  for (uint64_t i = 0; inputs.size() < static_cast<size_t>(count / kThinning); i += 3) {
    const float a = std::exp2(kSpreads[i % 4] * (uniform_at(key, i) - 0.5f));
    float b = range * (2 * uniform_at(key, i + 1) - 1) / std::log2(a);
    if (uniform_at(key, i + 2) < 0.25f) b = std::round(2 * b) / 2;
    if (std::isfinite(b)) inputs.emplace_back(a, b);
  }
  return inputs;
}

TEST(Math, PowerIsAccurate) {
  for (const float range : {4.0f, 30.0f, 125.0f, 150.0f}) {
    double worst = 0;
    for (const auto& [a, b] : power_inputs(static_cast<uint64_t>(range), range, 500000)) {
      const long double exact = std::pow(static_cast<long double>(a), static_cast<long double>(b));
      worst = std::max(worst, ulp_error(math::power(a, b), static_cast<double>(exact)));
    }
    RecordProperty("worst_ulp", std::to_string(worst));
    EXPECT_LE(worst, 1.0) << "range " << range;
  }
}

TEST(Math, PowerIsExactWhereItCanBe) {
  for (int i = 1; i < 4096; ++i) {
    const float x = static_cast<float>(i);
    ASSERT_EQ(math::power(x, 0.0f), 1.0f);
    ASSERT_EQ(math::power(x, 1.0f), x);
    ASSERT_EQ(math::power(x, 2.0f), x * x);
    ASSERT_EQ(math::power(-x, 2.0f), x * x);
    ASSERT_EQ(math::power(x * x, 0.5f), x);
    if (i < 256) {
      ASSERT_EQ(math::power(-x, 3.0f), -x * x * x);
    }
  }
  for (int i = -149; i < 128; ++i) {
    ASSERT_EQ(math::power(2.0f, static_cast<float>(i)), std::ldexp(1.0f, i));
  }
}

// As C's pow, whose special cases are IEEE 754's.
TEST(Math, PowerHasTheSpecialCasesOfC) {
  Floats values = kSpecial;
  values.insert(values.end(), {2.0f, -2.0f, 3.0f, -3.0f, 0.5f, -0.5f, -1.5f, 16777215.0f,
                               -16777215.0f, 16777216.0f, 8388607.5f});
  for (const float a : values) {
    for (const float b : values) {
      const double exact = std::pow(static_cast<double>(a), static_cast<double>(b));
      const float y = math::power(a, b);
      ASSERT_LE(ulp_error(y, exact), 1.0) << a << "^" << b;
      ASSERT_TRUE(std::isnan(exact) || std::signbit(y) == std::signbit(exact)) << a << "^" << b;
    }
  }
  EXPECT_EQ(math::power(0.0f, 0.0f), 1.0f);
  EXPECT_EQ(math::power(kNan, 0.0f), 1.0f);
  EXPECT_EQ(math::power(0.0f, 0.3f), 0.0f);
  EXPECT_TRUE(std::isnan(math::power(-1.5f, 0.5f)));
}

void add_random_bits(uint64_t key, size_t count, Floats* floats) {
  for (uint64_t i = 0; i < count / kThinning; ++i) {
    floats->push_back(std::bit_cast<float>(static_cast<uint32_t>(mix64(key + i))));
  }
}

TEST(Math, AllFunctionsHaveTheSameBitsInVectors) {
  Floats a, b;
  for (const float x : kSpecial) {
    for (const float y : kSpecial) {
      a.push_back(x);
      b.push_back(y);
    }
  }
  add_random_bits(1, 200000, &a);
  add_random_bits(uint64_t{1} << 32, 200000, &b);
  for (const auto& [x, y] : power_inputs(5, 140, 200000)) {
    a.push_back(x);
    b.push_back(y);
  }
  for (int i = -100000; i < 100000; i += kThinning) {
    a.push_back(1e-4f * static_cast<float>(i));
    b.push_back(std::floor(1e-3f * static_cast<float>(i)));
  }
  a.resize(a.size() / 16 * 16);
  b.resize(a.size());
  Floats expected(a.size()), avx2(a.size()), avx512(a.size());
  const auto count = static_cast<int64_t>(a.size());
  for (int f = 0; f < kMathFunctions; ++f) {
    const auto function = static_cast<MathFunction>(f);
    for (size_t i = 0; i < a.size(); ++i) {
      expected[i] = apply<math::ScalarOps>(function, a[i], b[i]);
    }
    if (cpu_supports("cpu-avx2")) {
      apply_avx2(function, a.data(), b.data(), avx2.data(), count);
      EXPECT_EQ(first_difference(avx2, expected), "none") << "function " << f << ", avx2";
    }
    if (cpu_supports("cpu-avx512")) {
      apply_avx512(function, a.data(), b.data(), avx512.data(), count);
      EXPECT_EQ(first_difference(avx512, expected), "none") << "function " << f << ", avx512";
    }
  }
}

}  // namespace
}  // namespace lockstep::cpu_test
