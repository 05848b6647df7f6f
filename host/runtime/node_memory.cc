#include "host/runtime/node_memory.h"

#include <algorithm>
#include <iterator>

#include "host/graph/program.h"
#include "host/reduce/layout.h"

namespace lockstep {

PartitionGroup partition_group(int64_t rows, int partitions, PartitionRange range) {
  return {range.begin, partition_rows(rows, partitions, range),
          contributed_subtrees(rows, partitions, range)};
}

PartitionGroup measured_group(int64_t rows, int partitions, PartitionRange range) {
  PartitionGroup group{range.begin, partition_rows(rows, partitions, range), {}};
  for (int p = range.begin; p < range.end; ++p) {
    if (group.rows[p - group.first] > 0) group.roots.push_back({p, 0});
  }
  return group;
}

namespace {

int64_t largest_scratch(const Graph& graph, const Optimizer& optimizer) {
  int64_t largest = 0;
  for (const Parameter& parameter : graph.parameters) {
    if (parameter.role != ParameterRole::trained || parameter.gradient_offset < 0) continue;
    largest = std::max(largest, optimizer.scratch_size(parameter.path(), parameter.shape));
  }
  return largest;
}

}  // namespace

NodeMemory planned_memory(const Job& job, const Graph& graph, const Graph* evaluation,
                          const Device& device, int devices, const Optimizer& optimizer,
                          PartitionRange range, bool alone) {
  NodeMemory memory;
  const int64_t flat_bytes = device.buffer_bytes(graph.flat_size * 4);
  memory.weights = device.buffer_bytes(graph.parameter_count * 4);
  memory.slots = memory.weights * std::ssize(optimizer.slots());
  memory.slots += device.buffer_bytes(4 * largest_scratch(graph, optimizer));
  // The reduced gradient, where it is not updated block by block.
  const bool whole = !graph.is_plain() || optimizer.is_by_parameter();
  if (device.shares_host_memory() && whole) memory.gradients += flat_bytes;
  for (int index = 0; index < devices; ++index) {
    const PartitionRange device_range = range_of_part(range, devices, index);
    const int64_t root_count = std::ssize(maximal_subtrees(device_range));
    memory.gradients += root_count * flat_bytes * (alone ? 1 : 2);
    const PartitionGroup group = partition_group(job.batch_size, job.partitions, device_range);
    if (group.total_rows() == 0) continue;
    int64_t arena = Program::planned_bytes(device, graph, group);
    if (evaluation != nullptr) {
      const PartitionGroup measured = measured_group(job.batch_size, job.partitions, device_range);
      arena = std::max(arena, Program::planned_bytes(device, *evaluation, measured));
    }
    memory.activations += device.buffer_bytes(arena);
    // The rows of a step, and beside them those of the next.
    const int64_t row_bytes = graph.input_features * int64_t{sizeof(float)};
    if (device.shares_host_memory()) memory.activations += 2 * group.total_rows() * row_bytes;
  }
  return memory;
}

}  // namespace lockstep
