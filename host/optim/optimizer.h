// Optimizers with Keras' names, defaults and formulas.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "host/core/result.h"
#include "host/device/ops.h"

namespace lockstep {

class Optimizer {
 public:
  // `config`: {"name": "adam", "learning_rate": 0.001, …}; absent keys take Keras' defaults, an
  // unknown key or name is an error that names the nearest known one.
  static Result<Optimizer> create(const nlohmann::json& config);

  // The config with every default filled in: part of the recipe.
  const nlohmann::json& config() const { return config_; }
  // State vectors of the size of the parameters ("m", "v"), in Keras' order; they begin at zero.
  const std::vector<std::string>& slots() const { return slots_; }
  // The scalars of step t = 1, 2, …
  UpdateDesc update_at(int64_t t) const;

 private:
  nlohmann::json config_;
  std::vector<std::string> slots_;
};

}  // namespace lockstep
