// Gradients that leave an emulated GPU bucket by bucket, while others are computed.
#include <gtest/gtest.h>

#include <cstdio>
#include <string>
#include <vector>

#include "host/graph/gradient_buckets.h"
#include "tests/cuda/link_tasks.h"
#include "tests/emulated_cuda/planted.h"
#include "tests/emulated_cuda/runtime.h"
#include "tests/emulated_cuda/toy.h"

namespace lockstep {
namespace {

using emulated::Bug;
using emulated::Machine;

constexpr uint64_t kBucketSeeds = 32;
constexpr int kRounds = 4;  // plain, captured, played twice
constexpr int kRows = 8;

std::unique_ptr<Device> make_bucketed_gpu(int64_t bucket_bytes = 1) {
  return make_cuda_device(0, "cuda-fp32", {.bucket_bytes = bucket_bytes}).value();
}

// What a round of training does with the gradients.
enum class Way {
  whole,      // added up when all have been computed
  to_host,    // each bucket is copied to the host; the host waits for it
  on_device,  // each bucket is added up beside the rest; nobody waits before the update
};

// A planted bug, at the n-th call from the first round on that is played.
struct Defect {
  Bug bug = Bug::none;
  int64_t n = 1;
};

struct Rounds {
  std::vector<float> values;      // of the host's copies round by round, then the weights
  std::vector<int64_t> executed;  // pieces of work, when each bucket of the last round was there
};

Rounds train_in_buckets(Machine& machine, Device& device, const Graph& graph, Way way,
                        const Defect& defect = {}) {
  Rounds rounds;
  TrainingStep step(device, graph);
  step.set_weights(initial_weights(graph, 5));
  const auto root = allocate_floats(device, graph.flat_size);
  const auto on_host = device.allocate_host(graph.flat_size * 4).value();
  float* const roots[] = {root->data()};
  const HostBatch all = emulated::toy_batch(kRows * kRounds);
  for (int t = 0; t < kRounds; ++t) {
    if (t == 2) machine.plant(defect.bug, defect.n);
    rounds.executed.clear();
    const HostBatch batch = slice_batch(all, kRows * t, kRows * (t + 1));
    Program* program = step.programs().program_for(group_of(kRows, 4, {0, 4})).value();
    RunContext context = step.context(batch, kRows, roots);
    context.epoch = static_cast<uint32_t>(t);
    std::vector<FlatRange> ranges;
    const auto give = [&](int64_t begin, int64_t end) {
      ranges.push_back({begin, end});
      if (way != Way::to_host) return;
      LOCKSTEP_CHECK(
          device.start_copy_to_host(root->data() + begin, end - begin, on_host->data() + begin)
              .ok());
    };
    const auto run = program->run(context, way == Way::whole ? Program::ReadyCallback{} : give);
    LOCKSTEP_CHECK(run.ok());
    std::vector<float> copy(static_cast<size_t>(graph.flat_size));
    for (size_t i = 0; i < ranges.size() && way == Way::to_host; ++i) {
      LOCKSTEP_CHECK(device.finish_aside(static_cast<int>(i)).ok());
      rounds.executed.push_back(machine.executed());
      std::copy(on_host->data() + ranges[i].begin, on_host->data() + ranges[i].end,
                copy.begin() + ranges[i].begin);
    }
    LOCKSTEP_CHECK(device.rejoin().ok());
    if (way == Way::whole) copy = fetch(device, root->data(), graph.flat_size);
    if (way != Way::on_device) rounds.values.insert(rounds.values.end(), copy.begin(), copy.end());
    LOCKSTEP_CHECK(device
                       .update(SgdUpdate{0.1f, 0, false}, root->data(), step.weights(), {},
                               graph.parameter_count, nullptr)
                       .ok());
  }
  const std::vector<float> weights = step.copy_weights();
  rounds.values.insert(rounds.values.end(), weights.begin(), weights.end());
  return rounds;
}

std::vector<float> expected_values(const Graph& graph, Way way) {
  Machine machine;
  const auto device = make_bucketed_gpu();
  std::vector<float> values = train_in_buckets(machine, *device, graph, Way::whole).values;
  if (way == Way::on_device) values.erase(values.begin(), values.end() - graph.parameter_count);
  return values;
}

void expect_no_order_changes_a_bit(const Graph& graph) {
  for (const Way way : {Way::to_host, Way::on_device}) {
    const std::vector<float> expected = expected_values(graph, way);
    for (uint64_t seed = 1; seed <= kBucketSeeds; ++seed) {
      Machine machine({.seed = seed});
      {
        const auto device = make_bucketed_gpu();
        ASSERT_EQ(train_in_buckets(machine, *device, graph, way).values, expected) << seed;
      }
      ASSERT_EQ(machine.leaks(), "");
    }
  }
}

TEST(EmulatedBuckets, NoOrderOfTheWorkChangesABit) {
  const Graph graph = emulated::toy_dense_graph();
  ASSERT_GT(gradient_buckets(graph, 1).size(), 1u);
  expect_no_order_changes_a_bit(graph);
}

TEST(EmulatedBuckets, NoOrderChangesABitOfConvolutions) {
  LOCKSTEP_CUDNN_OR_SKIP();
  const Graph graph = emulated::toy_graph();
  ASSERT_GT(gradient_buckets(graph, 1).size(), 1u);
  expect_no_order_changes_a_bit(graph);
}

// A wait that runs no more than it needs leaves the rest of the backward pass undone: at least an
// op of each partition for each op behind the bucket.
TEST(EmulatedBuckets, TheFirstLeavesBeforeTheBackwardPassHasEnded) {
  const Graph graph = emulated::toy_dense_graph();
  const auto buckets = gradient_buckets(graph, 1);
  constexpr uint64_t kLazySeed = 1;
  Machine machine({.seed = kLazySeed});
  const auto device = make_bucketed_gpu();
  const Rounds rounds = train_in_buckets(machine, *device, graph, Way::to_host);
  ASSERT_EQ(rounds.executed.size(), buckets.size());
  for (size_t i = 0; i + 1 < buckets.size(); ++i) {
    const int ops_left = buckets.back().ops - buckets[i].ops;
    EXPECT_GT(ops_left, 0);
    EXPECT_GE(rounds.executed.back() - rounds.executed[i], 4 * ops_left) << "bucket " << i;
  }
}

// Every one of the played launches' graphs ends where a bucket is final.
TEST(EmulatedBuckets, ThereIsAGraphForEach) {
  const Graph graph = emulated::toy_dense_graph();
  const auto buckets = static_cast<int64_t>(gradient_buckets(graph, 1).size());
  Machine machine;
  const auto device = make_bucketed_gpu();
  train_in_buckets(machine, *device, graph, Way::to_host);
  EXPECT_EQ(machine.calls("cudaGraphInstantiate"), buckets);
  EXPECT_EQ(machine.calls("cudaGraphLaunch"), (kRounds - 1) * buckets);
  // Nobody waits: one graph.
  train_in_buckets(machine, *device, graph, Way::whole);
  EXPECT_EQ(machine.calls("cudaGraphInstantiate"), buckets + 1);
}

TEST(EmulatedBuckets, AMoveAsideThatStallsIsAnErrorAfterTheDeadline) {
  constexpr int kShortMs = 200;
  for (const bool stalls : {false, true}) {
    Machine machine({.devices = 2});
    if (stalls) machine.plant(Bug::stalled_transfer, 1);
    const auto move = [](int index, Device& device, DeviceLink& link) -> Status {
      LOCKSTEP_ASSIGN(const auto memory, device.allocate(2 * kShare * 4));
      const std::vector<float> values(kShare, static_cast<float>(index + 1));
      LOCKSTEP_RETURN_IF_ERROR(device.copy_to_device(values.data(), kShare, memory->data()));
      const DeviceLink::Transfer send{1 - index, memory->data(), kShare};
      const DeviceLink::Transfer receive{1 - index, memory->data() + kShare, kShare};
      LOCKSTEP_RETURN_IF_ERROR(device.aside([&] {
        return link.exchange({&send, 1}, {&receive, 1});
      }));
      LOCKSTEP_RETURN_IF_ERROR(link.finish_aside(0));
      LOCKSTEP_RETURN_IF_ERROR(device.rejoin());
      float came = 0;
      LOCKSTEP_RETURN_IF_ERROR(device.copy_to_host(memory->data() + kShare, 1, &came));
      return came == static_cast<float>(2 - index) ? Status{} : Status{Error{"other values"}};
    };
    for (const Status& status : run_linked(2, kShortMs, move)) {
      ASSERT_EQ(status.ok(), !stalls);
      if (!stalls) continue;
      EXPECT_NE(status.error().message.find("waited 200 ms"), std::string::npos)
          << status.error().message;
    }
    EXPECT_EQ(machine.leaks(), "");
  }
}

// Each event between the buckets and the rest of the work, left out: found.
class EmulatedBucketsPlanted : public testing::Test {
 protected:
  emulated::Tally with(Way way, const Defect& defect) {
    const std::vector<float> expected = expected_values(graph_, way);
    return emulated::watch_seeds([&](uint64_t seed) {
      Machine machine({.seed = seed});
      const auto device = make_bucketed_gpu();
      return train_in_buckets(machine, *device, graph_, way, defect).values == expected;
    });
  }
  void expect_found(const char* what, Way way, const Defect& defect) {
    const emulated::Tally tally = with(way, defect);
    std::printf("%-52s %d of %d seeds: %s\n", what, tally.found, tally.tried, tally.how.c_str());
    EXPECT_GT(tally.found, 0) << what;
  }

  const Graph graph_ = emulated::toy_dense_graph();
};

// Of a round that is played, the waits of streams are: the batch has crossed, the first bucket is
// final, the second, the batch is taken, the buckets have left. The records: the batch has crossed,
// the parameters, the batch is taken; of each bucket that it is final and that it has left.
TEST_F(EmulatedBucketsPlanted, Events) {
  for (const Way way : {Way::to_host, Way::on_device}) EXPECT_EQ(with(way, {}).found, 0);
  expect_found("a bucket leaves before it is final", Way::to_host, {Bug::skip_stream_wait, 2});
  expect_found("the last bucket leaves before it is final", Way::to_host,
               {Bug::skip_stream_wait, 3});
  expect_found("no record of a bucket that is final", Way::to_host, {Bug::skip_event_record, 4});
  expect_found("no record of a bucket that has left", Way::to_host, {Bug::skip_event_record, 5});
  expect_found("an update before the buckets have left", Way::on_device,
               {Bug::skip_stream_wait, 5});
  expect_found("no record of the last that has left", Way::on_device, {Bug::skip_event_record, 7});
}

}  // namespace
}  // namespace lockstep
