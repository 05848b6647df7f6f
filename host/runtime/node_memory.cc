#include "host/runtime/node_memory.h"

#include "host/graph/program.h"
#include "host/reduce/layout.h"

namespace lockstep {

PartitionGroup partition_group(int64_t rows, int partitions, PartitionRange range) {
  return {range.begin, partition_rows(rows, partitions, range),
          contributed_subtrees(rows, partitions, range)};
}

NodeMemory planned_memory(const Job& job, const Graph& graph, const Device& device, int devices,
                          int64_t slots, PartitionRange range, bool alone) {
  NodeMemory memory;
  const int64_t flat_bytes = device.buffer_bytes(graph.flat_size * 4);
  memory.weights = device.buffer_bytes(graph.parameter_count * 4);
  memory.slots = memory.weights * slots;
  for (int index = 0; index < devices; ++index) {
    const PartitionRange device_range = range_of_part(range, devices, index);
    const int64_t root_count = std::ssize(maximal_subtrees(device_range));
    memory.gradients += root_count * flat_bytes * (alone ? 1 : 2);
    const PartitionGroup group = partition_group(job.batch_size, job.partitions, device_range);
    if (group.total_rows() == 0) continue;
    memory.activations += device.buffer_bytes(Program::planned_bytes(device, graph, group));
  }
  return memory;
}

}  // namespace lockstep
