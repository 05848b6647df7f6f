// Counter-based random numbers against published vectors.
#include "host/core/rng.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>

namespace lockstep {
namespace {

using Words = std::array<uint32_t, 4>;

// kat_vectors of the Random123 distribution, philox 4x32, 10 rounds.
TEST(Philox, KnownAnswers) {
  EXPECT_EQ((Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}), philox4x32({0, 0, 0, 0}, 0));
  constexpr uint32_t kOnes = 0xffffffff;
  EXPECT_EQ((Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}),
            philox4x32({kOnes, kOnes, kOnes, kOnes}, ~uint64_t{0}));
  EXPECT_EQ((Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}),
            philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, 0x299f31d0a4093822));
}

// The first outputs of splitmix64 seeded with 0 are the mixed multiples of its increment.
TEST(Mix64, KnownAnswers) {
  constexpr uint64_t kIncrement = 0x9e3779b97f4a7c15;
  EXPECT_EQ(0xe220a8397b1dcdaf, mix64(kIncrement));
  EXPECT_EQ(0x6e789e6aa1b965f4, mix64(2 * kIncrement));
  EXPECT_EQ(0u, mix64(0));
}

TEST(DeriveKey, DiffersByEachArgument) {
  std::set<uint64_t> keys;
  for (uint64_t seed = 0; seed < 10; ++seed) {
    for (uint64_t a = 0; a < 10; ++a) {
      for (uint64_t b = 0; b < 10; ++b) keys.insert(derive_key(seed, a, b));
    }
  }
  EXPECT_EQ(1000u, keys.size());
}

TEST(Uniform, LiesInTheUnitInterval) {
  EXPECT_EQ(0.0f, uniform_from_bits(0));
  EXPECT_EQ(0.0f, uniform_from_bits(255));
  EXPECT_EQ(1.0f / 16777216.0f, uniform_from_bits(256));
  EXPECT_EQ(1.0f - 1.0f / 16777216.0f, uniform_from_bits(0xffffffff));
}

TEST(Uniform, TakesTheWordsOfEachBlockInOrder) {
  const uint64_t key = derive_key(1, 2, 3);
  for (uint32_t block = 0; block < 4; ++block) {
    const Words words = philox4x32({block, 0, 0, 0}, key);
    for (uint32_t i = 0; i < 4; ++i) {
      EXPECT_EQ(uniform_from_bits(words[i]), uniform_at(key, 4 * block + i));
    }
  }
  const uint64_t far = uint64_t{5} << 34;  // beyond 2^32 blocks
  EXPECT_EQ(uniform_from_bits(philox4x32({0, 5, 0, 0}, key)[0]), uniform_at(key, far));
}

TEST(Uniform, HasTheMeanAndVarianceOfItsLaw) {
  constexpr int kDraws = 100000;
  double sum = 0;
  double squares = 0;
  for (int i = 0; i < kDraws; ++i) {
    const double value = uniform_at(7, static_cast<uint64_t>(i));
    sum += value;
    squares += value * value;
  }
  const double mean = sum / kDraws;
  EXPECT_NEAR(0.5, mean, 0.005);
  EXPECT_NEAR(1.0 / 12.0, squares / kDraws - mean * mean, 0.002);
}

TEST(Normal, IsTheFormulaOfBoxAndMuller) {
  EXPECT_EQ(0.0f, normal_from_bits(0xffffffff, 0));     // u1 = 1
  EXPECT_FLOAT_EQ(5.7681074f, normal_from_bits(0, 0));  // u1 = 2^-24
  EXPECT_FLOAT_EQ(-5.7681074f, normal_from_bits(255, 0x80000000));
  EXPECT_EQ(0.0f, normal_from_bits(0, 0x40000000));
  for (uint32_t i = 0; i < 100000; ++i) {
    const Words words = philox4x32({i, 0, 0, 0}, 3);
    const double u1 = ((words[0] >> 8) + 1) / 16777216.0;
    const double u2 = (words[1] >> 8) / 16777216.0;
    const double exact = std::sqrt(-2 * std::log(u1)) * std::cos(6.283185307179586 * u2);
    ASSERT_NEAR(exact, normal_from_bits(words[0], words[1]), 3e-7 * std::abs(exact) + 1e-14);
  }
}

TEST(Normal, HasTheMomentsAndTailsOfItsLaw) {
  constexpr int kDraws = 1000000;
  double sum = 0, squares = 0, cubes = 0, fourths = 0;
  int beyond_two = 0;
  for (uint32_t i = 0; i < kDraws; ++i) {
    const Words words = philox4x32({i, 1, 0, 0}, 4);
    const double x = normal_from_bits(words[0], words[1]);
    sum += x;
    squares += x * x;
    cubes += x * x * x;
    fourths += x * x * x * x;
    beyond_two += std::abs(x) > 2;
  }
  EXPECT_NEAR(0.0, sum / kDraws, 0.005);
  EXPECT_NEAR(1.0, squares / kDraws, 0.007);
  EXPECT_NEAR(0.0, cubes / kDraws, 0.02);
  EXPECT_NEAR(3.0, fourths / kDraws, 0.05);
  EXPECT_NEAR(0.0455, static_cast<double>(beyond_two) / kDraws, 0.001);
}

}  // namespace
}  // namespace lockstep
