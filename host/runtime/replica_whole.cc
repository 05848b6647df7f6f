// Optimizers that look at whole parameters: their norms, and the steps of those that have a rule.
// Each node does all of it.
#include "host/runtime/replica.h"

namespace lockstep {
namespace {

constexpr int64_t kShared = 1 << 16;  // elements that are worth all devices

}  // namespace

void Replica::make_math() {
  std::vector<Device*> devices;
  for (int index = 0; index < team_->size(); ++index) devices.push_back(&team_->device(index));
  for (Device* device : devices) device_math_.emplace_back(device);
  if (!shares_memory()) return;
  team_math_.emplace(devices, [this](const FlatMath::Task& task) { team_->run(task); });
}

FlatMath& Replica::math_of(int device) {
  return team_math_ ? *team_math_ : device_math_[static_cast<size_t>(device)];
}

Replica::StateMemory Replica::memory_of(int device, float* gradient) {
  StateMemory memory{gradient, state_.weights.data(), {}};
  for (const std::span<float> slot : state_.slots) memory.slots.push_back(slot.data());
  if (device_states_.empty()) return memory;
  const auto& vectors = device_states_[static_cast<size_t>(device)];
  memory.weights = vectors[0]->data();
  for (size_t i = 1; i < vectors.size(); ++i) memory.slots[i - 1] = vectors[i]->data();
  return memory;
}

Replica::StateMemory Replica::StateMemory::of(const Segment& segment, int64_t first) const {
  StateMemory part{gradient + segment.gradient_offset + first, weights + segment.offset + first,
                   slots};
  for (float*& slot : part.slots) slot += segment.offset + first;
  return part;
}

std::vector<const float*> Replica::StateMemory::operands() const {
  std::vector<const float*> all = {gradient, weights};
  all.insert(all.end(), slots.begin(), slots.end());
  return all;
}

Status Replica::measure_norms(int device, const StateMemory& memory,
                              std::vector<StepTerms>* terms) {
  const int64_t t = optimizer_step();
  if (!optimizer_.reads_norms() || optimizer_.holds(t)) return {};
  std::vector<size_t> trained;
  for (size_t i = 0; i < segments_.size(); ++i) {
    if (segments_[i].role == ParameterRole::trained) trained.push_back(i);
  }
  const auto squares_of = [&](const auto& expression_of) {
    std::vector<SquaresTask> tasks;
    for (const size_t i : trained) {
      const std::vector<const float*> operands = memory.of(segments_[i]).operands();
      tasks.push_back({expression_of((*terms)[i]), operands, segments_[i].count});
    }
    return math_of(device).squares(tasks);
  };
  if (optimizer_.clips_by_norm()) {
    LOCKSTEP_ASSIGN(const auto sums,
                    squares_of([&](const StepTerms&) { return optimizer_.gradient_norm_at(t); }));
    std::vector<double> squares;
    for (const auto& sum : sums) squares.push_back(sum[0]);
    const std::vector<double> scales = optimizer_.gradient_scales(squares);
    for (size_t i = 0; i < trained.size(); ++i) (*terms)[trained[i]].gradient_scale = scales[i];
  }
  if (optimizer_.has_trust()) {
    LOCKSTEP_ASSIGN(const auto sums, squares_of([&](const StepTerms& of_segment) {
                      return optimizer_.trust_norms_at(t, of_segment);
                    }));
    for (size_t i = 0; i < trained.size(); ++i) {
      (*terms)[trained[i]].trust = optimizer_.trust_of(sums[i]);
    }
  }
  return {};
}

// A large parameter is all devices' work; of the small ones, where memory is shared, each device
// takes some.
Status Replica::take_whole_steps(int device, const StateMemory& memory,
                                 const std::vector<StepTerms>& terms) {
  const auto step = [&](FlatMath& math, size_t i) {
    const StateMemory part = memory.of(segments_[i]);
    return optimizer_.take_whole_step(
        math, optimizer_step(), terms[i],
        {segments_[i].shape, part.gradient, part.weights, part.slots});
  };
  std::vector<size_t> small;
  for (size_t i = 0; i < segments_.size(); ++i) {
    if (!segments_[i].whole) continue;
    if (team_math_ && segments_[i].count < kShared) {
      small.push_back(i);
    } else {
      LOCKSTEP_RETURN_IF_ERROR(step(math_of(device), i));
    }
  }
  if (small.empty()) return {};
  return share(std::ssize(small), [&](int index, int64_t i) {
    return step(device_math_[static_cast<size_t>(index)], small[static_cast<size_t>(i)]);
  });
}

}  // namespace lockstep
