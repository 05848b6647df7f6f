#include "host/runtime/exchange.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <deque>
#include <thread>

#include "host/core/rng.h"
#include "host/cpu/cpu_device.h"

namespace lockstep {
namespace {

constexpr int kPartitions = 8;
constexpr int64_t kFlat = 20'000;

// The gradient of one partition in one step.
std::vector<float> leaf(int64_t step, int partition) {
  std::vector<float> values(kFlat);
  const uint64_t key = derive_key(1, static_cast<uint64_t>(step), static_cast<uint64_t>(partition));
  for (int64_t i = 0; i < kFlat; ++i) {
    values[i] = uniform_at(key, static_cast<uint64_t>(i)) - 0.5f;
  }
  return values;
}

// Nodes that hand frames to each other in memory, each frame on the sender's thread.
class Nodes {
 public:
  Nodes(const std::vector<PartitionRange>& ranges, int64_t rows) : rows_(rows) {
    device_ = make_cpu_device("cpu-avx2").value();
    View view;
    view.number = 1;
    for (size_t i = 0; i < ranges.size(); ++i) {
      view.members.push_back({static_cast<SessionId>(i + 1), "n", "", ranges[i]});
    }
    view.slice_owners = assign_slice_owners(SliceLayout(kFlat).count(), ranges);
    for (size_t i = 0; i < ranges.size(); ++i) {
      ExchangeOptions options;
      options.view = view;
      options.self = static_cast<SessionId>(i + 1);
      options.partitions = kPartitions;
      options.layout = SliceLayout(kFlat);
      options.rows_of_step = [rows](int64_t) { return rows; };
      options.send = [this, i](int member, const Frame& frame) {
        deliver(static_cast<int>(i), member, frame);
      };
      exchanges_.push_back(Exchange::create(options, *device_).value());
    }
  }

  Exchange& operator[](size_t node) { return *exchanges_[node]; }
  Device& device() { return *device_; }

  // One node's share of a step, each partition as a device's root of its own.
  std::vector<float> run(int node, int64_t step, PartitionRange range) {
    std::vector<std::vector<float>> leaves;
    std::vector<LocalRoot> roots;
    const auto counts = partition_rows(rows_, kPartitions, range);
    for (int p = range.begin; p < range.end; ++p) {
      if (counts[p - range.begin] == 0) continue;
      leaves.push_back(leaf(step, p));
      roots.push_back({{p, 0}, nullptr});
    }
    for (size_t i = 0; i < roots.size(); ++i) roots[i].values = leaves[i].data();
    Exchange& exchange = *exchanges_[node];
    exchange.begin(step, roots, roots.empty() ? 0 : 1);
    if (!roots.empty()) {
      exchange.local_ready(step, kFlat / 2 + 1, kFlat);  // the last layers first
      exchange.local_ready(step, 0, kFlat / 2 + 1);
    }
    const auto reduced = exchange.wait(step, 5000);
    EXPECT_TRUE(reduced.ok()) << reduced.error().message;
    if (!reduced.ok()) return {};
    kept_.push_back(std::move(leaves));  // peers may still read what was sent
    return std::vector<float>(*reduced, *reduced + kFlat);
  }

 private:
  void deliver(int from, int to, const Frame& frame) {
    const auto space = exchanges_[to]->accept(from, frame);
    ASSERT_TRUE(space.ok()) << space.error().message;
    if (*space != nullptr) {
      std::memcpy(*space, frame.values, static_cast<size_t>(frame.count) * sizeof(float));
    }
    exchanges_[to]->arrived(from, frame);
  }

  int64_t rows_;
  std::unique_ptr<Device> device_;
  std::vector<std::unique_ptr<Exchange>> exchanges_;
  struct Kept {
    void push_back(std::vector<std::vector<float>> values) {
      const std::lock_guard lock(mutex);
      all.push_back(std::move(values));
    }
    std::mutex mutex;
    std::deque<std::vector<std::vector<float>>> all;
  } kept_;
};

std::vector<float> expected(Nodes& nodes, int64_t step, int64_t rows) {
  std::vector<std::vector<float>> leaves;
  std::vector<TreePiece> pieces;
  const auto counts = partition_rows(rows, kPartitions, {0, kPartitions});
  for (int p = 0; p < kPartitions; ++p) leaves.push_back(leaf(step, p));
  for (int p = 0; p < kPartitions; ++p) {
    if (counts[p] > 0) pieces.push_back({{p, 0}, leaves[p].data()});
  }
  std::vector<float> out(kFlat);
  tree_sum_range(nodes.device(), pieces, {0, 3}, kFlat, out.data());
  return out;
}

void expect_exact(const std::vector<PartitionRange>& ranges, int64_t rows) {
  Nodes nodes(ranges, rows);
  std::vector<std::thread> threads;
  std::vector<std::vector<std::vector<float>>> results(ranges.size());
  for (size_t node = 0; node < ranges.size(); ++node) {
    threads.emplace_back([&, node] {
      for (int64_t step = 0; step < 6; ++step) {
        results[node].push_back(nodes.run(static_cast<int>(node), step, ranges[node]));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (int64_t step = 0; step < 6; ++step) {
    const auto want = expected(nodes, step, rows);
    for (const auto& result : results) EXPECT_EQ(result.at(step), want) << "step " << step;
  }
}

TEST(Exchange, AnyRangesGiveTheSameSum) {
  expect_exact({{0, 8}, {8, 8}}, 32);
  expect_exact({{0, 4}, {4, 8}}, 32);
  expect_exact({{0, 3}, {3, 6}, {6, 8}}, 32);
  expect_exact({{0, 2}, {2, 4}, {4, 6}, {6, 7}, {7, 8}}, 32);
}

TEST(Exchange, NodesWithoutRowsOnlyListen) {
  expect_exact({{0, 3}, {3, 6}, {6, 8}}, 1);
  expect_exact({{0, 4}, {4, 8}}, 3);
}

TEST(Exchange, SpareNodesHoldTheState) { expect_exact({{0, 4}, {4, 8}, {8, 8}}, 32); }

TEST(Exchange, FramesThatBelongNowhereAreRefused) {
  Nodes nodes({{0, 4}, {4, 8}}, 32);
  const SliceLayout layout(kFlat);
  const Frame piece{FrameKind::piece, 0, 0, {4, 2}, nullptr, layout.size(0)};
  EXPECT_TRUE(nodes[0].accept(1, piece).ok());
  const auto refused = [&](auto change) {
    Frame frame = piece;
    change(frame);
    return !nodes[0].accept(1, frame).ok();
  };
  EXPECT_TRUE(refused([](Frame& f) { f.step = 2; }));
  EXPECT_TRUE(refused([](Frame& f) { f.step = -1; }));
  EXPECT_TRUE(refused([](Frame& f) { f.slice = -1; }));
  EXPECT_TRUE(refused([](Frame& f) { f.slice = 1 << 30; }));
  EXPECT_TRUE(refused([](Frame& f) { f.slice = 1; }));  // owned by the sender
  EXPECT_TRUE(refused([](Frame& f) { f.count = 1 << 30; }));
  EXPECT_TRUE(refused([](Frame& f) { f.subtree = {0, 2}; }));           // not the sender's
  EXPECT_TRUE(refused([](Frame& f) { f.subtree = {4, 1}; }));           // not maximal
  EXPECT_TRUE(refused([](Frame& f) { f.kind = FrameKind::reduced; }));  // not the owner
}

TEST(Exchange, ALostMemberEndsTheWaitAndIsNamed) {
  Nodes nodes({{0, 4}, {4, 8}}, 32);
  nodes[0].begin(0, {}, 1);
  std::thread other([&] { nodes[0].member_lost(1, "reset by peer"); });
  const auto reduced = nodes[0].wait(0, 5000);
  other.join();
  ASSERT_FALSE(reduced.ok());
  EXPECT_THAT(reduced.error().message, testing::HasSubstr("step 0: reset by peer"));
  EXPECT_EQ(nodes[0].lost_member(), 1);
}

TEST(Exchange, NoProgressIsAnErrorInTime) {
  Nodes nodes({{0, 4}, {4, 8}}, 32);
  nodes[0].begin(0, {}, 1);
  EXPECT_THAT(nodes[0].wait(0, 20).error().message, testing::HasSubstr("no progress in step 0"));
}

}  // namespace
}  // namespace lockstep
