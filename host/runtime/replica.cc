#include "host/runtime/replica.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "host/core/check.h"
#include "host/job/data_job.h"
#include "host/job/fit_job.h"
#include "host/runtime/device_buckets.h"

namespace lockstep {
namespace {

// A block that stays in a core's cache; a GPU does all at once.
constexpr int64_t kPenaltyBlock = int64_t{1} << 16;
// What a device keeps beside the rows that it is fed.
constexpr int64_t kStagedBytes = 4096;

}  // namespace

Result<std::unique_ptr<Replica>> Replica::create(const Job& job, const Model& model, int devices,
                                                 const DeviceFactory& factory) {
  LOCKSTEP_ASSIGN(auto training, model.training_graph(objective_of(job)));
  LOCKSTEP_ASSIGN(auto evaluation, model.evaluate_graph(objective_of(job)));
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
      metrics_(job),
      training_(std::move(training)),
      evaluation_(std::move(evaluation)),
      optimizer_(std::move(optimizer)),
      team_(std::move(team)),
      penalties_(training_, shares_memory() ? kPenaltyBlock : training_.parameter_count),
      constraints_(training_) {
  make_segments();
  make_math();
  for (int index = 0; index < team_->size(); ++index) {
    programs_.push_back(std::make_unique<ProgramSet>(team_->device(index), training_));
  }
}

Status Replica::allocate_state() {
  const size_t count = static_cast<size_t>(training_.parameter_count);
  const size_t vectors = 1 + optimizer_.slots().size();
  for (size_t i = 0; i < vectors; ++i) {
    LOCKSTEP_ASSIGN(auto buffer, team_->device(0).allocate_host(training_.parameter_count * 4));
    std::fill_n(buffer->data(), count, 0.0f);
    const std::span<float> memory(buffer->data(), count);
    if (i == 0) {
      state_.weights = memory;
    } else {
      state_.slots.push_back(memory);
    }
    state_buffers_.push_back(std::move(buffer));
  }
  LOCKSTEP_CHECK(training_.metric_count == metrics_.measured());
  LOCKSTEP_CHECK(evaluation_.flat_size == metrics_.measured());
  free_roots_.resize(static_cast<size_t>(team_->size()) + 1);
  link_memory_.resize(static_cast<size_t>(team_->size()));
  if (!shares_memory()) buckets_ = device_buckets(training_, team_->device(0), sharers());
  for (int index = 0; index < team_->size() && !shares_memory(); ++index) {
    Device& device = team_->device(index);
    device_states_.emplace_back();
    for (size_t i = 0; i < vectors; ++i) {
      LOCKSTEP_ASSIGN(auto buffer, device.allocate(training_.parameter_count * 4));
      device_states_.back().push_back(std::move(buffer));
    }
    LOCKSTEP_ASSIGN(auto gradient, device.allocate(padded_flat(training_, sharers()).end * 4));
    device_gradients_.push_back(std::move(gradient));
    LOCKSTEP_ASSIGN(auto metrics, device.allocate(job_.partitions * evaluation_.flat_size * 4));
    device_metrics_.push_back(std::move(metrics));
  }
  const int64_t scratch = std::max(penalties_.scratch_size(), constraints_.scratch_size());
  for (int index = 0; index < team_->size() && scratch > 0; ++index) {
    LOCKSTEP_ASSIGN(auto buffer, team_->device(index).allocate(scratch * 4));
    scratch_.push_back(std::move(buffer));
  }
  return set_initial_state();
}

std::string Replica::device_description() const {
  const std::string first = team_->device(0).description();
  if (team_->way().empty()) return first;
  return fmt::format("{} and {} more, gradients by {}", first, devices() - 1, team_->way());
}

std::vector<Device*> Replica::device_list() {
  std::vector<Device*> devices;
  for (int index = 0; index < team_->size(); ++index) devices.push_back(&team_->device(index));
  return devices;
}

const float* Replica::weights_of(int device) const {
  return device_states_.empty() ? state_.weights.data()
                                : device_states_[static_cast<size_t>(device)][0]->data();
}

// From the host to every device.
Status Replica::send_state() {
  devices_ahead_ = false;
  if (device_states_.empty()) return {};
  std::vector<Status> statuses(static_cast<size_t>(team_->size()));
  team_->run([&](int index) {
    const auto& vectors = device_states_[static_cast<size_t>(index)];
    for (size_t i = 0; i < vectors.size() && statuses[index].ok(); ++i) {
      const std::span<const float> from = i == 0 ? state_.weights : state_.slots[i - 1];
      statuses[index] = team_->device(index).copy_to_device(
          from.data(), static_cast<int64_t>(from.size()), vectors[i]->data());
    }
  });
  return first_error(statuses);
}

Status Replica::fetch_state() {
  if (!devices_ahead_) return {};
  const auto& vectors = device_states_[0];
  for (size_t i = 0; i < vectors.size(); ++i) {
    const std::span<float> to = i == 0 ? state_.weights : state_.slots[i - 1];
    LOCKSTEP_RETURN_IF_ERROR(team_->device(0).copy_to_host(
        vectors[i]->data(), static_cast<int64_t>(to.size()), to.data()));
  }
  devices_ahead_ = false;
  return {};
}

Status Replica::set_weights(const std::vector<float>& weights) {
  LOCKSTEP_CHECK(weights.size() == state_.weights.size());
  std::copy(weights.begin(), weights.end(), state_.weights.begin());
  return send_state();
}

Status Replica::set_initial_state() {
  const std::vector<float> weights = initial_weights(training_, job_.seed);
  std::copy(weights.begin(), weights.end(), state_.weights.begin());
  for (size_t i = 0; i < state_.slots.size(); ++i) {
    const std::vector<float> slot = optimizer_.slots()[i].initial(weights);
    std::copy(slot.begin(), slot.end(), state_.slots[i].begin());
  }
  return set_accumulators(0, MetricSums(static_cast<size_t>(metrics_.size())));
}

Status Replica::set_state(const StateView& state) {
  const auto parameters = static_cast<int64_t>(state_.weights.size());
  const auto vectors = static_cast<int64_t>(1 + state_.slots.size());
  if (state.header.parameters != parameters || state.header.vectors != vectors) {
    return Error{fmt::format("the checkpoint holds {} vectors of {} values, this job has {} of {}",
                             state.header.vectors, state.header.parameters, vectors, parameters)};
  }
  if (std::ssize(state.header.sums) != metrics_.size()) {
    return Error{fmt::format("the checkpoint holds {} sums of metrics, this job has {}",
                             state.header.sums.size(), metrics_.size())};
  }
  for (size_t i = 0; i < state.vectors.size(); ++i) {
    float* to = i == 0 ? state_.weights.data() : state_.slots[i - 1].data();
    std::memcpy(to, state.vectors[i].data(), state.vectors[i].size());
  }
  return set_accumulators(state.header.step, state.header.sums);
}

Status Replica::set_accumulators(int64_t step, const MetricSums& sums) {
  LOCKSTEP_RETURN_IF_ERROR(send_state());
  state_.step = step;
  state_.sums = sums;
  LOCKSTEP_ASSIGN(state_.digest, state_digest());
  return {};
}

Result<std::string> Replica::encode_state() {
  LOCKSTEP_RETURN_IF_ERROR(fetch_state());
  const auto parameters = static_cast<int64_t>(state_.weights.size());
  const auto vectors = static_cast<int64_t>(1 + state_.slots.size());
  std::string bytes = encode_state_header({state_.step, parameters, vectors, state_.sums});
  bytes.reserve(static_cast<size_t>(state_bytes(parameters, vectors, metrics_.size())));
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
  return partition_group(rows, job_.partitions, range);
}

Error Replica::explain_room(const Error& error, int index, PartitionRange range,
                            const HostBatch& batch) const {
  if (error.message.find("cannot allocate") == std::string::npos) return error;
  const Device& device = team_->device(index);
  const std::optional<int64_t> free = device.free_bytes();
  if (!free) return error;
  const int64_t room = *free + programs_[index]->arena_bytes();
  // Beside the activations the rows themselves: numbers of four bytes, a label and a position; and
  // once more, on their way.
  const int64_t row_bytes = 4 * (batch.features + batch.target_features + batch.weight_columns + 2);
  const auto needed = [&](int64_t batch_size) {
    const PartitionGroup group = group_of(batch_size, range);
    return device.buffer_bytes(Program::planned_bytes(device, training_, group)) +
           2 * device.buffer_bytes(group.total_rows() * row_bytes + kStagedBytes);
  };
  if (needed(job_.batch_size) <= room) return error;
  int64_t fitting = job_.partitions - 1;  // a batch has a row for each partition
  for (int64_t above = job_.batch_size; above - fitting > 1;) {
    const int64_t middle = fitting + (above - fitting) / 2;
    (needed(middle) <= room ? fitting : above) = middle;
  }
  constexpr double kMib = 1 << 20;
  const NodeMemory plan = memory(range, true);  // of all devices, which have the same
  const std::string remedy = fitting < job_.partitions
                                 ? "no batch fits here: take more GPUs or larger ones"
                                 : fmt::format("at most --batch-size {} fits", fitting);
  return {
      fmt::format(
          "a batch of {} needs {:.1f} MiB for rows and activations, beside {:.1f} MiB of weights "
          "and {:.1f} MiB of the optimizer: {} ({})",
          job_.batch_size, needed(job_.batch_size) / kMib, plan.weights / kMib / devices(),
          plan.slots / kMib / devices(), remedy, error.message),
      error.kind};
}

Result<std::vector<OpDigest>> Replica::canary(const Dataset& dataset, RowRange rows) {
  BatchLoader loader(dataset, training_loader(job_, rows));
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
  context.weights = weights_of(0);
  context.roots = roots;
  context.batch = &batches[0];
  context.seed = job_.seed;
  context.loss_scale = 1.0f / static_cast<float>(batch_rows);
  LOCKSTEP_ASSIGN(const auto hashes, program->run_hashed(context));
  std::vector<OpDigest> digests;
  for (const OpHash& hash : hashes) {
    digests.push_back({hash.op, static_cast<int64_t>(hash.hash)});
  }
  return digests;
}

NodeMemory Replica::memory(PartitionRange range, bool alone) const {
  return planned_memory(job_, training_, job_.has_validation() ? &evaluation_ : nullptr,
                        team_->device(0), team_->size(), optimizer_, range, alone);
}

void Replica::release_roots(int parity) {
  for (const auto& [device, root] : used_roots_[parity]) {
    free_roots_[static_cast<size_t>(device)].push_back(root);
  }
  used_roots_[parity].clear();
}

Result<Replica::RootMemory> Replica::take_root(int index, bool on_host) {
  std::vector<RootMemory>& free = free_roots_[static_cast<size_t>(index)];
  const bool of_node = index == team_->size();
  Device& device = team_->device(of_node ? 0 : index);
  if (free.empty() && of_node) free.emplace_back();
  if (free.empty()) {
    LOCKSTEP_ASSIGN(auto buffer, device.allocate(training_.flat_size * 4));
    float* memory = buffer->data();
    free.push_back({memory, device.shares_host_memory() ? memory : nullptr});
    root_buffers_.push_back(std::move(buffer));
  }
  RootMemory root = free.back();
  free.pop_back();
  if (on_host && root.host == nullptr) {
    LOCKSTEP_ASSIGN(auto buffer, device.allocate_host(training_.flat_size * 4));
    root.host = buffer->data();
    root_buffers_.push_back(std::move(buffer));
  }
  return root;
}

Result<std::vector<LocalRoot>> Replica::take_roots(int64_t step,
                                                   const std::vector<PartitionRange>& ranges,
                                                   bool alone) {
  const int parity = static_cast<int>(step % 2);
  if (roots_step_[parity] != step) release_roots(parity);
  if (alone) release_roots(1 - parity);
  roots_step_[parity] = step;
  // The gradients of one device that is alone, or of linked ones, never leave them.
  round_on_host_ = shares_memory() || !alone || (team_->size() > 1 && !linked());
  round_roots_.assign(ranges.size() + 1, {});
  std::vector<LocalRoot> result;
  const int64_t rows = job_.rows_of_step(step);
  for (size_t device = 0; device < ranges.size(); ++device) {
    for (const Subtree& subtree : contributed_subtrees(rows, job_.partitions, ranges[device])) {
      LOCKSTEP_ASSIGN(const RoundRoot root, take_round_root(step, static_cast<int>(device), subtree,
                                                            round_on_host_ && !linked()));
      const RootMemory& memory = root.memory;
      result.push_back({subtree, round_on_host_ ? memory.host : memory.device});
    }
  }
  if (!linked() || !round_on_host_) return result;
  result.clear();
  const PartitionRange whole{ranges.front().begin, ranges.back().end};
  for (const Subtree& subtree : contributed_subtrees(rows, job_.partitions, whole)) {
    LOCKSTEP_ASSIGN(const RoundRoot root, take_round_root(step, team_->size(), subtree, true));
    result.push_back({subtree, root.memory.host});
  }
  return result;
}

Result<Replica::RoundRoot> Replica::take_round_root(int64_t step, int device,
                                                    const Subtree& subtree, bool on_host) {
  LOCKSTEP_ASSIGN(const RootMemory memory, take_root(device, on_host));
  used_roots_[step % 2].emplace_back(device, memory);
  round_roots_[static_cast<size_t>(device)].push_back({subtree, memory});
  return RoundRoot{subtree, memory};
}

int Replica::active_devices(int64_t step, const std::vector<PartitionRange>& ranges) const {
  const int64_t rows = job_.rows_of_step(step);
  if (linked()) return round_roots_.back().empty() ? 0 : 1;
  return static_cast<int>(std::count_if(ranges.begin(), ranges.end(), [&](PartitionRange range) {
    return !contributed_subtrees(rows, job_.partitions, range).empty();
  }));
}

void Replica::begin_epoch() { std::fill(state_.sums.begin(), state_.sums.end(), 0.0); }

bool Replica::ends_epoch() const {
  return state_.step > 0 && ends_at_loss(job_, metrics_.values(state_.sums)[0]);
}

}  // namespace lockstep
