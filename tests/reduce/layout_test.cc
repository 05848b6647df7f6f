#include "host/reduce/layout.h"

#include <gtest/gtest.h>

#include <map>

namespace lockstep {
namespace {

TEST(SliceLayout, CutsEverySizeWithoutGaps) {
  for (const int64_t size : {1, 2, 4095, 4096, 4097, 60'000, 1'490'888, 25'000'000}) {
    const SliceLayout layout(size);
    int64_t covered = 0;
    for (int slice = 0; slice < layout.count(); ++slice) {
      EXPECT_EQ(layout.begin(slice), covered);
      EXPECT_GT(layout.size(slice), 0);
      EXPECT_EQ(layout.slice_at(layout.begin(slice)), slice);
      EXPECT_EQ(layout.slice_at(layout.end(slice) - 1), slice);
      covered = layout.end(slice);
    }
    EXPECT_EQ(covered, size);
  }
}

TEST(SliceLayout, HasEightSlicesWhereTheyAreOfAGoodSize) {
  EXPECT_EQ(SliceLayout(8 * 16 * 1000).count(), 8);
  EXPECT_EQ(SliceLayout(8 * 16 * 1000 + 1).count(), 8);
  EXPECT_EQ(SliceLayout(8 * 16 * 1000 + 1).size(0), 16'016);  // a whole number of cache lines
  EXPECT_EQ(SliceLayout(4096).count(), 1);
  EXPECT_EQ(SliceLayout(4097).count(), 2);
  EXPECT_EQ(SliceLayout(8 * 524288 + 1).count(), 9);
}

TEST(SliceOwners, AreTheWorkingMembersInTurn) {
  const auto owners = assign_slice_owners(7, {{0, 4}, {4, 8}, {8, 8}});
  std::map<int, int> owned;
  for (const int owner : owners) ++owned[owner];
  EXPECT_EQ(owned[0], 4);
  EXPECT_EQ(owned[1], 3);
  EXPECT_EQ(owned.count(2), 0u);  // a spare owns nothing
}

TEST(ContributedSubtrees, LeaveOutWhatHasNoRows) {
  // One row among eight partitions lies in the last one.
  EXPECT_TRUE(contributed_subtrees(1, 8, {0, 7}).empty());
  EXPECT_EQ(contributed_subtrees(1, 8, {4, 8}), (std::vector<Subtree>{{4, 2}}));
  EXPECT_EQ(contributed_subtrees(32, 8, {0, 3}), (std::vector<Subtree>{{0, 1}, {2, 0}}));
}

}  // namespace
}  // namespace lockstep
