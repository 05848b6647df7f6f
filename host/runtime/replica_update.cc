// A step of the optimizer over the state, and the state's digest.
#include <algorithm>
#include <array>
#include <numeric>

#include "host/runtime/replica.h"

namespace lockstep {
namespace {

static_assert(kMaxMetricSums <= kTreeSumBlock);

}  // namespace

void Replica::make_segments() {
  for (const Parameter& parameter : training_.parameters) {
    if (parameter.gradient_offset < 0) continue;
    Segment next{parameter.role,    parameter.momentum,
                 parameter.offset,  parameter.gradient_offset,
                 parameter.count(), optimizer_.decays(parameter.name)};
    next.whole = next.role == ParameterRole::trained &&
                 optimizer_.steps_whole(parameter.path(), parameter.shape);
    next.shape = parameter.shape;
    if (!segments_.empty() && may_join(segments_.back(), next)) {
      segments_.back().count += next.count;
    } else {
      segments_.push_back(next);
    }
  }
}

bool Replica::may_join(const Segment& last, const Segment& next) const {
  const bool is_apart =
      (optimizer_.reads_norms() && next.role == ParameterRole::trained) || last.whole || next.whole;
  return !is_apart && last.role == next.role && last.momentum == next.momentum &&
         last.decays == next.decays && last.end() == next.offset &&
         last.gradient_offset + last.count == next.gradient_offset;
}

void Replica::plan_step(std::optional<double> learning_rate) {
  terms_.clear();
  for (const Segment& segment : segments_) {
    terms_.push_back(
        {.learning_rate = learning_rate, .decays = segment.decays, .whole = segment.whole});
  }
}

UpdateDesc Replica::update_of(const Segment& segment, const StepTerms& terms) const {
  if (segment.role == ParameterRole::trained) return optimizer_.update_at(optimizer_step(), terms);
  return MovingAverageUpdate{segment.momentum, 1.0f - segment.momentum,
                             1.0f / static_cast<float>(job_.rows_of_step(state_.step))};
}

Result<std::vector<UpdateDesc>> Replica::plan_updates(int device, const StateMemory& memory) {
  std::vector<StepTerms> terms = terms_;
  LOCKSTEP_RETURN_IF_ERROR(measure_norms(device, memory, &terms));
  LOCKSTEP_RETURN_IF_ERROR(take_whole_steps(device, memory, terms));
  std::vector<UpdateDesc> updates;
  for (size_t i = 0; i < segments_.size(); ++i) {
    updates.push_back(update_of(segments_[i], terms[i]));
  }
  return updates;
}

// Runs task(index of a device, i) for i in [0, count), each device a share of them.
Status Replica::share(int64_t count, const std::function<Status(int index, int64_t i)>& task) {
  std::vector<Status> statuses(static_cast<size_t>(team_->size()));
  team_->run([&](int index) {
    for (int64_t i = count * index / team_->size();
         i < count * (index + 1) / team_->size() && statuses[index].ok(); ++i) {
      statuses[index] = task(index, i);
    }
  });
  return first_error(statuses);
}

// Every block of the flat state once: task(a device, block), summed.
Result<uint64_t> Replica::sum_over_blocks(
    const std::function<Result<uint64_t>(Device&, int64_t block)>& task) {
  std::vector<uint64_t> sums(static_cast<size_t>(team_->size()));
  const int64_t blocks = (training_.parameter_count + kDigestBlock - 1) / kDigestBlock;
  LOCKSTEP_RETURN_IF_ERROR(share(blocks, [&](int index, int64_t block) -> Status {
    LOCKSTEP_ASSIGN(const uint64_t sum, task(team_->device(index), block));
    sums[static_cast<size_t>(index)] += sum;
    return {};
  }));
  return std::accumulate(sums.begin(), sums.end(), uint64_t{0});
}

Result<uint64_t> Replica::state_digest() {
  if (!device_states_.empty()) {
    std::vector<const float*> slots;
    for (size_t i = 1; i < device_states_[0].size(); ++i) {
      slots.push_back(device_states_[0][i]->data());
    }
    std::vector<DigestLanes> lanes(digest_blocks(training_.parameter_count));
    LOCKSTEP_RETURN_IF_ERROR(
        team_->device(0).digest(weights_of(0), slots, training_.parameter_count, lanes.data()));
    return state_digest_of(lanes);
  }
  return sum_over_blocks(
      [&](Device& device, int64_t block) { return digest_of_block(device, block); });
}

Result<uint64_t> Replica::digest_of_block(Device& device, int64_t block) const {
  const int64_t begin = block * kDigestBlock;
  const int64_t size = std::min(kDigestBlock, training_.parameter_count - begin);
  std::array<const float*, kMaxSlots> slots{};
  for (size_t i = 0; i < state_.slots.size(); ++i) slots[i] = state_.slots[i].data() + begin;
  DigestLanes lanes;
  LOCKSTEP_RETURN_IF_ERROR(device.digest(
      state_.weights.data() + begin, std::span(slots.data(), state_.slots.size()), size, &lanes));
  return block_digest(lanes, block);
}

Result<MetricSums> Replica::update(const float* reduced, const std::vector<LocalRoot>& local,
                                   bool digests, std::optional<double> learning_rate) {
  std::vector<TreePiece> pieces;
  for (const LocalRoot& root : local) pieces.push_back({root.subtree, root.values});
  plan_step(learning_rate);
  const int64_t metric_count = training_.metric_count;
  std::array<float, kTreeSumBlock> metrics;
  LOCKSTEP_ASSIGN(const double penalty, this->penalty());
  if (!device_states_.empty()) {
    LOCKSTEP_RETURN_IF_ERROR(update_devices(reduced, pieces, digests, metrics.data()));
  } else {
    LOCKSTEP_ASSIGN(state_.digest, update_shared(reduced, pieces, digests));
    const int64_t begin = training_.metrics_offset();
    const float* sums =
        reduced != nullptr ? reduced + begin
                           : tree_sum_block(team_->device(0), pieces, root_subtree(job_.partitions),
                                            begin, metric_count, metrics.data());
    if (sums != metrics.data()) std::copy_n(sums, metric_count, metrics.data());
  }
  MetricSums step = metrics_.sums(std::span(metrics).first(static_cast<size_t>(metric_count)),
                                  job_.rows_of_step(state_.step), penalty);
  add_sums(step, &state_.sums);
  ++state_.step;
  return step;
}

// In the host's memory: each device a share of the blocks. The new state's digest.
Result<uint64_t> Replica::update_shared(const float* reduced, const std::vector<TreePiece>& pieces,
                                        bool digests) {
  const Subtree root = root_subtree(job_.partitions);
  if (!training_.is_plain() || optimizer_.is_by_parameter()) {
    whole_gradient_.resize(static_cast<size_t>(training_.flat_size));
    if (reduced != nullptr) {
      std::copy_n(reduced, training_.flat_size, whole_gradient_.data());
    } else {
      tree_sum_range(team_->device(0), pieces, root, training_.flat_size, whole_gradient_.data());
    }
    for (const GradientSum& sum : training_.gradient_sums) {
      float* to = whole_gradient_.data() + sum.to;
      team_->device(0).add(to, whole_gradient_.data() + sum.from, to, sum.count);
    }
    LOCKSTEP_RETURN_IF_ERROR(add_penalty_gradients(whole_gradient_.data()));
    if (constraints_.count() == 0) return update_segments(whole_gradient_.data(), digests);
    LOCKSTEP_RETURN_IF_ERROR(update_segments(whole_gradient_.data(), false));
    LOCKSTEP_RETURN_IF_ERROR(constrain_weights());
    return digests ? state_digest() : uint64_t{0};
  }
  const UpdateDesc desc = update_of(segments_.at(0), terms_.at(0));  // of all
  return sum_over_blocks([&](Device& device, int64_t block) -> Result<uint64_t> {
    std::array<float, kTreeSumBlock> scratch;
    const int64_t begin = block * kTreeSumBlock;
    const int64_t size = std::min(kTreeSumBlock, training_.parameter_count - begin);
    const float* gradient = reduced != nullptr
                                ? reduced + begin
                                : tree_sum_block(device, pieces, root, begin, size, scratch.data());
    std::array<float*, kMaxSlots> slots{};
    for (size_t i = 0; i < state_.slots.size(); ++i) slots[i] = state_.slots[i].data() + begin;
    DigestLanes lanes;
    LOCKSTEP_RETURN_IF_ERROR(device.update(desc, gradient, state_.weights.data() + begin,
                                           std::span(slots.data(), state_.slots.size()), size,
                                           digests ? &lanes : nullptr));
    return digests ? block_digest(lanes, block) : 0;
  });
}

Result<double> Replica::penalty() {
  std::vector<float> values(static_cast<size_t>(penalties_.blocks()));
  if (values.empty()) return 0.0;
  LOCKSTEP_RETURN_IF_ERROR(share(penalties_.blocks(), [&](int index, int64_t block) -> Status {
    LOCKSTEP_ASSIGN(values[static_cast<size_t>(block)],
                    penalties_.value(team_->device(index), block, weights_of(index),
                                     scratch_[static_cast<size_t>(index)]->data()));
    return {};
  }));
  return std::accumulate(values.begin(), values.end(), 0.0);
}

Status Replica::add_penalty_gradients(float* gradient) {
  return share(penalties_.blocks(), [&](int index, int64_t block) {
    return penalties_.add_gradient(team_->device(index), block, state_.weights.data(), gradient);
  });
}

Status Replica::constrain_weights() {
  return share(constraints_.count(), [&](int index, int64_t number) {
    return constraints_.apply_to(team_->device(index), static_cast<int>(number),
                                 state_.weights.data(),
                                 scratch_[static_cast<size_t>(index)]->data());
  });
}

Result<uint64_t> Replica::update_segments(float* gradient, bool digests) {
  const StateMemory memory = memory_of(0, gradient);
  LOCKSTEP_ASSIGN(const auto updates, plan_updates(0, memory));
  return sum_over_blocks([&](Device& device, int64_t block) -> Result<uint64_t> {
    const int64_t begin = block * kDigestBlock;
    const int64_t end = std::min(begin + kDigestBlock, training_.parameter_count);
    for (size_t i = 0; i < segments_.size(); ++i) {
      const int64_t from = std::max(begin, segments_[i].offset);
      const int64_t count = std::min(end, segments_[i].end()) - from;
      if (count <= 0) continue;
      const StateMemory part = memory.of(segments_[i], from - segments_[i].offset);
      LOCKSTEP_RETURN_IF_ERROR(
          device.update(updates[i], part.gradient, part.weights, part.slots, count, nullptr));
    }
    if (!digests) return uint64_t{0};
    return digest_of_block(device, block);
  });
}

// In each device's memory, the whole state on each.
Status Replica::update_devices(const float* reduced, const std::vector<TreePiece>& pieces,
                               bool digests, float* metrics) {
  std::vector<float> sum;
  if (reduced == nullptr && round_on_host_) {
    sum.resize(static_cast<size_t>(training_.flat_size));
    tree_sum_range(team_->device(0), pieces, root_subtree(job_.partitions), training_.flat_size,
                   sum.data());
    reduced = sum.data();
  }
  std::vector<DigestLanes> lanes(digest_blocks(training_.parameter_count));
  std::vector<Status> statuses(static_cast<size_t>(team_->size()));
  team_->run([&](int index) {
    statuses[index] =
        update_device(index, reduced, pieces, index == 0 && digests ? &lanes : nullptr,
                      index == 0 ? metrics : nullptr);
  });
  LOCKSTEP_RETURN_IF_ERROR(first_error(statuses));
  devices_ahead_ = true;
  state_.digest = digests ? state_digest_of(lanes) : 0;
  return {};
}

Result<float*> Replica::gradient_on(int index, const float* reduced,
                                    const std::vector<TreePiece>& pieces) {
  Device& device = team_->device(index);
  float* gradient = device_gradients_[static_cast<size_t>(index)]->data();
  const Subtree root = root_subtree(job_.partitions);
  if (linked()) {
    LOCKSTEP_RETURN_IF_ERROR(spread_gradient(index, reduced));
  } else if (reduced != nullptr) {
    LOCKSTEP_RETURN_IF_ERROR(device.copy_to_device(reduced, training_.flat_size, gradient));
  } else {
    LOCKSTEP_RETURN_IF_ERROR(device.sum(sum_terms(pieces, root), training_.flat_size, gradient));
  }
  for (const GradientSum& sum : training_.gradient_sums) {
    const SumTerm terms[] = {{gradient + sum.to, 0}, {gradient + sum.from, 1}};
    LOCKSTEP_RETURN_IF_ERROR(device.sum(terms, sum.count, gradient + sum.to));
  }
  for (int64_t block = 0; block < penalties_.blocks(); ++block) {
    LOCKSTEP_RETURN_IF_ERROR(penalties_.add_gradient(device, block, weights_of(index), gradient));
  }
  return gradient;
}

Status Replica::update_device(int index, const float* reduced, const std::vector<TreePiece>& pieces,
                              std::vector<DigestLanes>* lanes, float* metrics) {
  Device& device = team_->device(index);
  LOCKSTEP_ASSIGN(float* const gradient, gradient_on(index, reduced, pieces));
  const StateMemory memory = memory_of(index, gradient);
  LOCKSTEP_ASSIGN(const auto updates, plan_updates(index, memory));
  const bool is_plain = training_.is_plain() && segments_.size() == 1;
  for (size_t i_segment = 0; i_segment < segments_.size(); ++i_segment) {
    const StateMemory part = memory.of(segments_[i_segment]);
    LOCKSTEP_RETURN_IF_ERROR(device.update(updates[i_segment], part.gradient, part.weights,
                                           part.slots, segments_[i_segment].count,
                                           is_plain && lanes != nullptr ? lanes->data() : nullptr));
  }
  for (int number = 0; number < constraints_.count(); ++number) {
    LOCKSTEP_RETURN_IF_ERROR(constraints_.apply_to(device, number, memory.weights,
                                                   scratch_[static_cast<size_t>(index)]->data()));
  }
  if (!is_plain && lanes != nullptr) {
    const std::vector<const float*> slots(memory.slots.begin(), memory.slots.end());
    LOCKSTEP_RETURN_IF_ERROR(
        device.digest(memory.weights, slots, training_.parameter_count, lanes->data()));
  }
  if (metrics == nullptr) return {};
  return device.copy_to_host(gradient + training_.metrics_offset(), training_.metric_count,
                             metrics);
}

}  // namespace lockstep
