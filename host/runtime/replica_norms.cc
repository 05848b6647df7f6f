// Norms of whole parameters, for optimizers whose step depends on them. Each node takes them all.
#include "host/runtime/replica.h"

namespace lockstep {

void Replica::make_math() {
  std::vector<Device*> devices;
  for (int index = 0; index < team_->size(); ++index) devices.push_back(&team_->device(index));
  if (shares_memory()) {
    math_.emplace_back(devices, [this](const FlatMath::Task& task) { team_->run(task); });
  } else {
    for (Device* device : devices) math_.emplace_back(device);
  }
}

FlatMath& Replica::math_of(int device) {
  return math_[device_states_.empty() ? 0 : static_cast<size_t>(device)];
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

}  // namespace lockstep
