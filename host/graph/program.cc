#include "host/graph/program.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <numeric>
#include <utility>

#include "host/core/check.h"
#include "host/core/digest.h"

namespace lockstep {

namespace {

constexpr int64_t kPartAlignment = 256;  // bytes, as CUDA's allocations
// Values no larger than this stay in a CPU's caches from the op that writes them to those that
// read them.
constexpr int64_t kCachedBytes = int64_t{1} << 20;

int64_t aligned(int64_t bytes) {
  return (bytes + kPartAlignment - 1) / kPartAlignment * kPartAlignment;
}

// Those partitions of a group that are below a node of the tree.
PartitionGroup part_of(const PartitionGroup& group, const Subtree& subtree) {
  const auto begin = group.rows.begin() + (subtree.first - group.first);
  return {subtree.first, {begin, begin + (1 << subtree.level)}, {subtree}};
}

// A group's roots, cut into subtrees of at most `level`. Those without rows are left out.
std::vector<PartitionGroup> cut(const PartitionGroup& group, int level) {
  std::vector<PartitionGroup> parts;
  for (const Subtree& root : group.roots) {
    const int own_level = std::min(level, root.level);
    for (int first = root.first; first < root.end(); first += 1 << own_level) {
      PartitionGroup part = part_of(group, {first, own_level});
      if (part.total_rows() > 0) parts.push_back(std::move(part));
    }
  }
  return parts;
}

// What a CPU's values take: the largest, and one pass over all.
struct ValueBytes {
  int64_t largest = 0, sum = 0;
};
ValueBytes value_bytes(const Device& device, const Graph& graph, int rows) {
  ValueBytes bytes;
  for (const OpDesc& op : graph.ops) {
    for (const int output : op.outputs) {
      const Value& value = graph.values[static_cast<size_t>(output)];
      if (value.per_partition) continue;
      const int64_t each = device.value_bytes(rows, value.features());
      bytes.largest = std::max(bytes.largest, each);
      bytes.sum += each;
    }
  }
  return bytes;
}

// Parts whose values stay in a cache, or come as near to it as whole partitions can. The group as
// it is, where that gains nothing: where values are small, where parts would leave vectors half
// empty, or where adding up gradients costs what passes over values cost.
std::vector<PartitionGroup> cached_parts(const Device& device, const Graph& graph,
                                         const PartitionGroup& group) {
  std::vector<PartitionGroup> parts = {group};
  if (graph.flat_size == 0) return parts;
  int level = 0, rows = 0;
  for (const Subtree& root : group.roots) {
    const int rows_of_root = part_of(group, root).total_rows();
    if (rows_of_root == 0) return parts;
    rows += rows_of_root;
    level = std::max(level, root.level);
  }
  if (rows != group.total_rows()) return parts;
  const ValueBytes whole = value_bytes(device, graph, group.total_rows());
  int64_t largest = whole.largest;
  while (level-- > 0 && largest > kCachedBytes) {
    std::vector<PartitionGroup> smaller = cut(group, level);
    int64_t sum = 0;
    largest = 0;
    for (const PartitionGroup& part : smaller) {
      const ValueBytes bytes = value_bytes(device, graph, part.total_rows());
      largest = std::max(largest, bytes.largest);
      sum += bytes.sum;
    }
    // Each part's gradient is written and read once more.
    const int64_t gradients = 2 * std::ssize(smaller) * graph.flat_size * int64_t{sizeof(float)};
    if (sum > whole.sum * 17 / 16 || 4 * gradients > whole.sum) break;
    if (smaller.size() > 1) parts = std::move(smaller);
  }
  return parts;
}

// What each part of a Program computes.
std::vector<PartitionGroup> part_groups(const Device& device, const Graph& graph,
                                        const PartitionGroup& group) {
  if (!device.separates_partitions()) {
    return device.shares_host_memory() ? cached_parts(device, graph, group)
                                       : std::vector<PartitionGroup>{group};
  }
  std::vector<PartitionGroup> groups;
  for (size_t i = 0; i < group.rows.size(); ++i) {
    const int partition = group.first + static_cast<int>(i);
    if (group.rows[i] > 0) groups.push_back(part_of(group, {partition, 0}));
  }
  return groups;
}

// What any op of a part needs for itself.
int64_t most_work(const Device& device, const Graph& graph, const PartitionGroup& group) {
  int64_t most = 0;
  for (const OpDesc& op : graph.ops) most = std::max(most, device.work_bytes(op, group));
  return aligned(most);
}

MemoryPlan plan_of(const Device& device, const Graph& graph, const PartitionGroup& group) {
  return plan_memory(graph, device, group.total_rows(), static_cast<int>(group.rows.size()));
}

}  // namespace

std::vector<Program::Part> Program::lay_out(const Device& device, const Graph& graph,
                                            const PartitionGroup& group, int64_t* bytes) {
  const bool separate = device.separates_partitions();
  std::vector<Part> parts;
  int64_t values_end = 0;
  int64_t work = 0;
  for (PartitionGroup& part_group : part_groups(device, graph, group)) {
    Part part;
    part.plan = plan_of(device, graph, part_group);
    if (parts.empty() || parts.back().group.rows != part_group.rows) {
      work = std::max(work, most_work(device, graph, part_group));
    }
    const int64_t skipped = part_group.first - group.first;
    part.first_row = std::accumulate(group.rows.begin(), group.rows.begin() + skipped, 0);
    part.group = std::move(part_group);
    part.values_at = separate ? values_end : 0;
    values_end = std::max(values_end, part.values_at + aligned(part.plan.arena_bytes));
    parts.push_back(std::move(part));
  }
  *bytes = values_end;
  for (Part& part : parts) {
    if (!separate && parts.size() == 1) continue;
    part.gradient_at = *bytes;
    *bytes += aligned(graph.flat_size * int64_t{sizeof(float)});
  }
  for (size_t i = 0; i < parts.size() && work > 0; ++i) {
    const auto place = static_cast<int64_t>(i) % device.parts_at_once();
    parts[i].work_at = *bytes + place * work;
  }
  *bytes += work * std::min<int64_t>(std::ssize(parts), device.parts_at_once());
  return parts;
}

int64_t Program::planned_bytes(const Device& device, const Graph& graph,
                               const PartitionGroup& group) {
  int64_t bytes = 0;
  lay_out(device, graph, group, &bytes);
  return bytes;
}

Program::Program(Device& device, const Graph& graph, PartitionGroup group)
    : device_(device),
      graph_(graph),
      group_(std::move(group)),
      parts_(lay_out(device, graph, group_, &arena_bytes_)),
      buckets_(device.separates_partitions() ? gradient_buckets(graph, device.bucket_bytes())
                                             : std::vector<GradientBucket>{}) {}

Result<std::unique_ptr<Program>> Program::create(Device& device, const Graph& graph,
                                                 const PartitionGroup& group, Buffer& arena) {
  LOCKSTEP_CHECK(group.total_rows() > 0);
  std::unique_ptr<Program> program(new Program(device, graph, group));
  LOCKSTEP_RETURN_IF_ERROR(program->prepare());
  program->bind(arena);
  return program;
}

// Parts that run one after the other share their ops where their rows are the same.
Status Program::prepare() {
  for (Part& part : parts_) {
    const auto same = std::find_if(parts_.begin(), parts_.end(), [&](const Part& other) {
      return other.ops != nullptr && other.group.rows == part.group.rows;
    });
    if (!device_.separates_partitions() && same != parts_.end()) {
      part.ops = same->ops;
      continue;
    }
    LOCKSTEP_ASSIGN(Ops ops, prepare_ops(part.group));
    prepared_.push_back(std::make_unique<Ops>(std::move(ops)));
    part.ops = prepared_.back().get();
  }
  return {};
}

Result<Program::Ops> Program::prepare_ops(const PartitionGroup& group) {
  Ops ops;
  for (const OpDesc& op : graph_.ops) {
    auto prepared = device_.prepare(op, group);
    if (!prepared) {
      return Error{fmt::format("{}: {}", op.name, prepared.error().message), prepared.error().kind};
    }
    ops.push_back(std::move(prepared).value());
  }
  return ops;
}

void Program::bind(Buffer& arena) {
  LOCKSTEP_CHECK(arena.bytes() >= arena_bytes_);
  recording_.reset();
  bucketed_.reset();
  for (Part& part : parts_) {
    if (part.work_at >= 0) part.work = reinterpret_cast<std::byte*>(arena.data()) + part.work_at;
    float* memory = arena.data() + part.values_at / static_cast<int64_t>(sizeof(float));
    part.values.assign(part.plan.offsets.size(), nullptr);
    for (size_t value = 0; value < part.values.size(); ++value) {
      const int64_t offset = part.plan.offsets[value];
      if (offset >= 0) part.values[value] = memory + offset / static_cast<int64_t>(sizeof(float));
    }
    if (part.gradient_at >= 0) {
      part.gradient = arena.data() + part.gradient_at / static_cast<int64_t>(sizeof(float));
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
  result.work = part.work;
  if (part.gradient != nullptr) result.roots = std::span(root, 1);
  return result;
}

void Program::run_ops(Part& part, const RunContext& context, int begin, int end,
                      const ReadyCallback& ready) {
  const RunContext own = context_of(part, context, &part.gradient);
  for (auto i = static_cast<size_t>(begin); i < static_cast<size_t>(end); ++i) {
    (*part.ops)[i]->run(own, part.values);
    const FlatRange range = written_range(graph_.ops[i]);
    if (ready && !range.empty()) ready(range.begin, range.end);
  }
}

Status Program::run(const RunContext& context, const ReadyCallback& ready) {
  check_context(context);
  return device_.separates_partitions() ? run_apart(context, ready) : run_in_turn(context, ready);
}

Status Program::run_in_turn(const RunContext& context, const ReadyCallback& ready) {
  // Where there are several parts, a range is final when the last has written it.
  Status added;
  const ReadyCallback add_and_tell = [&](int64_t begin, int64_t end) {
    if (added.ok()) added = add_up_roots(context, begin, end);
    if (ready) ready(begin, end);
  };
  const auto callback = [&](size_t part) {
    if (parts_[part].gradient == nullptr) return ready;
    return part + 1 < parts_.size() ? ReadyCallback{} : add_and_tell;
  };
  PartRuns runs;
  runs.parts = static_cast<int>(parts_.size());
  runs.run = [&](int part, int) {
    const auto at = static_cast<size_t>(part);
    run_ops(parts_[at], context, 0, op_count(), callback(at));
  };
  LOCKSTEP_RETURN_IF_ERROR(device_.play(&recording_, context, runs));
  return added;
}

Status Program::run_apart(const RunContext& context, const ReadyCallback& ready) {
  PartRuns runs;
  runs.parts = static_cast<int>(parts_.size());
  if (!ready) {
    runs.run = [&](int part, int) {
      run_ops(parts_[static_cast<size_t>(part)], context, 0, op_count(), {});
    };
    LOCKSTEP_RETURN_IF_ERROR(device_.play(&recording_, context, runs));
    return add_up_roots(context, 0, graph_.flat_size);
  }
  runs.segments = static_cast<int>(buckets_.size());
  runs.run = [&](int part, int segment) {
    const auto bucket = static_cast<size_t>(segment);
    run_ops(parts_[static_cast<size_t>(part)], context, segment == 0 ? 0 : buckets_[bucket - 1].ops,
            buckets_[bucket].ops, {});
  };
  runs.given = [&](int segment) {
    const FlatRange& range = buckets_[static_cast<size_t>(segment)].range;
    return device_.aside([&]() -> Status {
      LOCKSTEP_RETURN_IF_ERROR(add_up_roots(context, range.begin, range.end));
      ready(range.begin, range.end);
      return {};
    });
  };
  return device_.play(&bucketed_, context, runs);
}

Status Program::add_up_roots(const RunContext& context, int64_t begin, int64_t end) {
  if (begin == end) return {};
  std::vector<TreePiece> pieces;
  for (const Part& part : parts_) pieces.push_back({part.group.roots[0], part.gradient + begin});
  for (size_t i = 0; i < group_.roots.size(); ++i) {
    LOCKSTEP_RETURN_IF_ERROR(
        device_.sum(sum_terms(pieces, group_.roots[i]), end - begin, context.roots[i] + begin));
  }
  return {};
}

Result<std::vector<OpHash>> Program::run_hashed(const RunContext& context) {
  check_context(context);
  LOCKSTEP_CHECK(parts_.size() == 1);
  Part& part = parts_[0];
  std::vector<OpHash> hashes;
  Status hashed;
  PartRuns runs;
  runs.run = [&](int, int) {
    const RunContext own = context_of(part, context, context.roots.data());
    for (size_t i = 0; i < part.ops->size() && hashed.ok(); ++i) {
      (*part.ops)[i]->run(own, part.values);
      const auto hash = hash_results(part, graph_.ops[i], own);
      hashed = hash.ok() ? Status{} : Status{hash.error()};
      if (hash.ok()) hashes.push_back({graph_.ops[i].name, *hash});
    }
  };
  LOCKSTEP_RETURN_IF_ERROR(device_.play(nullptr, context, runs));
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
  LOCKSTEP_CHECK(device_.separates_partitions() || parts_.size() == 1);
  for (const Part& part : parts_) {
    LOCKSTEP_RETURN_IF_ERROR(device_.download(part.values[static_cast<size_t>(value)],
                                              part.group.total_rows(), features,
                                              row_major + part.first_row * features));
  }
  return {};
}

Result<Program*> ProgramSet::program_for(const Graph& graph, const PartitionGroup& group) {
  for (const std::unique_ptr<Program>& program : programs_) {
    if (&program->graph() == &graph && program->group() == group) return program.get();
  }
  LOCKSTEP_RETURN_IF_ERROR(reserve(Program::planned_bytes(device_, graph, group)));
  LOCKSTEP_ASSIGN(auto program, Program::create(device_, graph, group, *arena_));
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
