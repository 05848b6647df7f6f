// The cut of a batch into partitions and the tree over them.
#include "host/core/partitions.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

namespace lockstep {
namespace {

constexpr int kMaxPartitions = 32;

TEST(Partitions, PowersOfTwo) {
  for (const int64_t value :
       {int64_t{1}, int64_t{2}, int64_t{4}, int64_t{1024}, int64_t{1} << 40}) {
    EXPECT_TRUE(is_power_of_two(value)) << value;
  }
  for (const int64_t value : {0, -1, -2, 3, 6, 12, 1023}) {
    EXPECT_FALSE(is_power_of_two(value)) << value;
  }
}

TEST(Partitions, CutIsTheFloor) {
  EXPECT_EQ(0, partition_begin(10, 4, 0));
  EXPECT_EQ(2, partition_begin(10, 4, 1));
  EXPECT_EQ(5, partition_begin(10, 4, 2));
  EXPECT_EQ(7, partition_begin(10, 4, 3));
  EXPECT_EQ(10, partition_begin(10, 4, 4));
  EXPECT_EQ(int64_t{3} << 40, partition_begin(int64_t{4} << 40, 4, 3));
}

TEST(Partitions, SizesDifferByAtMostOneAndAddUp) {
  for (int partitions = 1; partitions <= kMaxPartitions; partitions *= 2) {
    for (int64_t rows = 0; rows <= 100; ++rows) {
      const std::vector<int> sizes = partition_rows(rows, partitions, {0, partitions});
      ASSERT_EQ(static_cast<size_t>(partitions), sizes.size());
      int64_t sum = 0;
      for (const int size : sizes) sum += size;
      EXPECT_EQ(rows, sum);
      const auto [least, most] = std::minmax_element(sizes.begin(), sizes.end());
      EXPECT_LE(*most - *least, 1);
    }
  }
}

TEST(Partitions, RowsOfARange) {
  EXPECT_EQ((std::vector<int>{3, 2}), partition_rows(10, 4, {1, 3}));
  EXPECT_TRUE(partition_rows(10, 4, {2, 2}).empty());
}

// Aligned subtrees inside [begin, end), by walking down the tree from `node`.
int count_subtrees(Subtree node, PartitionRange range) {
  if (node.end() <= range.begin || range.end <= node.first) return 0;
  if (range.begin <= node.first && node.end() <= range.end) return 1;
  const int middle = node.first + (1 << (node.level - 1));
  return count_subtrees({node.first, node.level - 1}, range) +
         count_subtrees({middle, node.level - 1}, range);
}

TEST(MaximalSubtrees, CoverEveryRangeExactlyWithTheFewest) {
  for (int level = 0; (1 << level) <= kMaxPartitions; ++level) {
    const int partitions = 1 << level;
    for (int begin = 0; begin < partitions; ++begin) {
      for (int end = begin; end <= partitions; ++end) {
        const std::vector<Subtree> subtrees = maximal_subtrees({begin, end});
        int next = begin;
        for (const Subtree& subtree : subtrees) {
          EXPECT_EQ(next, subtree.first);
          EXPECT_EQ(0, subtree.first % (1 << subtree.level));
          next = subtree.end();
        }
        EXPECT_EQ(end, next);
        EXPECT_EQ(count_subtrees({0, level}, {begin, end}), static_cast<int>(subtrees.size()));
        EXPECT_LE(static_cast<int>(subtrees.size()), std::max(1, 2 * level));
      }
    }
  }
}

TEST(MaximalSubtrees, Examples) {
  EXPECT_EQ((std::vector<Subtree>{{0, 3}}), maximal_subtrees({0, 8}));
  EXPECT_EQ((std::vector<Subtree>{{1, 0}, {2, 1}, {4, 1}, {6, 0}}), maximal_subtrees({1, 7}));
  EXPECT_TRUE(maximal_subtrees({5, 5}).empty());
}

TEST(Subtree, Contains) {
  const Subtree half{4, 2};
  EXPECT_EQ(8, half.end());
  EXPECT_TRUE(half.contains(half));
  EXPECT_TRUE(half.contains({6, 1}));
  EXPECT_FALSE(half.contains({0, 3}));
  EXPECT_FALSE(half.contains({3, 0}));
}

TEST(PartitionRange, SizeAndContains) {
  const PartitionRange range{3, 6};
  EXPECT_EQ(3, range.size());
  EXPECT_FALSE(range.empty());
  EXPECT_TRUE((PartitionRange{4, 4}).empty());
  EXPECT_FALSE(range.contains(2));
  EXPECT_TRUE(range.contains(3));
  EXPECT_TRUE(range.contains(5));
  EXPECT_FALSE(range.contains(6));
}

TEST(RangeOfPart, CutsARangeIntoNearlyEqualParts) {
  for (int begin = 0; begin < 5; ++begin) {
    for (int size = 0; size <= kMaxPartitions; ++size) {
      for (int parts = 1; parts <= 40; ++parts) {
        int next = begin;
        int previous = size;
        for (int part = 0; part < parts; ++part) {
          const PartitionRange range = range_of_part({begin, begin + size}, parts, part);
          EXPECT_EQ(next, range.begin);
          EXPECT_LE(range.size(), previous);  // the first are the larger
          EXPECT_TRUE(range.size() == size / parts || range.size() == size / parts + 1);
          EXPECT_EQ(part >= size, range.empty());
          previous = range.size();
          next = range.end;
        }
        EXPECT_EQ(begin + size, next);
      }
    }
  }
}

TEST(RangeOfPart, Examples) {
  EXPECT_EQ((PartitionRange{0, 3}), range_of_part({0, 8}, 3, 0));
  EXPECT_EQ((PartitionRange{3, 6}), range_of_part({0, 8}, 3, 1));
  EXPECT_EQ((PartitionRange{6, 8}), range_of_part({0, 8}, 3, 2));
}

TEST(TreeSum, AddsInTheOrderOfTheTree) {
  const std::vector<float> values = {1e8f, 1.0f, -1e8f, 1.0f};
  float sum = 0;
  ASSERT_TRUE(tree_sum(values, {true, true, true, true}, &sum));
  const float left = values[0] + values[1];
  const float right = values[2] + values[3];
  EXPECT_EQ(left + right, sum);
  EXPECT_NE(((values[0] + values[1]) + values[2]) + values[3], sum);
}

TEST(TreeSum, AbsentValuesPassTheOtherThrough) {
  float sum = 0;
  ASSERT_TRUE(tree_sum<float>({7, 1, 7, 2}, {false, true, false, true}, &sum));
  EXPECT_EQ(3.0f, sum);
  ASSERT_TRUE(tree_sum<float>({7, 7, -0.0f, 7}, {false, false, true, false}, &sum));
  EXPECT_TRUE(sum == 0.0f && std::signbit(sum));  // nothing was added to it
  ASSERT_TRUE(tree_sum<float>({5}, {true}, &sum));
  EXPECT_EQ(5.0f, sum);
}

TEST(TreeSum, NothingPresent) {
  float sum = 42;
  EXPECT_FALSE(tree_sum<float>({1, 2}, {false, false}, &sum));
  EXPECT_FALSE(tree_sum<float>({}, {}, &sum));
  EXPECT_EQ(42.0f, sum);
}

}  // namespace
}  // namespace lockstep
