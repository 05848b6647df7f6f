#include "host/graph/program.h"

#include <fmt/format.h>

#include <cstring>
#include <utility>

#include "host/core/check.h"
#include "host/core/digest.h"

namespace lockstep {

namespace {

constexpr int64_t kPartAlignment = 256;  // bytes, as CUDA's allocations

int64_t aligned(int64_t bytes) {
  return (bytes + kPartAlignment - 1) / kPartAlignment * kPartAlignment;
}

// What each part of a Program computes.
std::vector<PartitionGroup> part_groups(const Device& device, const PartitionGroup& group) {
  if (!device.separates_partitions()) return {group};
  std::vector<PartitionGroup> groups;
  for (size_t i = 0; i < group.rows.size(); ++i) {
    const int partition = group.first + static_cast<int>(i);
    if (group.rows[i] > 0) groups.push_back({partition, {group.rows[i]}, {{partition, 0}}});
  }
  return groups;
}

MemoryPlan plan_of(const Device& device, const Graph& graph, const PartitionGroup& group) {
  return plan_memory(graph, device, group.total_rows(), static_cast<int>(group.rows.size()));
}

int64_t gradient_bytes(const Device& device, const Graph& graph) {
  return device.separates_partitions() ? aligned(graph.flat_size * 4) : 0;
}

}  // namespace

int64_t Program::planned_bytes(const Device& device, const Graph& graph,
                               const PartitionGroup& group) {
  int64_t bytes = 0;
  for (const PartitionGroup& part : part_groups(device, group)) {
    bytes += aligned(plan_of(device, graph, part).arena_bytes) + gradient_bytes(device, graph);
  }
  return bytes;
}

Program::Program(Device& device, const Graph& graph, PartitionGroup group)
    : device_(device), graph_(graph), group_(std::move(group)) {
  int first_row = 0;
  for (PartitionGroup& part_group : part_groups(device, group_)) {
    Part part;
    part.plan = plan_of(device, graph, part_group);
    part.first_row = first_row;
    part.arena_offset = arena_bytes_ / static_cast<int64_t>(sizeof(float));
    first_row += part_group.total_rows();
    arena_bytes_ += aligned(part.plan.arena_bytes) + gradient_bytes(device, graph);
    part.group = std::move(part_group);
    parts_.push_back(std::move(part));
  }
}

Result<std::unique_ptr<Program>> Program::create(Device& device, const Graph& graph,
                                                 const PartitionGroup& group, Buffer& arena) {
  LOCKSTEP_CHECK(group.total_rows() > 0);
  std::unique_ptr<Program> program(new Program(device, graph, group));
  for (Part& part : program->parts_) LOCKSTEP_RETURN_IF_ERROR(program->prepare(part));
  program->bind(arena);
  return program;
}

Status Program::prepare(Part& part) {
  for (const OpDesc& op : graph_.ops) {
    auto prepared = device_.prepare(op, part.group);
    if (!prepared) {
      return Error{fmt::format("{}: {}", op.name, prepared.error().message), prepared.error().kind};
    }
    part.ops.push_back(std::move(prepared).value());
  }
  return {};
}

void Program::bind(Buffer& arena) {
  LOCKSTEP_CHECK(arena.bytes() >= arena_bytes_);
  recording_.reset();
  for (Part& part : parts_) {
    float* memory = arena.data() + part.arena_offset;
    part.values.assign(part.plan.offsets.size(), nullptr);
    for (size_t value = 0; value < part.values.size(); ++value) {
      const int64_t offset = part.plan.offsets[value];
      if (offset >= 0) part.values[value] = memory + offset / static_cast<int64_t>(sizeof(float));
    }
    if (device_.separates_partitions()) {
      part.gradient = memory + aligned(part.plan.arena_bytes) / static_cast<int64_t>(sizeof(float));
    }
  }
}

void Program::check_context(const RunContext& context) const {
  LOCKSTEP_CHECK(context.batch != nullptr && context.batch->rows == group_.total_rows());
  LOCKSTEP_CHECK(context.batch->features == graph_.input_features);
  LOCKSTEP_CHECK(graph_.flat_size == 0 || context.roots.size() == group_.roots.size());
}

RunContext Program::context_of(const Part& part, const RunContext& context,
                               float* const* root) const {
  RunContext result = context;
  result.first_row = part.first_row;
  if (part.gradient != nullptr) result.roots = std::span(root, 1);
  return result;
}

void Program::run_part(Part& part, const RunContext& context, const ReadyCallback& ready) {
  const RunContext own = context_of(part, context, &part.gradient);
  for (size_t i = 0; i < part.ops.size(); ++i) {
    part.ops[i]->run(own, part.values);
    const FlatRange range = written_range(graph_.ops[i]);
    if (ready && !range.empty()) ready(range.begin, range.end);
  }
}

Status Program::run(const RunContext& context, const ReadyCallback& ready) {
  check_context(context);
  const bool separate = device_.separates_partitions();
  const ReadyCallback ready_by_op = separate ? ReadyCallback{} : ready;
  LOCKSTEP_RETURN_IF_ERROR(
      device_.play(&recording_, context, static_cast<int>(parts_.size()),
                   [&](int part) { run_part(parts_[part], context, ready_by_op); }));
  if (!separate || graph_.flat_size == 0) return {};
  LOCKSTEP_RETURN_IF_ERROR(add_up_roots(context));
  if (ready) ready(0, graph_.flat_size);
  return {};
}

Status Program::add_up_roots(const RunContext& context) {
  std::vector<TreePiece> pieces;
  for (const Part& part : parts_) pieces.push_back({{part.group.first, 0}, part.gradient});
  for (size_t i = 0; i < group_.roots.size(); ++i) {
    LOCKSTEP_RETURN_IF_ERROR(
        device_.sum(sum_terms(pieces, group_.roots[i]), graph_.flat_size, context.roots[i]));
  }
  return {};
}

Result<std::vector<OpHash>> Program::run_hashed(const RunContext& context) {
  check_context(context);
  LOCKSTEP_CHECK(parts_.size() == 1);
  Part& part = parts_[0];
  std::vector<OpHash> hashes;
  Status hashed;
  LOCKSTEP_RETURN_IF_ERROR(device_.play(nullptr, context, 1, [&](int) {
    const RunContext own = context_of(part, context, context.roots.data());
    for (size_t i = 0; i < part.ops.size() && hashed.ok(); ++i) {
      part.ops[i]->run(own, part.values);
      const auto hash = hash_results(part, graph_.ops[i], own);
      hashed = hash.ok() ? Status{} : Status{hash.error()};
      if (hash.ok()) hashes.push_back({graph_.ops[i].name, *hash});
    }
  }));
  LOCKSTEP_RETURN_IF_ERROR(hashed);
  return hashes;
}

Result<uint64_t> Program::hash_results(Part& part, const OpDesc& op, const RunContext& context) {
  std::vector<float> results;
  const auto append = [&](int64_t count) {
    results.resize(results.size() + static_cast<size_t>(count));
    return results.data() + results.size() - count;
  };
  const int rows = part.group.total_rows();
  for (const int output : op.outputs) {
    const int64_t features = graph_.values[output].features();
    if (graph_.values[output].per_partition) {
      LOCKSTEP_RETURN_IF_ERROR(
          device_.copy_to_host(part.values[output], features, append(features)));
      continue;
    }
    LOCKSTEP_RETURN_IF_ERROR(
        device_.download(part.values[output], rows, features, append(rows * features)));
  }
  const FlatRange range = written_range(op);
  const int64_t count = range.end - range.begin;
  for (const float* root : context.roots) {
    if (range.empty()) continue;
    LOCKSTEP_RETURN_IF_ERROR(device_.copy_to_host(root + range.begin, count, append(count)));
  }
  return xxh3(results.data(), results.size() * sizeof(float));
}

Status Program::download_output(float* row_major, int output) {
  const int value = graph_.outputs[static_cast<size_t>(output)];
  const int64_t features = graph_.values[static_cast<size_t>(value)].features();
  for (const Part& part : parts_) {
    LOCKSTEP_RETURN_IF_ERROR(device_.download(part.values[static_cast<size_t>(value)],
                                              part.group.total_rows(), features,
                                              row_major + part.first_row * features));
  }
  return {};
}

Result<Program*> ProgramSet::program_for(const PartitionGroup& group) {
  for (const std::unique_ptr<Program>& program : programs_) {
    if (program->group() == group) return program.get();
  }
  LOCKSTEP_RETURN_IF_ERROR(reserve(Program::planned_bytes(device_, graph_, group)));
  LOCKSTEP_ASSIGN(auto program, Program::create(device_, graph_, group, *arena_));
  programs_.push_back(std::move(program));
  return programs_.back().get();
}

Status ProgramSet::reserve(int64_t bytes) {
  if (arena_ != nullptr && arena_->bytes() >= bytes) return {};
  LOCKSTEP_ASSIGN(auto larger, device_.allocate(bytes));
  for (const std::unique_ptr<Program>& program : programs_) program->bind(*larger);
  arena_ = std::move(larger);
  return {};
}

}  // namespace lockstep
