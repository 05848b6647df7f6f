#include "host/reduce/tree_sum.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "host/core/rng.h"
#include "host/cpu/cpu_device.h"

namespace lockstep {
namespace {

constexpr int kPartitions = 8;
constexpr int64_t kCount = 9001;  // more than two blocks

class TreeSum : public testing::Test {
 protected:
  void SetUp() override {
    auto device = make_cpu_device("cpu-avx2");
    ASSERT_TRUE(device.ok());
    device_ = std::move(device).value();
    for (int p = 0; p < kPartitions; ++p) {
      leaves_.emplace_back(kCount);
      for (int64_t i = 0; i < kCount; ++i) {
        leaves_[p][i] = uniform_at(static_cast<uint64_t>(p), static_cast<uint64_t>(i)) - 0.5f;
      }
    }
  }

  std::vector<float> sum(const std::vector<TreePiece>& pieces, Subtree target) {
    std::vector<float> out(kCount, NAN);
    tree_sum_range(*device_, pieces, target, kCount, out.data());
    return out;
  }

  std::vector<TreePiece> leaf_pieces(PartitionRange range) const {
    std::vector<TreePiece> pieces;
    for (int p = range.begin; p < range.end; ++p) pieces.push_back({{p, 0}, leaves_[p].data()});
    return pieces;
  }

  std::unique_ptr<Device> device_;
  std::vector<std::vector<float>> leaves_;
};

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

TEST_F(TreeSum, IsTheBinaryTreeOfPairs) {
  const auto total = sum(leaf_pieces({0, 8}), {0, 3});
  for (const int64_t i : {int64_t{0}, int64_t{4095}, int64_t{4096}, kCount - 1}) {
    const auto& l = leaves_;
    const float left = (l[0][i] + l[1][i]) + (l[2][i] + l[3][i]);
    const float right = (l[4][i] + l[5][i]) + (l[6][i] + l[7][i]);
    EXPECT_EQ(total[i], left + right);
  }
}

TEST_F(TreeSum, IsScaledAfterItIsWhole) {
  const auto total = sum(leaf_pieces({0, 8}), {0, 3});
  std::vector<float> scaled(kCount);
  tree_sum_range(*device_, leaf_pieces({0, 8}), {0, 3}, kCount, scaled.data(), 0.3f);
  for (int64_t i = 0; i < kCount; ++i) ASSERT_EQ(scaled[i], total[i] * 0.3f);
}

// Whatever contiguous ranges the nodes hold, their maximal subtrees lead to the same bits.
TEST_F(TreeSum, DoesNotDependOnWhoHoldsWhat) {
  const auto expected = sum(leaf_pieces({0, 8}), {0, 3});
  for (int first = 0; first <= 8; ++first) {
    for (int second = first; second <= 8; ++second) {
      std::vector<std::vector<float>> partial;
      std::vector<Subtree> subtrees;
      for (const PartitionRange range :
           {PartitionRange{0, first}, PartitionRange{first, second}, PartitionRange{second, 8}}) {
        for (const Subtree& subtree : maximal_subtrees(range)) {
          partial.push_back(sum(leaf_pieces(range), subtree));
          subtrees.push_back(subtree);
        }
      }
      std::vector<TreePiece> pieces;
      for (size_t i = partial.size(); i-- > 0;) pieces.push_back({subtrees[i], partial[i].data()});
      EXPECT_TRUE(same_bits(sum(pieces, {0, 3}), expected)) << first << " " << second;
    }
  }
}

TEST_F(TreeSum, PassesTheOtherChildThroughWhereOneIsEmpty) {
  EXPECT_TRUE(same_bits(sum({{{5, 0}, leaves_[5].data()}}, {0, 3}), leaves_[5]));
  std::vector<float> negative_zero(kCount, -0.0f);
  const auto passed = sum({{{2, 0}, negative_zero.data()}}, {0, 3});
  EXPECT_TRUE(std::signbit(passed[0]));  // nothing ever starts from zero
}

TEST_F(TreeSum, SaysWhereThereIsNothing) {
  float out[16];
  EXPECT_EQ(tree_sum_block(*device_, {}, {0, 3}, 0, 16, out), nullptr);
}

}  // namespace
}  // namespace lockstep
