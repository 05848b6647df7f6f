#include "host/runtime/node_memory.h"

#include <algorithm>
#include <iterator>

#include "host/graph/program.h"
#include "host/reduce/layout.h"
#include "host/runtime/device_buckets.h"

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

// Floats of what one of several linked devices gets of a bucket.
int64_t largest_share(const Graph& graph, const Device& device, int devices) {
  int64_t largest = 0;
  for (const FlatRange& bucket : device_buckets(graph, device, devices)) {
    largest = std::max(largest, (bucket.end - bucket.begin) / devices);
  }
  return largest;
}

}  // namespace

NodeMemory planned_memory(const Job& job, const Graph& graph, const Graph* evaluation,
                          const Device& device, int devices, const Optimizer& optimizer,
                          PartitionRange range, bool alone) {
  NodeMemory memory;
  const bool shared = device.shares_host_memory();
  const int states = shared ? 1 : devices;
  const int64_t flat_bytes = device.buffer_bytes(graph.flat_size * 4);
  const int64_t vector_bytes = device.buffer_bytes(graph.parameter_count * 4);
  memory.weights = states * vector_bytes;
  memory.slots = states * (vector_bytes * std::ssize(optimizer.slots()) +
                           device.buffer_bytes(4 * largest_scratch(graph, optimizer)));
  // The reduced gradient, where it is not updated block by block.
  const bool whole = !graph.is_plain() || optimizer.is_by_parameter();
  if (shared && whole) memory.gradients += flat_bytes;
  const int64_t share = shared ? 0 : largest_share(graph, device, devices);
  int64_t roots_of_all = 0;
  for (int index = 0; index < devices; ++index) {
    roots_of_all += std::ssize(maximal_subtrees(range_of_part(range, devices, index)));
  }
  for (int index = 0; index < devices; ++index) {
    const PartitionRange device_range = range_of_part(range, devices, index);
    const int64_t root_count = std::ssize(maximal_subtrees(device_range));
    memory.gradients += root_count * flat_bytes * (alone ? 1 : 2);
    if (!shared) {
      memory.gradients += device.buffer_bytes(padded_flat(graph, devices).end * 4);
      const int64_t foreign = job.exact || !alone ? roots_of_all - root_count : 0;
      memory.gradients += device.buffer_bytes(foreign * share * 4);
    }
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
    memory.activations += 2 * group.total_rows() * row_bytes;
  }
  return memory;
}

}  // namespace lockstep
