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
// The graph's outputs live to the end of the run.
MemoryPlan plan_memory(const Graph& graph, const Device& device, int rows, int partitions = 1);

// What the canary compares: the hash of each op's results.
struct OpHash {
  std::string op;
  uint64_t hash = 0;
  bool operator==(const OpHash&) const = default;
};

// Owns its prepared ops; device, graph and arena outlive it. All calls on the device's thread.
//
// On a device that separates partitions, a Program has a part for each partition that holds rows,
// with memory of its own; the gradients of the parts are added up to the roots at the end.
class Program {
 public:
  // `arena` must hold planned_bytes(...) and outlive the Program. The group must hold at least one
  // row.
  static Result<std::unique_ptr<Program>> create(Device& device, const Graph& graph,
                                                 const PartitionGroup& group, Buffer& arena);
  // Bytes of the arena.
  static int64_t planned_bytes(const Device& device, const Graph& graph,
                               const PartitionGroup& group);

  // Moves to another arena; what the last run left is gone.
  void bind(Buffer& arena);

  // Called after an op has written gradients or metrics: the flat range [begin, end) of every root
  // is final. Ranges are disjoint and together cover the whole flat vector.
  using ReadyCallback = std::function<void(int64_t begin, int64_t end)>;
  // On a device with memory of its own the work may still be under way at the end.
  Status run(const RunContext& context, const ReadyCallback& ready);

  // Runs and hashes each op's outputs (values as row-major rows, then its flat range in each root).
  Result<std::vector<OpHash>> run_hashed(const RunContext& context);

  // Reads an output of the graph after a run: group().total_rows() rows.
  Status download_output(float* row_major, int output = 0);
  const PartitionGroup& group() const { return group_; }

 private:
  struct Part {
    PartitionGroup group;
    int first_row = 0;  // of the group
    MemoryPlan plan;
    std::vector<std::unique_ptr<PreparedOp>> ops;  // one for each of the graph's ops
    int64_t arena_offset = 0;                      // floats
    std::vector<float*> values;
    float* gradient = nullptr;  // flat; nullptr where the part writes the roots itself
  };

  Program(Device& device, const Graph& graph, PartitionGroup group);
  Status prepare(Part& part);
  void check_context(const RunContext& context) const;
  void run_part(Part& part, const RunContext& context, const ReadyCallback& ready);
  // The context of one part; `root` is where its roots are named.
  RunContext context_of(const Part& part, const RunContext& context, float* const* root) const;
  Status add_up_roots(const RunContext& context);
  Result<uint64_t> hash_results(Part& part, const OpDesc& op, const RunContext& context);

  Device& device_;
  const Graph& graph_;
  PartitionGroup group_;
  std::vector<Part> parts_;
  int64_t arena_bytes_ = 0;
  std::unique_ptr<Recording> recording_;
};

// The Programs of one device for one graph, made when a group first occurs, in one shared arena.
class ProgramSet {
 public:
  // `device` and `graph` outlive the set.
  ProgramSet(Device& device, const Graph& graph) : device_(device), graph_(graph) {}
  // The Program stays valid as long as the set; its output only until the next run or call here.
  Result<Program*> program_for(const PartitionGroup& group);
  int64_t arena_bytes() const { return arena_ == nullptr ? 0 : arena_->bytes(); }

 private:
  Status reserve(int64_t bytes);

  Device& device_;
  const Graph& graph_;
  std::unique_ptr<Buffer> arena_;
  std::vector<std::unique_ptr<Program>> programs_;
};

}  // namespace lockstep
