// A graph prepared for one device and one group of partitions.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "host/core/result.h"
#include "host/device/device.h"
#include "host/graph/graph.h"

namespace lockstep {

// Where each value lies in one arena; values whose lives do not overlap share memory.
struct MemoryPlan {
  std::vector<int64_t> offsets;  // bytes, one a value; -1 where the value is never computed
  int64_t arena_bytes = 0;
};
// The graph's output lives to the end of the run.
MemoryPlan plan_memory(const Graph& graph, const Device& device, int rows);

// What the canary compares: the hash of each op's results.
struct OpHash {
  std::string op;
  uint64_t hash = 0;
  bool operator==(const OpHash&) const = default;
};

// Owns its prepared ops; device, graph and arena outlive it. All calls on the device's thread.
class Program {
 public:
  // `arena` must hold plan_memory(...).arena_bytes for the group's rows and outlive the Program.
  // The group must hold at least one row.
  static Result<std::unique_ptr<Program>> create(Device& device, const Graph& graph,
                                                 const PartitionGroup& group, Buffer& arena);

  // Moves to another arena; what the last run left is gone.
  void bind(Buffer& arena);
  int64_t arena_bytes() const { return plan_.arena_bytes; }

  // Called after an op has written gradients or metrics: the flat range [begin, end) of every root
  // is final. Ranges are disjoint and together cover the whole flat vector.
  using ReadyCallback = std::function<void(int64_t begin, int64_t end)>;
  void run(const RunContext& context, const ReadyCallback& ready);

  // Runs and hashes each op's outputs (values as row-major rows, then its flat range in each root).
  std::vector<OpHash> run_hashed(const RunContext& context);

  // The output value's memory after a run, to be read with Device::download.
  const float* output() const { return values_[graph_.output]; }
  const PartitionGroup& group() const { return group_; }

 private:
  Program(Device& device, const Graph& graph, PartitionGroup group);
  void check_context(const RunContext& context) const;
  uint64_t hash_results(const OpDesc& op, const RunContext& context);

  Device& device_;
  const Graph& graph_;
  PartitionGroup group_;
  MemoryPlan plan_;
  std::vector<float*> values_;
  std::vector<std::unique_ptr<PreparedOp>> ops_;  // one for each of the graph's ops
};

// The Programs of one device for one graph, made when a group first occurs, in one shared arena.
class ProgramSet {
 public:
  // `device` and `graph` outlive the set.
  ProgramSet(Device& device, const Graph& graph) : device_(device), graph_(graph) {}
  // The Program stays valid as long as the set; its output only until the next run or call here.
  Result<Program*> program_for(const PartitionGroup& group);

 private:
  Status reserve(int64_t bytes);

  Device& device_;
  const Graph& graph_;
  std::unique_ptr<Buffer> arena_;
  std::vector<std::unique_ptr<Program>> programs_;
};

}  // namespace lockstep
