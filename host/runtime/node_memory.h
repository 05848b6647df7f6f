// What a node's memory is for, known before it is taken: the host's, or that of its devices where
// they have their own.
#pragma once

#include <cstdint>

#include "host/core/partitions.h"
#include "host/device/device.h"
#include "host/graph/graph.h"
#include "host/job/job.h"
#include "host/optim/optimizer.h"

namespace lockstep {

// In bytes.
struct NodeMemory {
  int64_t weights = 0;
  int64_t slots = 0;      // with what the optimizer needs for a step
  int64_t gradients = 0;  // subtree roots of the local devices, and what they send each other
  int64_t exchange = 0;   // reduced gradients and receive space
  int64_t activations = 0;
  int64_t total() const { return weights + slots + gradients + exchange + activations; }
};

// Of a node that holds the partitions `range` on `devices` devices like this one, linked where they
// do not share the host's memory. `evaluation`: nullptr without validation. Without what it
// exchanges: Exchange::planned_bytes has that.
NodeMemory planned_memory(const Job& job, const Graph& graph, const Graph* evaluation,
                          const Device& device, int devices, const Optimizer& optimizer,
                          PartitionRange range, bool alone);

// The rows of a batch that a device holds: to train on, or to measure, each partition by itself.
PartitionGroup partition_group(int64_t rows, int partitions, PartitionRange range);
PartitionGroup measured_group(int64_t rows, int partitions, PartitionRange range);

}  // namespace lockstep
