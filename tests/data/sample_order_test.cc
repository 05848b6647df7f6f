// The permutation of an epoch.
#include "host/data/sample_order.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <vector>

#include "host/core/rng.h"

namespace lockstep {
namespace {

std::vector<int64_t> order_of(int64_t rows, uint64_t seed, int64_t epoch, bool shuffle = true) {
  const SampleOrder order(rows, seed, epoch, shuffle);
  std::vector<int64_t> result;
  for (int64_t position = 0; position < rows; ++position) {
    result.push_back(order.row_at(position));
  }
  return result;
}

TEST(SampleOrder, IsAPermutation) {
  for (const int64_t rows : {1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 1000, 1024, 1025, 60000}) {
    for (const uint64_t seed : {uint64_t{0}, uint64_t{42}}) {
      std::vector<int> seen(static_cast<size_t>(rows), 0);
      for (const int64_t row : order_of(rows, seed, 3)) {
        ASSERT_TRUE(0 <= row && row < rows);
        ++seen[static_cast<size_t>(row)];
      }
      EXPECT_EQ(std::vector<int>(static_cast<size_t>(rows), 1), seen) << rows << " rows";
    }
  }
}

TEST(SampleOrder, DependsOnSeedAndEpochAlone) {
  EXPECT_EQ(order_of(1000, 1, 0), order_of(1000, 1, 0));
  EXPECT_NE(order_of(1000, 1, 0), order_of(1000, 1, 1));
  EXPECT_NE(order_of(1000, 1, 0), order_of(1000, 2, 0));
  EXPECT_NE(order_of(1000, 1, 0), order_of(1000, uint64_t{1} << 63, 0));
}

TEST(SampleOrder, WithoutShuffleIsTheIdentity) {
  for (const int64_t row : order_of(100, 7, 5, false)) {
    EXPECT_EQ(row, order_of(100, 8, 6, false)[static_cast<size_t>(row)]);
  }
  EXPECT_EQ((std::vector<int64_t>{0, 1, 2, 3, 4}), order_of(5, 7, 5, false));
}

// The network written out once more, as the header describes it.
TEST(SampleOrder, IsTheFeistelNetworkOfItsDescription) {
  const uint64_t rows = 1000;  // ten bits: five a half
  const SampleOrder order(static_cast<int64_t>(rows), 9, 2, true);
  for (uint64_t position = 0; position < rows; ++position) {
    uint64_t x = position;
    do {
      uint64_t left = x / 32;
      uint64_t right = x % 32;
      for (uint64_t round = 0; round < 8; ++round) {
        const uint64_t old_left = left;
        left = right;
        right = (old_left ^ mix64(right ^ derive_key(9, 2, round))) % 32;
      }
      x = left * 32 + right;
    } while (x >= rows);
    ASSERT_EQ(static_cast<int64_t>(x), order.row_at(static_cast<int64_t>(position)));
  }
}

// A shuffle leaves a row near its place only by chance: the mean distance between neighbours is
// rows / 3 for a random permutation, and the expected number of fixed points is 1.
TEST(SampleOrder, Mixes) {
  const int64_t rows = 60000;
  const std::vector<int64_t> order = order_of(rows, 0, 0);
  double distance = 0;
  int fixed_points = 0;
  for (size_t i = 0; i < order.size(); ++i) {
    if (order[i] == static_cast<int64_t>(i)) ++fixed_points;
    if (i > 0) distance += static_cast<double>(std::abs(order[i] - order[i - 1]));
  }
  EXPECT_NEAR(static_cast<double>(rows) / 3.0, distance / static_cast<double>(rows), 300.0);
  EXPECT_LT(fixed_points, 12);
}

TEST(SampleOrder, HoldsManyRows) {
  const int64_t rows = int64_t{3} << 40;
  const SampleOrder order(rows, 1, 1, true);
  for (int64_t position = rows - 100; position < rows; ++position) {
    const int64_t row = order.row_at(position);
    EXPECT_TRUE(0 <= row && row < rows);
  }
}

TEST(SampleOrderDeathTest, RefusesAPositionBeyondTheRows) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const SampleOrder order(10, 0, 0, true);
  EXPECT_DEATH(order.row_at(10), "broken invariant");
}

}  // namespace
}  // namespace lockstep
