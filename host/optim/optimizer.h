// Optimizers with Keras' names, defaults and formulas.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
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
  bool begins_as_weights = false;  // instead of with that value

  // What it holds before the first step.
  std::vector<float> initial(std::span<const float> weights) const {
    if (begins_as_weights) return {weights.begin(), weights.end()};
    return std::vector<float>(weights.size(), initial_value);
  }
  bool operator==(const OptimizerSlot&) const = default;
};

// What a step takes beside its number.
struct StepTerms {
  std::optional<double> learning_rate;  // instead of the config's
  bool decays = true;                   // the parameter's weights decay, if any do
  double gradient_scale = 1;            // from clipping by norm
  double trust = 1;                     // of this parameter
};

// The memory of one parameter, or of a part of it.
struct ParameterMemory {
  const float* gradient = nullptr;
  const float* weights = nullptr;
  std::array<const float*, kMaxSlots> slots = {};
  ParameterMemory from(int64_t element) const;
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
  // The scalars of step t = 1, 2, …
  UpdateDesc update_at(int64_t t, const StepTerms& terms = {}) const;

  // Whether a step over a parameter depends on which it is: its name, or its norms.
  bool is_by_parameter() const { return reads_norms() || !undecayed_.empty(); }
  // Whether the weights of a parameter of this name decay: Keras' exclude_from_weight_decay().
  bool decays(const std::string& parameter) const;
  // The slot that holds the weights' moving average, which a training ends with (use_ema); -1:
  // none.
  int average_slot() const { return average_slot_; }

  // The norms of step t, in this order: sums of squares over each parameter's gradient, and the
  // scale of each from all sums; then the sums of the row's own rule over each parameter, and its
  // trust. Sums are double, in the order of the elements: a parameter's are added block by block.
  bool reads_norms() const { return clips_by_norm() || has_trust_; }
  bool clips_by_norm() const { return clip_norm_ > 0; }
  bool has_trust() const { return has_trust_; }
  double gradient_squares(int64_t t, const ParameterMemory& memory, int64_t count) const;
  std::vector<double> gradient_scales(std::span<const double> squares) const;
  std::array<double, 2> trust_squares(int64_t t, const StepTerms& terms,
                                      const ParameterMemory& memory, int64_t count) const;
  double trust_of(const std::array<double, 2>& squares) const;

 private:
  // Steps that differ in their expressions.
  static constexpr size_t kDecays = 1, kHolds = 2, kOverwrites = 4, kVariants = 8;

  void add_common_slots();
  void make_expressions();
  Expression expression_of(size_t variant) const;
  bool holds(int64_t t) const { return accumulated_ > 1 && t % accumulated_ != 0; }
  int64_t iterations_before(int64_t t) const { return (t - 1) / accumulated_; }
  std::vector<double> row_scalars(int64_t t, double learning_rate) const;
  double learning_rate_at(int64_t t, const StepTerms& terms) const;
  float gradient_of(const ParameterMemory& memory, int64_t i) const;

  const OptimizerRow* row_ = nullptr;
  nlohmann::json config_;
  LearningRate learning_rate_;
  std::vector<OptimizerSlot> slots_;  // average, accumulator, then the row's
  int average_slot_ = -1;
  int accumulator_slot_ = -1;
  int first_row_slot_ = 0;
  int64_t accumulated_ = 1;  // steps whose gradients make one update
  double clip_norm_ = 0;     // 0: none
  bool clip_all_ = false;    // by the norm of all parameters together
  bool has_trust_ = false;
  std::vector<std::string> undecayed_;  // parts of names
  // By variant; none: a kernel of the devices' own, or never needed.
  std::array<std::shared_ptr<const Expression>, kVariants> expressions_;
};

}  // namespace lockstep
