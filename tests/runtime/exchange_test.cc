#include "host/runtime/exchange.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <deque>
#include <mutex>
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

View view_of(int number, const std::vector<PartitionRange>& ranges) {
  View view;
  view.number = number;
  for (size_t i = 0; i < ranges.size(); ++i) {
    view.members.push_back({static_cast<SessionId>(i + 1), "n", "", ranges[i], {}, 0});
  }
  view.slice_owners = assign_slice_owners(SliceLayout(kFlat).count(), ranges);
  return view;
}

// Nodes that hand frames to each other in memory, each frame on the sender's thread. Session n is
// node n - 1.
class Nodes {
 public:
  Nodes(const std::vector<PartitionRange>& ranges, int64_t rows) : rows_(rows) {
    device_ = make_cpu_device("cpu-avx2").value();
    for (size_t i = 0; i < ranges.size(); ++i) {
      ExchangeOptions options;
      options.partitions = kPartitions;
      options.layout = SliceLayout(kFlat);
      options.rows_of_step = [rows](int64_t) { return rows; };
      options.send = [this, i](SessionId to, const Frame& frame) {
        deliver(static_cast<SessionId>(i + 1), to, frame);
      };
      exchanges_.push_back(Exchange::create(options, *device_).value());
      dead_.emplace_back(false);
    }
    adopt(view_of(1, ranges), 0);
  }

  // As streams do, which come up when both ends have the view: what is sent before gets lost.
  void adopt(const View& view, int64_t step) {
    streams_ = false;
    for (const Member& member : view.members) {
      (*this)[static_cast<size_t>(member.session - 1)].adopt(view, member.session, step);
    }
    streams_ = true;
    for (const Member& member : view.members) {
      (*this)[static_cast<size_t>(member.session - 1)].ask_again();
    }
  }
  void kill(int node) { dead_[static_cast<size_t>(node)] = true; }

  Exchange& operator[](size_t node) { return *exchanges_[node]; }
  Device& device() { return *device_; }

  // Computes a share of a step, each partition as a device's root of its own.
  void compute(int node, int64_t step, PartitionRange range) {
    std::vector<LocalRoot> roots;
    const auto counts = partition_rows(rows_, kPartitions, range);
    for (int p = range.begin; p < range.end; ++p) {
      if (counts[p - range.begin] == 0) continue;
      roots.push_back({{p, 0}, kept_.keep(leaf(step, p))});  // peers may still read what was sent
    }
    Exchange& exchange = *exchanges_[static_cast<size_t>(node)];
    exchange.begin(step, roots, roots.empty() ? 0 : 1);
    if (roots.empty()) return;
    exchange.local_ready(step, kFlat / 2 + 1, kFlat);  // the last layers first
    exchange.local_ready(step, 0, kFlat / 2 + 1);
  }

  // Waits for a step and goes on to the next.
  std::vector<float> finish(int node, int64_t step) {
    Exchange& exchange = *exchanges_[static_cast<size_t>(node)];
    EXPECT_EQ(exchange.wait(step, 5000), Exchange::Waited::complete);
    std::vector<float> reduced(exchange.reduced(step), exchange.reduced(step) + kFlat);
    exchange.applied(step);
    return reduced;
  }

 private:
  void deliver(SessionId from, SessionId to, const Frame& frame) {
    if (!streams_) return;
    if (dead_[static_cast<size_t>(to - 1)] || dead_[static_cast<size_t>(from - 1)]) return;
    Exchange& receiver = *exchanges_[static_cast<size_t>(to - 1)];
    const auto space = receiver.accept(from, frame.key, frame.count);
    ASSERT_TRUE(space.ok()) << space.error().message;
    if (*space != nullptr) {
      std::memcpy(*space, frame.values, static_cast<size_t>(frame.count) * sizeof(float));
    }
    if (*space != nullptr || frame.key.kind == FrameKind::want) {
      receiver.arrived(from, frame.key, *space);
    }
  }

  int64_t rows_;
  bool streams_ = false;
  std::unique_ptr<Device> device_;
  std::vector<std::unique_ptr<Exchange>> exchanges_;
  std::deque<std::atomic<bool>> dead_;
  struct Kept {
    const float* keep(std::vector<float> values) {
      const std::lock_guard lock(mutex);
      return all.emplace_back(std::move(values)).data();
    }
    std::mutex mutex;
    std::deque<std::vector<float>> all;
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
        nodes.compute(static_cast<int>(node), step, ranges[node]);
        results[node].push_back(nodes.finish(static_cast<int>(node), step));
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
  const FrameKey piece{FrameKind::piece, 0, 0, {4, 2}};
  const auto refused = [&](auto change) {
    FrameKey key = piece;
    int64_t count = layout.size(0);
    change(key, count);
    return !nodes[0].accept(2, key, count).ok();
  };
  EXPECT_TRUE(refused([](FrameKey& key, int64_t&) { key.step = 2; }));
  EXPECT_TRUE(refused([](FrameKey& key, int64_t&) { key.slice = -1; }));
  EXPECT_TRUE(refused([](FrameKey& key, int64_t&) { key.slice = 1 << 30; }));
  EXPECT_TRUE(refused([](FrameKey&, int64_t& count) { count = 1 << 30; }));
  EXPECT_TRUE(refused([](FrameKey& key, int64_t&) { key.subtree = {2, 2}; }));
  EXPECT_TRUE(refused([](FrameKey& key, int64_t&) { key.subtree = {8, 0}; }));
  EXPECT_FALSE(nodes[0].accept(3, piece, layout.size(0)).ok());  // no member
  // What a member may send at another time is read and dropped.
  EXPECT_EQ(nodes[0].accept(2, {FrameKind::piece, -1, 0, {4, 2}}, layout.size(0)).value(), nullptr);
  EXPECT_EQ(nodes[0].accept(2, {FrameKind::piece, 0, 1, {4, 2}}, layout.size(1)).value(), nullptr);
  EXPECT_NE(nodes[0].accept(2, piece, layout.size(0)).value(), nullptr);
}

TEST(Exchange, LostPartitionsAreComputedByOthersToTheSameSum) {
  Nodes nodes({{0, 3}, {3, 6}, {6, 8}}, 32);
  nodes.compute(0, 0, {0, 3});
  nodes.compute(1, 0, {3, 6});
  nodes.kill(2);
  EXPECT_EQ(nodes[0].wait(0, 20), Exchange::Waited::no_progress);
  EXPECT_THAT(nodes[0].waiting_for(0), testing::Contains(SessionId{3}));
  View view = view_of(2, {{0, 4}, {4, 8}});
  view.carries = true;
  view.members[0].carried = {{0, 3}, {6, 7}};
  view.members[1].carried = {{3, 6}, {7, 8}};
  nodes.adopt(view, 0);
  nodes.compute(0, 0, {6, 7});
  nodes.compute(1, 0, {7, 8});
  EXPECT_EQ(nodes.finish(0, 0), expected(nodes, 0, 32));
  EXPECT_EQ(nodes.finish(1, 0), expected(nodes, 0, 32));
  nodes.compute(0, 1, {0, 4});
  nodes.compute(1, 1, {4, 8});
  EXPECT_EQ(nodes.finish(0, 1), expected(nodes, 1, 32));
  EXPECT_EQ(nodes.finish(1, 1), expected(nodes, 1, 32));
}

TEST(Exchange, PiecesThatCameEarlyStayWhereThisNodeIsGivenTheirStepsState) {
  Nodes nodes({{0, 4}, {4, 8}}, 32);
  const FrameKey early{FrameKind::piece, 1, 0, {4, 2}};
  std::vector<std::vector<float>> leaves;
  std::vector<TreePiece> pieces;
  for (int p = 4; p < 8; ++p) leaves.push_back(leaf(1, p));
  for (int p = 4; p < 8; ++p) pieces.push_back({{p, 0}, leaves[p - 4].data()});
  const int64_t count = SliceLayout(kFlat).size(0);
  const auto space = nodes[0].accept(2, early, count);
  ASSERT_TRUE(space.ok() && *space != nullptr);
  tree_sum_range(nodes.device(), pieces, early.subtree, count, *space);
  nodes[0].arrived(2, early, *space);

  nodes.adopt(view_of(2, {{0, 4}, {4, 8}}), 1);
  nodes.compute(0, 1, {0, 4});
  nodes.compute(1, 1, {4, 8});
  EXPECT_EQ(nodes.finish(0, 1), expected(nodes, 1, 32));
  EXPECT_EQ(nodes.finish(1, 1), expected(nodes, 1, 32));
}

TEST(Exchange, WhatIsAskedForIsNotSentOnceItsStepIsOver) {
  const auto device = make_cpu_device("cpu-avx2").value();
  std::unique_ptr<Exchange> exchange;
  int sent = 0;
  ExchangeOptions options;
  options.partitions = kPartitions;
  options.layout = SliceLayout(kFlat);
  options.rows_of_step = [](int64_t) { return 32; };
  options.send = [&](SessionId, const Frame& frame) {
    // The main thread goes on while another one answers.
    if (frame.key.kind == FrameKind::piece && ++sent == 1) exchange->applied(0);
  };
  exchange = Exchange::create(options, *device).value();
  View view = view_of(1, {{0, 4}, {4, 8}});
  std::fill(view.slice_owners.begin(), view.slice_owners.end(), 1);
  exchange->adopt(view, 1, 0);
  std::vector<std::vector<float>> leaves;
  std::vector<LocalRoot> roots;
  for (int p = 0; p < 4; ++p) leaves.push_back(leaf(0, p));
  for (int p = 0; p < 4; ++p) roots.push_back({{p, 0}, leaves[p].data()});
  exchange->begin(0, roots, 2);
  exchange->local_ready(0, 0, kFlat);
  sent = -SliceLayout(kFlat).count();
  exchange->local_ready(0, 0, kFlat);  // the second device: all pieces go
  ASSERT_EQ(sent, 0);
  exchange->arrived(2, {FrameKind::want, 0, 0, {}}, nullptr);
  EXPECT_EQ(sent, 1);
}

TEST(Exchange, WhatComesSlowlyIsProgress) {
  Nodes nodes({{0, 4}, {4, 8}}, 32);
  nodes.compute(0, 0, {0, 4});
  std::thread slow([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    const FrameKey piece{FrameKind::piece, 0, 0, {4, 2}};
    EXPECT_NE(nodes[0].accept(2, piece, SliceLayout(kFlat).size(0)).value(), nullptr);
  });
  EXPECT_EQ(nodes[0].wait(0, 500), Exchange::Waited::progress);
  slow.join();
  std::thread slower([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    nodes[0].part_arrived({FrameKind::piece, 0, 0, {4, 2}});
  });
  EXPECT_EQ(nodes[0].wait(0, 500), Exchange::Waited::progress);
  slower.join();
  nodes[1].ask_again();  // brings nothing new
  EXPECT_EQ(nodes[0].wait(0, 20), Exchange::Waited::no_progress);
}

TEST(Exchange, AnInterruptEndsTheWait) {
  Nodes nodes({{0, 4}, {4, 8}}, 32);
  nodes[0].begin(0, {}, 1);
  std::thread other([&] { nodes[0].interrupt(); });
  EXPECT_EQ(nodes[0].wait(0, 5000), Exchange::Waited::interrupted);
  other.join();
}

}  // namespace
}  // namespace lockstep
