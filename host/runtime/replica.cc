#include "host/runtime/replica.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <numeric>

#include "host/core/check.h"

namespace lockstep {
namespace {

constexpr size_t kMaxSlots = 4;

// The first error, if any.
Status first_error(const std::vector<Status>& statuses) {
  for (const Status& status : statuses) {
    if (!status.ok()) return status;
  }
  return {};
}

}  // namespace

Result<std::unique_ptr<Replica>> Replica::create(const Job& job, const Model& model, int devices,
                                                 const DeviceFactory& factory) {
  LOCKSTEP_ASSIGN(auto training, model.training_graph(job.loss));
  LOCKSTEP_ASSIGN(auto evaluation, model.evaluate_graph(job.loss));
  LOCKSTEP_ASSIGN(auto optimizer, Optimizer::create(job.optimizer));
  LOCKSTEP_ASSIGN(auto team, DeviceTeam::create(devices, factory));
  std::unique_ptr<Replica> replica(new Replica(job, std::move(training), std::move(evaluation),
                                               std::move(optimizer), std::move(team)));
  LOCKSTEP_RETURN_IF_ERROR(replica->allocate_state());
  return replica;
}

Replica::Replica(const Job& job, Graph training, Graph evaluation, Optimizer optimizer,
                 std::unique_ptr<DeviceTeam> team)
    : job_(job),
      training_(std::move(training)),
      evaluation_(std::move(evaluation)),
      optimizer_(std::move(optimizer)),
      team_(std::move(team)) {
  for (int index = 0; index < team_->size(); ++index) {
    training_programs_.push_back(std::make_unique<ProgramSet>(team_->device(index), training_));
    evaluation_programs_.push_back(std::make_unique<ProgramSet>(team_->device(index), evaluation_));
  }
}

Status Replica::allocate_state() {
  const size_t count = static_cast<size_t>(training_.parameter_count);
  for (size_t i = 0; i < 1 + optimizer_.slots().size(); ++i) {
    LOCKSTEP_ASSIGN(auto buffer, team_->device(0).allocate(training_.parameter_count * 4));
    std::fill_n(buffer->data(), count, 0.0f);
    const std::span<float> memory(buffer->data(), count);
    if (i == 0) {
      state_.weights = memory;
    } else {
      state_.slots.push_back(memory);
    }
    state_buffers_.push_back(std::move(buffer));
  }
  free_roots_.resize(static_cast<size_t>(team_->size()));
  set_initial_state();
  return {};
}

void Replica::set_weights(const std::vector<float>& weights) {
  LOCKSTEP_CHECK(weights.size() == state_.weights.size());
  std::copy(weights.begin(), weights.end(), state_.weights.begin());
}

void Replica::set_initial_state() {
  set_weights(initial_weights(training_, job_.seed));
  for (const std::span<float> slot : state_.slots) std::fill(slot.begin(), slot.end(), 0.0f);
  set_accumulators(0, 0, 0, 0);
}

Status Replica::set_state(const StateView& state) {
  const auto parameters = static_cast<int64_t>(state_.weights.size());
  const auto vectors = static_cast<int64_t>(1 + state_.slots.size());
  if (state.header.parameters != parameters || state.header.vectors != vectors) {
    return Error{fmt::format("the checkpoint holds {} vectors of {} values, this job has {} of {}",
                             state.header.vectors, state.header.parameters, vectors, parameters)};
  }
  for (size_t i = 0; i < state.vectors.size(); ++i) {
    float* to = i == 0 ? state_.weights.data() : state_.slots[i - 1].data();
    std::memcpy(to, state.vectors[i].data(), state.vectors[i].size());
  }
  const StateHeader& header = state.header;
  set_accumulators(header.step, header.loss_sum, header.correct, header.rows);
  return {};
}

void Replica::set_accumulators(int64_t step, double loss_sum, int64_t correct, int64_t rows) {
  state_.step = step;
  state_.loss_sum = loss_sum;
  state_.correct = correct;
  state_.rows = rows;
  state_.digest = state_digest();
}

std::string Replica::encode_state() const {
  const auto parameters = static_cast<int64_t>(state_.weights.size());
  const auto vectors = static_cast<int64_t>(1 + state_.slots.size());
  std::string bytes = encode_state_header(
      {state_.step, state_.loss_sum, state_.correct, state_.rows, parameters, vectors});
  bytes.reserve(static_cast<size_t>(state_bytes(parameters, vectors)));
  const auto append = [&](std::span<const float> values) {
    bytes.append(reinterpret_cast<const char*>(values.data()), values.size_bytes());
  };
  append(state_.weights);
  for (const std::span<float> slot : state_.slots) append(slot);
  return bytes;
}

std::vector<PartitionRange> Replica::device_ranges(PartitionRange range) const {
  std::vector<PartitionRange> ranges;
  for (int index = 0; index < team_->size(); ++index) {
    ranges.push_back(range_of_part(range, team_->size(), index));
  }
  return ranges;
}

PartitionGroup Replica::group_of(int64_t rows, PartitionRange range) const {
  return {range.begin, partition_rows(rows, job_.partitions, range),
          contributed_subtrees(rows, job_.partitions, range)};
}

Result<std::vector<OpDigest>> Replica::canary(const Dataset& dataset, RowRange rows) {
  BatchLoader loader(dataset, {rows, job_.batch_size, job_.partitions, job_.seed, job_.shuffle});
  const int64_t batch_rows = loader.rows_of_batch(0);
  int partition = 0;
  while (is_empty_subtree(batch_rows, job_.partitions, {partition, 0})) ++partition;
  const PartitionRange range{partition, partition + 1};
  const auto batches = loader.take({0, 0, {range}});
  Device& device = team_->device(0);
  LOCKSTEP_ASSIGN(auto buffer, device.allocate(training_.flat_size * 4));
  std::array<float*, 1> roots = {buffer->data()};
  ProgramSet programs(device, training_);
  LOCKSTEP_ASSIGN(Program * program, programs.program_for(group_of(batch_rows, range)));
  RunContext context;
  context.weights = state_.weights.data();
  context.roots = roots;
  context.batch = &batches[0];
  context.seed = job_.seed;
  context.loss_scale = 1.0f / static_cast<float>(batch_rows);
  std::vector<OpDigest> digests;
  for (const OpHash& hash : program->run_hashed(context)) {
    digests.push_back({hash.op, static_cast<int64_t>(hash.hash)});
  }
  return digests;
}

NodeMemory Replica::memory(PartitionRange range, bool alone) const {
  NodeMemory memory;
  const int64_t flat_bytes = team_->device(0).buffer_bytes(training_.flat_size * 4);
  memory.weights = team_->device(0).buffer_bytes(training_.parameter_count * 4);
  memory.slots = memory.weights * static_cast<int64_t>(state_.slots.size());
  for (int index = 0; index < team_->size(); ++index) {
    const PartitionRange device_range = range_of_part(range, team_->size(), index);
    const int64_t root_count = static_cast<int64_t>(maximal_subtrees(device_range).size());
    memory.gradients += root_count * flat_bytes * (alone ? 1 : 2);
    const int rows = group_of(job_.batch_size, device_range).total_rows();
    if (rows > 0) {
      memory.activations += team_->device(index).buffer_bytes(
          plan_memory(training_, team_->device(index), rows).arena_bytes);
    }
  }
  return memory;
}

void Replica::release_roots(int parity) {
  for (const auto& [device, root] : used_roots_[parity]) {
    free_roots_[static_cast<size_t>(device)].push_back(root);
  }
  used_roots_[parity].clear();
}

Result<float*> Replica::take_root(int device) {
  std::vector<float*>& free = free_roots_[static_cast<size_t>(device)];
  if (free.empty()) {
    LOCKSTEP_ASSIGN(auto buffer, team_->device(device).allocate(training_.flat_size * 4));
    free.push_back(buffer->data());
    root_buffers_.push_back(std::move(buffer));
  }
  float* root = free.back();
  free.pop_back();
  return root;
}

Result<std::vector<LocalRoot>> Replica::take_roots(int64_t step,
                                                   const std::vector<PartitionRange>& ranges,
                                                   bool alone) {
  const int parity = static_cast<int>(step % 2);
  if (roots_step_[parity] != step) release_roots(parity);
  if (alone) release_roots(1 - parity);
  roots_step_[parity] = step;
  round_roots_.assign(ranges.size(), {});
  std::vector<LocalRoot> result;
  const int64_t rows = job_.rows_of_step(step);
  for (size_t device = 0; device < ranges.size(); ++device) {
    for (const Subtree& subtree : contributed_subtrees(rows, job_.partitions, ranges[device])) {
      LOCKSTEP_ASSIGN(float* root, take_root(static_cast<int>(device)));
      used_roots_[parity].emplace_back(static_cast<int>(device), root);
      round_roots_[device].push_back(root);
      result.push_back({subtree, root});
    }
  }
  return result;
}

int Replica::active_devices(int64_t step, const std::vector<PartitionRange>& ranges) const {
  const int64_t rows = job_.rows_of_step(step);
  return static_cast<int>(std::count_if(ranges.begin(), ranges.end(), [&](PartitionRange range) {
    return !contributed_subtrees(rows, job_.partitions, range).empty();
  }));
}

Status Replica::compute(int64_t step, const std::vector<PartitionRange>& ranges,
                        const std::vector<HostBatch>& batches,
                        const Program::ReadyCallback& ready) {
  LOCKSTEP_CHECK(step == state_.step);
  const int64_t rows = job_.rows_of_step(step);
  std::vector<Status> statuses(ranges.size());
  team_->run([&](int index) {
    const PartitionGroup group = group_of(rows, ranges[index]);
    if (group.total_rows() == 0) return;
    auto program = training_programs_[index]->program_for(group);
    if (!program.ok()) {
      statuses[index] = program.error();
      return;
    }
    RunContext context;
    context.weights = state_.weights.data();
    context.roots = std::span<float* const>(round_roots_[static_cast<size_t>(index)]);
    context.batch = &batches[index];
    context.seed = job_.seed;
    context.epoch = static_cast<uint32_t>(step / job_.steps_per_epoch());
    context.loss_scale = 1.0f / static_cast<float>(rows);
    (*program)->run(context, ready);
  });
  return first_error(statuses);
}

// Every block of the flat state once, each device a share: task(its device, block), summed.
uint64_t Replica::sum_over_blocks(const std::function<uint64_t(Device&, int64_t block)>& task) {
  const int64_t blocks = (training_.parameter_count + kDigestBlock - 1) / kDigestBlock;
  std::vector<uint64_t> sums(static_cast<size_t>(team_->size()));
  team_->run([&](int index) {
    uint64_t sum = 0;
    for (int64_t block = blocks * index / team_->size();
         block < blocks * (index + 1) / team_->size(); ++block) {
      sum += task(team_->device(index), block);
    }
    sums[static_cast<size_t>(index)] = sum;
  });
  return std::accumulate(sums.begin(), sums.end(), uint64_t{0});
}

uint64_t Replica::state_digest() {
  return sum_over_blocks([&](Device& device, int64_t block) {
    const int64_t begin = block * kDigestBlock;
    const int64_t size = std::min(kDigestBlock, training_.parameter_count - begin);
    std::array<const float*, kMaxSlots> slots{};
    for (size_t i = 0; i < state_.slots.size(); ++i) slots[i] = state_.slots[i].data() + begin;
    DigestLanes lanes;
    device.digest(state_.weights.data() + begin, std::span(slots.data(), state_.slots.size()), size,
                  &lanes);
    return block_digest(lanes, block);
  });
}

StepMetrics Replica::update(const float* reduced, const std::vector<LocalRoot>& local,
                            bool digests) {
  std::vector<TreePiece> pieces;
  for (const LocalRoot& root : local) pieces.push_back({root.subtree, root.values});
  const Subtree root = root_subtree(job_.partitions);
  const UpdateDesc desc = optimizer_.update_at(state_.step + 1);
  const int64_t count = training_.parameter_count;
  state_.digest = sum_over_blocks([&](Device& device, int64_t block) {
    std::array<float, kTreeSumBlock> scratch;
    const int64_t begin = block * kTreeSumBlock;
    const int64_t size = std::min(kTreeSumBlock, count - begin);
    const float* gradient = reduced != nullptr
                                ? reduced + begin
                                : tree_sum_block(device, pieces, root, begin, size, scratch.data());
    std::array<float*, kMaxSlots> slots{};
    for (size_t i = 0; i < state_.slots.size(); ++i) slots[i] = state_.slots[i].data() + begin;
    DigestLanes lanes;
    device.update(desc, gradient, state_.weights.data() + begin,
                  std::span(slots.data(), state_.slots.size()), size, digests ? &lanes : nullptr);
    return digests ? block_digest(lanes, block) : 0;
  });
  std::array<float, kTreeSumBlock> scratch;
  const float* metrics = reduced != nullptr ? reduced + count
                                            : tree_sum_block(team_->device(0), pieces, root, count,
                                                             kMetricCount, scratch.data());
  const StepMetrics step{metrics[0], static_cast<int64_t>(metrics[1])};
  state_.loss_sum += step.loss_sum;
  state_.correct += step.correct;
  state_.rows += job_.rows_of_step(state_.step);
  ++state_.step;
  return step;
}

void Replica::begin_epoch() {
  state_.loss_sum = 0;
  state_.correct = 0;
  state_.rows = 0;
}

Status Replica::measure(int64_t batch, int64_t rows, const std::vector<PartitionRange>& ranges,
                        const std::vector<HostBatch>& batches, std::vector<ValidationPart>* parts) {
  std::vector<Status> statuses(ranges.size());
  std::vector<std::vector<ValidationPart>> measured(ranges.size());
  team_->run([&](int index) {
    PartitionGroup group{
        ranges[index].begin, partition_rows(rows, job_.partitions, ranges[index]), {}};
    for (int p = ranges[index].begin; p < ranges[index].end; ++p) {
      if (group.rows[p - group.first] > 0) group.roots.push_back({p, 0});
    }
    if (group.roots.empty()) return;
    auto program = evaluation_programs_[index]->program_for(group);
    if (!program.ok()) {
      statuses[index] = program.error();
      return;
    }
    std::vector<float> metrics(group.roots.size() * kMetricCount);
    std::vector<float*> roots;
    for (size_t i = 0; i < group.roots.size(); ++i) roots.push_back(&metrics[i * kMetricCount]);
    RunContext context;
    context.weights = state_.weights.data();
    context.roots = roots;
    context.batch = &batches[index];
    (*program)->run(context, [](int64_t, int64_t) {});
    for (size_t i = 0; i < group.roots.size(); ++i) {
      const int partition = group.roots[i].first;
      measured[index].push_back({batch, partition, group.rows[partition - group.first], roots[i][0],
                                 static_cast<int64_t>(roots[i][1])});
    }
  });
  for (const auto& of_device : measured)
    parts->insert(parts->end(), of_device.begin(), of_device.end());
  return first_error(statuses);
}

}  // namespace lockstep
