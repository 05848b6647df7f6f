// Optimizers with Keras' names, defaults and formulas.
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "host/core/result.h"
#include "host/device/ops.h"
#include "host/optim/schedule.h"

namespace lockstep {

struct OptimizerRow;

// A state vector of the size of the parameters.
struct OptimizerSlot {
  std::string name;  // Keras'
  float initial_value = 0;
  bool operator==(const OptimizerSlot&) const = default;
};

class Optimizer {
 public:
  // `config`: {"name": "adam", "learning_rate": 0.001, …} or what keras.optimizers.serialize
  // writes,
  // {"class_name": "Adam", "config": {…}}. The learning rate may be a schedule. Absent keys take
  // Keras' defaults, an unknown key or name is an error that names the nearest known one.
  static Result<Optimizer> create(const nlohmann::json& config);

  // The config with every default filled in: part of the recipe.
  const nlohmann::json& config() const { return config_; }
  // In Keras' order; at most kMaxSlots.
  const std::vector<OptimizerSlot>& slots() const { return slots_; }
  // The scalars of step t = 1, 2, …; `learning_rate` instead of the config's.
  UpdateDesc update_at(int64_t t, std::optional<double> learning_rate = {}) const;

 private:
  const OptimizerRow* row_ = nullptr;
  nlohmann::json config_;
  LearningRate learning_rate_;
  std::vector<OptimizerSlot> slots_;
  std::shared_ptr<const Expression> expression_;  // or none: a kernel of the devices' own
};

}  // namespace lockstep
