#include "host/train/evaluate.h"

#include <gtest/gtest.h>

namespace lockstep {
namespace {

std::string_view bytes_of_sums(const std::vector<double>& sums) {
  return {reinterpret_cast<const char*>(sums.data()), sums.size() * sizeof(double)};
}

TEST(EvaluationSums, AreAddedInTheOrderOfTheBatches) {
  const std::vector<std::vector<double>> batches = {{1e16, 1}, {1, 2}, {-1e16, 3}, {1, 4}};
  const double expected = 1;  // in another order it would be 0 or 2
  const std::vector<std::vector<int64_t>> orders = {
      {0, 1, 2, 3}, {3, 2, 1, 0}, {2, 0, 0, 3, 2, 1, 1}};
  for (const auto& order : orders) {
    EvaluationSums sums(2);
    for (const int64_t batch : order) {
      ASSERT_TRUE(sums.write(0, batch * 16, bytes_of_sums(batches[batch])).ok());
    }
    EXPECT_EQ(sums.total(), (MetricSums{expected, 10}));
  }
}

TEST(EvaluationSums, SeveralBatchesAtOnce) {
  EvaluationSums sums(1);
  ASSERT_TRUE(sums.write(0, 16, bytes_of_sums({3, 4})).ok());
  ASSERT_TRUE(sums.write(0, 0, bytes_of_sums({1, 2, 3})).ok());
  EXPECT_EQ(sums.total(), MetricSums{10});
}

TEST(EvaluationSums, PartsOfBatchesAreRefused) {
  EvaluationSums sums(2);
  EXPECT_FALSE(sums.write(0, 8, bytes_of_sums({1, 2})).ok());
  EXPECT_FALSE(sums.write(0, 0, bytes_of_sums({1, 2, 3})).ok());
}

}  // namespace
}  // namespace lockstep
