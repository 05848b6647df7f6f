#include "host/cluster/consumption.h"

#include <gtest/gtest.h>

namespace lockstep {
namespace {

using Pairs = std::vector<std::pair<int64_t, int>>;

// Four partitions; odd steps have two rows only, in the partitions 1 and 3.
Consumption four_partitions() {
  return Consumption(4, [](int64_t step) -> int64_t { return step % 2 == 0 ? 8 : 2; });
}

void add_all(Consumption* consumption, int64_t step) {
  for (int partition = 0; partition < 4; ++partition) consumption->add(step, partition);
}

TEST(Consumption, CountsEachPartitionOfAStepOnce) {
  Consumption consumption = four_partitions();
  EXPECT_TRUE(consumption.add(0, 2));
  EXPECT_FALSE(consumption.add(0, 2));
  EXPECT_TRUE(consumption.add(2, 2));
  EXPECT_EQ(consumption.rows(), 4);
}

TEST(Consumption, APartitionWithoutRowsDoesNotCount) {
  Consumption consumption = four_partitions();
  EXPECT_FALSE(consumption.add(1, 0));
  EXPECT_TRUE(consumption.add(1, 1));
  EXPECT_FALSE(consumption.add(1, 2));
  EXPECT_TRUE(consumption.add(1, 3));
  EXPECT_EQ(consumption.rows(), 2);
}

TEST(Consumption, RowsBeforeAStepAreUnknownWhileReportsAreMissing) {
  Consumption consumption = four_partitions();
  EXPECT_EQ(consumption.rows_before(0), 0);
  EXPECT_EQ(consumption.rows_before(1), -1);
  for (int partition = 0; partition < 3; ++partition) consumption.add(0, partition);
  EXPECT_EQ(consumption.rows_before(1), -1);
  consumption.add(0, 3);
  EXPECT_EQ(consumption.rows_before(1), 8);
  add_all(&consumption, 2);
  EXPECT_EQ(consumption.rows_before(3), -1);  // step 1 is missing
  add_all(&consumption, 1);
  EXPECT_EQ(consumption.rows_before(3), 18);
}

TEST(Consumption, WhatWasAppliedIsAddedWhereNobodyToldIt) {
  Consumption consumption = four_partitions();
  consumption.add(0, 1);
  consumption.add(2, 0);
  EXPECT_EQ(consumption.applied_before(2), (Pairs{{0, 0}, {0, 2}, {0, 3}, {1, 1}, {1, 3}}));
  EXPECT_EQ(consumption.applied_before(2), Pairs{});
  EXPECT_EQ(consumption.rows_before(2), 10);
  EXPECT_FALSE(consumption.add(0, 0));  // its report comes after all
  EXPECT_EQ(consumption.rows(), 12);
}

TEST(Consumption, DurableStepsKeepTheirRowsAndCountNoMore) {
  Consumption consumption = four_partitions();
  add_all(&consumption, 0);
  add_all(&consumption, 1);
  consumption.add(2, 0);
  consumption.durable_before(2);
  EXPECT_EQ(consumption.rows_before(2), 10);
  EXPECT_EQ(consumption.rows(), 12);
  EXPECT_FALSE(consumption.add(1, 1));
  EXPECT_FALSE(consumption.add(2, 0));
  EXPECT_EQ(consumption.applied_before(2), Pairs{});
  consumption.durable_before(1);  // an earlier one changes nothing
  EXPECT_FALSE(consumption.add(1, 1));
  EXPECT_EQ(consumption.rows(), 12);
}

TEST(Consumption, ARestoreTakesBackWhatCameAfter) {
  Consumption consumption = four_partitions();
  for (int64_t step = 0; step < 4; ++step) add_all(&consumption, step);
  EXPECT_EQ(consumption.rows(), 20);
  consumption.restore(2, 10);
  EXPECT_EQ(consumption.rows(), 10);
  EXPECT_EQ(consumption.rows_before(2), 10);
  EXPECT_EQ(consumption.rows_before(3), -1);
  EXPECT_FALSE(consumption.add(1, 1));
  EXPECT_TRUE(consumption.add(2, 1));
  EXPECT_EQ(consumption.rows(), 12);
}

}  // namespace
}  // namespace lockstep
