// Steps of an optimizer on a device, as tests/golden/make_optimizers.py makes them with Keras'.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "host/device/flat_math.h"
#include "host/optim/optimizer.h"
#include "tests/nn/training_step.h"
#include "tests/support/golden_json.h"

namespace lockstep::optimizer_golden {

inline const nlohmann::json& golden_file() { return golden_json("optimizers"); }

inline std::vector<std::string> case_names() { return golden_names("optimizers", "optimizers"); }

// In [-1, 1).
inline std::vector<float> made_up(uint64_t tensor, int64_t count) {
  std::vector<float> values;
  for (int64_t i = 0; i < count; ++i) {
    const double value = 2 * made_up_uniform(tensor, static_cast<uint64_t>(i)) - 1;
    values.push_back(static_cast<float>(value));
  }
  return values;
}

// Weights and slots in the memory of a device.
class State {
 public:
  State(Device& device, const Optimizer& optimizer, int64_t size)
      : device_(device),
        math_(&device),
        count_(size),
        parts_({{"w", 0, size, {size}}}),
        gradient_(allocate_floats(device, size)) {
    add(made_up(0, size));
    for (const OptimizerSlot& slot : optimizer.slots()) add(slot.initial(made_up(0, size)));
  }
  // With the parameters of a golden case.
  State(Device& device, const Optimizer& optimizer, const nlohmann::json& golden)
      : State(device, optimizer, golden_file().at("size").get<int64_t>()) {
    if (!golden.contains("parts")) return;
    parts_.clear();
    for (const auto& part : golden.at("parts")) {
      const int64_t begin = parts_.empty() ? 0 : parts_.back().begin + parts_.back().count;
      parts_.push_back({part[0], begin, part[1], {part[1]}});
    }
    for (size_t i = 0; golden.contains("shapes") && i < parts_.size(); ++i) {
      parts_[i].shape = golden.at("shapes")[i].get<std::vector<int64_t>>();
    }
  }

  int64_t count() const { return count_; }
  std::vector<float> copy(size_t vector) {
    return fetch(device_, vectors_[vector]->data(), count_);
  }
  // `lanes`: of the new state, where there is one parameter; or none.
  void step(const Optimizer& optimizer, int64_t t, DigestLanes* lanes) {
    upload(device_, made_up(static_cast<uint64_t>(t), count_), gradient_->data());
    const std::vector<StepTerms> terms = terms_of(optimizer, t);
    for (size_t i = 0; i < parts_.size(); ++i) {
      const ParameterMemory part{parts_[i].shape, gradient_->data() + parts_[i].begin,
                                 vectors_[0]->data() + parts_[i].begin, slots_of(parts_[i])};
      if (terms[i].whole) {
        const Status stepped = optimizer.take_whole_step(math_, t, terms[i], part);
        ASSERT_TRUE(stepped.ok()) << stepped.error().message;
      }
      const Status updated = device_.update(optimizer.update_at(t, terms[i]), part.gradient,
                                            part.weights, part.slots, parts_[i].count, lanes);
      ASSERT_TRUE(updated.ok()) << updated.error().message;
    }
  }

 private:
  struct Part {  // a parameter
    std::string name;
    int64_t begin = 0, count = 0;
    std::vector<int64_t> shape;
  };

  void add(const std::vector<float>& values) {
    vectors_.push_back(allocate_floats(device_, count_));
    upload(device_, values, vectors_.back()->data());
  }
  std::vector<float*> slots_of(const Part& part) {
    std::vector<float*> slots;
    for (size_t i = 1; i < vectors_.size(); ++i) slots.push_back(vectors_[i]->data() + part.begin);
    return slots;
  }
  // With the norms of each part.
  std::vector<StepTerms> terms_of(const Optimizer& optimizer, int64_t t) {
    std::vector<StepTerms> terms(parts_.size());
    for (size_t i = 0; i < parts_.size(); ++i) {
      terms[i].decays = optimizer.decays(parts_[i].name);
      terms[i].whole = optimizer.steps_whole(parts_[i].name, parts_[i].shape);
    }
    if (optimizer.holds(t)) return terms;
    const auto squares_of = [&](const auto& expression_of) {
      std::vector<SquaresTask> tasks;
      for (size_t i = 0; i < parts_.size(); ++i) {
        std::vector<const float*> operands = {gradient_->data() + parts_[i].begin,
                                              vectors_[0]->data() + parts_[i].begin};
        for (const float* slot : slots_of(parts_[i])) operands.push_back(slot);
        tasks.push_back({expression_of(terms[i]), operands, parts_[i].count});
      }
      return math_.squares(tasks).value();
    };
    if (optimizer.clips_by_norm()) {
      std::vector<double> squares;
      for (const auto& sum :
           squares_of([&](const StepTerms&) { return optimizer.gradient_norm_at(t); })) {
        squares.push_back(sum[0]);
      }
      const std::vector<double> scales = optimizer.gradient_scales(squares);
      for (size_t i = 0; i < parts_.size(); ++i) terms[i].gradient_scale = scales[i];
    }
    if (optimizer.has_trust()) {
      const auto sums =
          squares_of([&](const StepTerms& part) { return optimizer.trust_norms_at(t, part); });
      for (size_t i = 0; i < parts_.size(); ++i) terms[i].trust = optimizer.trust_of(sums[i]);
    }
    return terms;
  }

  Device& device_;
  FlatMath math_;
  int64_t count_;
  std::vector<Part> parts_;
  std::vector<std::unique_ptr<Buffer>> vectors_;  // weights, slots
  std::unique_ptr<Buffer> gradient_;
};

}  // namespace lockstep::optimizer_golden
