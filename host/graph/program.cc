#include "host/graph/program.h"

#include <fmt/format.h>

#include <cstring>
#include <utility>

#include "host/core/check.h"
#include "host/core/digest.h"

namespace lockstep {

Program::Program(Device& device, const Graph& graph, PartitionGroup group)
    : device_(device),
      graph_(graph),
      group_(std::move(group)),
      plan_(plan_memory(graph, device, group_.total_rows())) {}

Result<std::unique_ptr<Program>> Program::create(Device& device, const Graph& graph,
                                                 const PartitionGroup& group, Buffer& arena) {
  LOCKSTEP_CHECK(group.total_rows() > 0);
  std::unique_ptr<Program> program(new Program(device, graph, group));
  for (const OpDesc& op : graph.ops) {
    auto prepared = device.prepare(op, group);
    if (!prepared) {
      return Error{fmt::format("{}: {}", op.name, prepared.error().message), prepared.error().kind};
    }
    program->ops_.push_back(std::move(prepared).value());
  }
  program->bind(arena);
  return program;
}

void Program::bind(Buffer& arena) {
  LOCKSTEP_CHECK(arena.bytes() >= plan_.arena_bytes);
  values_.assign(plan_.offsets.size(), nullptr);
  for (size_t value = 0; value < values_.size(); ++value) {
    const int64_t offset = plan_.offsets[value];
    if (offset >= 0) values_[value] = arena.data() + offset / static_cast<int64_t>(sizeof(float));
  }
}

void Program::check_context(const RunContext& context) const {
  LOCKSTEP_CHECK(context.batch != nullptr && context.batch->rows == group_.total_rows());
  LOCKSTEP_CHECK(context.batch->features == element_count(graph_.input_shape));
  LOCKSTEP_CHECK(graph_.flat_size == 0 || context.roots.size() == group_.roots.size());
}

void Program::run(const RunContext& context, const ReadyCallback& ready) {
  check_context(context);
  for (size_t i = 0; i < ops_.size(); ++i) {
    ops_[i]->run(context, values_);
    const FlatRange range = written_range(graph_.ops[i]);
    if (ready && !range.empty()) ready(range.begin, range.end);
  }
}

std::vector<OpHash> Program::run_hashed(const RunContext& context) {
  check_context(context);
  std::vector<OpHash> hashes;
  for (size_t i = 0; i < ops_.size(); ++i) {
    ops_[i]->run(context, values_);
    hashes.push_back({graph_.ops[i].name, hash_results(graph_.ops[i], context)});
  }
  return hashes;
}

uint64_t Program::hash_results(const OpDesc& op, const RunContext& context) {
  std::vector<float> results;
  const auto append = [&](const float* value, int rows, int64_t features) {
    const size_t begin = results.size();
    results.resize(begin + static_cast<size_t>(rows * features));
    device_.download(value, rows, features, results.data() + begin);
  };
  for (const int output : op.outputs) {
    append(values_[output], group_.total_rows(), graph_.values[output].features());
  }
  const FlatRange range = written_range(op);
  for (const float* root : context.roots) {
    const float* begin = root + range.begin;
    if (device_.shares_host_memory()) {
      results.insert(results.end(), begin, root + range.end);
    } else if (!range.empty()) {
      append(begin, 1, range.end - range.begin);
    }
  }
  return xxh3(results.data(), results.size() * sizeof(float));
}

Result<Program*> ProgramSet::program_for(const PartitionGroup& group) {
  for (const std::unique_ptr<Program>& program : programs_) {
    if (program->group() == group) return program.get();
  }
  LOCKSTEP_RETURN_IF_ERROR(reserve(plan_memory(graph_, device_, group.total_rows()).arena_bytes));
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
