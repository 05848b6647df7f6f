// Learning-rate schedules with Keras' names, defaults and formulas.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "host/core/result.h"

namespace lockstep {

// A number, or a schedule: a function of the step and nothing else.
class LearningRate {
 public:
  // `value`: a positive number or {"class_name": "ExponentialDecay", "config": {…}}. `what` is the
  // optimizer, for messages.
  static Result<LearningRate> create(const std::string& what, const nlohmann::json& value);

  // As in a recipe: with every default filled in.
  const nlohmann::json& config() const { return config_; }
  // Of step 0, 1, …, as Keras counts iterations. A schedule's is a float32.
  double at(int64_t step) const;

 private:
  using Function = double (*)(const nlohmann::json& config, double step);

  nlohmann::json config_;
  Function function_ = nullptr;  // none: a number
};

std::vector<std::string> schedule_names();

}  // namespace lockstep
