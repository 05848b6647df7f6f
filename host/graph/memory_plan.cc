// Greedy by size (Pisarchyk and Lee, "Efficient memory management for deep neural net inference",
// 2020): the largest value first, each into the smallest gap that fits among the values it meets.
#include <algorithm>
#include <vector>

#include "host/core/check.h"
#include "host/graph/program.h"

namespace lockstep {
namespace {

constexpr int64_t kAlignment = 64;  // bytes

struct Life {
  int value = -1;
  int first_op = -1;  // that computes it
  int last_op = -1;   // that touches it
  int64_t bytes = 0;
  int64_t offset = -1;

  bool meets(const Life& other) const {
    return first_op <= other.last_op && other.first_op <= last_op;
  }
};

std::vector<Life> lives_of(const Graph& graph, const Device& device, int rows, int partitions) {
  std::vector<Life> lives(graph.values.size());
  const auto touch = [&](int value, int op) {
    LOCKSTEP_CHECK(lives[value].first_op >= 0);
    lives[value].last_op = op;
  };
  for (size_t i = 0; i < graph.ops.size(); ++i) {
    const OpDesc& op = graph.ops[i];
    const int index = static_cast<int>(i);
    for (const int output : op.outputs) {
      LOCKSTEP_CHECK(lives[output].first_op < 0);
      const Value& value = graph.values[output];
      const int64_t bytes = value.per_partition
                                ? partitions * value.features() * int64_t{sizeof(float)}
                                : device.value_bytes(rows, value.features());
      const int64_t aligned = (bytes + kAlignment - 1) / kAlignment * kAlignment;
      lives[output] = {output, index, index, aligned, -1};
    }
    for (const int input : op.inputs) touch(input, index);
    if (op.relu_mask >= 0) touch(op.relu_mask, index);
  }
  for (const int output : graph.outputs) touch(output, static_cast<int>(graph.ops.size()));
  std::erase_if(lives, [](const Life& life) { return life.first_op < 0; });
  return lives;
}

// The offset of the smallest gap that holds `life` between the placed values that it meets, or the
// end of the last of them. `placed` is sorted by offset.
int64_t best_offset(const std::vector<Life>& placed, const Life& life) {
  int64_t best = -1;
  int64_t best_gap = 0;
  int64_t end = 0;
  for (const Life& other : placed) {
    if (!other.meets(life)) continue;
    const int64_t gap = other.offset - end;
    if (gap >= life.bytes && (best < 0 || gap < best_gap)) {
      best = end;
      best_gap = gap;
    }
    end = std::max(end, other.offset + other.bytes);
  }
  return best >= 0 ? best : end;
}

}  // namespace

MemoryPlan plan_memory(const Graph& graph, const Device& device, int rows, int partitions) {
  std::vector<Life> lives = lives_of(graph, device, rows, partitions);
  std::stable_sort(lives.begin(), lives.end(),
                   [](const Life& a, const Life& b) { return a.bytes > b.bytes; });
  MemoryPlan plan;
  plan.offsets.assign(graph.values.size(), -1);
  std::vector<Life> placed;
  for (Life& life : lives) {
    life.offset = best_offset(placed, life);
    plan.offsets[life.value] = life.offset;
    plan.arena_bytes = std::max(plan.arena_bytes, life.offset + life.bytes);
    const auto position =
        std::upper_bound(placed.begin(), placed.end(), life,
                         [](const Life& a, const Life& b) { return a.offset < b.offset; });
    placed.insert(position, life);
  }
  return plan;
}

}  // namespace lockstep
