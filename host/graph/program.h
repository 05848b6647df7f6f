// A graph prepared for one device and one group of partitions.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "host/core/result.h"
#include "host/device/device.h"
#include "host/graph/gradient_buckets.h"
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
// with memory of its own; the gradients of the parts are added up to the roots at the end, or
// bucket by bucket where somebody waits for them. On a CPU it has parts where its values as a whole
// would not stay in a cache: aligned subtrees of partitions, which run one after the other in the
// same memory.
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
  // is final. Ranges are disjoint and together cover the whole flat vector. On a device that
  // separates partitions, called for each of gradient_buckets(), in an aside of its own
  // (Device::aside): what the callback gives the device there finds the range final. The caller
  // rejoins.
  using ReadyCallback = std::function<void(int64_t begin, int64_t end)>;
  // On a device with memory of its own the work may still be under way at the end.
  Status run(const RunContext& context, const ReadyCallback& ready);

  // Runs and hashes each op's outputs (values as row-major rows, then its flat range in each root).
  Result<std::vector<OpHash>> run_hashed(const RunContext& context);

  // Reads an output of the graph after a run: group().total_rows() rows. Not where parts share
  // memory, which those of a graph without gradients and metrics never do.
  Status download_output(float* row_major, int output = 0);
  const Graph& graph() const { return graph_; }
  const PartitionGroup& group() const { return group_; }

 private:
  using Ops = std::vector<std::unique_ptr<PreparedOp>>;  // one for each of the graph's ops
  struct Part {
    PartitionGroup group;
    int first_row = 0;  // of the group
    MemoryPlan plan;
    Ops* ops = nullptr;
    int64_t values_at = 0;     // bytes, in the arena
    int64_t gradient_at = -1;  // likewise; -1: the part writes the roots itself
    int64_t work_at = -1;      // likewise; -1: its ops need none
    std::vector<float*> values;
    float* gradient = nullptr;  // flat, or none
    void* work = nullptr;
  };
  // The parts and where their memory lies, without ops. `bytes`: of all of it.
  static std::vector<Part> lay_out(const Device& device, const Graph& graph,
                                   const PartitionGroup& group, int64_t* bytes);

  Program(Device& device, const Graph& graph, PartitionGroup group);
  Status prepare();
  Result<Ops> prepare_ops(const PartitionGroup& group);
  void check_context(const RunContext& context) const;
  // Parts that run one after the other, or one alone.
  Status run_in_turn(const RunContext& context, const ReadyCallback& ready);
  Status run_apart(const RunContext& context, const ReadyCallback& ready);
  // Ops [begin, end).
  void run_ops(Part& part, const RunContext& context, int begin, int end,
               const ReadyCallback& ready);
  int op_count() const { return static_cast<int>(graph_.ops.size()); }
  // The context of one part; `root` is where its roots are named.
  RunContext context_of(const Part& part, const RunContext& context, float* const* root) const;
  // Of the flat range [begin, end).
  Status add_up_roots(const RunContext& context, int64_t begin, int64_t end);
  Result<uint64_t> hash_results(Part& part, const OpDesc& op, const RunContext& context);

  Device& device_;
  const Graph& graph_;
  PartitionGroup group_;
  std::vector<std::unique_ptr<Ops>> prepared_;
  int64_t arena_bytes_ = 0;
  std::vector<Part> parts_;
  const std::vector<GradientBucket> buckets_;
  std::unique_ptr<Recording> recording_;
  std::unique_ptr<Recording> bucketed_;  // with a segment for each bucket
};

// The Programs of one device for one graph, or some more, made when a group first occurs, in one
// shared arena.
class ProgramSet {
 public:
  // `device` and all graphs outlive the set.
  ProgramSet(Device& device, const Graph& graph) : device_(device), graph_(graph) {}
  // The Program stays valid as long as the set; its output only until the next run or call here.
  Result<Program*> program_for(const PartitionGroup& group) { return program_for(graph_, group); }
  Result<Program*> program_for(const Graph& graph, const PartitionGroup& group);
  int64_t arena_bytes() const { return arena_ == nullptr ? 0 : arena_->bytes(); }

 private:
  Status reserve(int64_t bytes);

  Device& device_;
  const Graph& graph_;
  std::unique_ptr<Buffer> arena_;
  std::vector<std::unique_ptr<Program>> programs_;
};

}  // namespace lockstep
