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

struct FormulaTerms;
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
  bool whole = false;                   // the parameter is the whole rule's
  double gradient_scale = 1;            // from clipping by norm
  double trust = 1;                     // of this parameter
};

class FlatMath;
class WholeRule;

// A parameter in the memory of devices.
struct ParameterMemory {
  std::vector<int64_t> shape;
  float* gradient = nullptr;
  float* weights = nullptr;
  std::vector<float*> slots;
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
  bool is_by_parameter() const { return reads_norms() || !undecayed_.empty() || rule_ != nullptr; }
  // Whether the weights of a parameter of this name decay: Keras' exclude_from_weight_decay().
  bool decays(const std::string& parameter) const;
  // The slot that holds the weights' moving average, which a training ends with (use_ema); -1:
  // none.
  int average_slot() const { return average_slot_; }

  // The norms that step t needs, of whole parameters. First, where it clips by them, of the outputs
  // of gradient_norm_at; gradient_scales makes each parameter's scale of all sums of squares. Then,
  // where it has a trust, of the two outputs of trust_norms_at, of which trust_of makes it.
  // Operands as in an ExpressionUpdate.
  bool reads_norms() const { return clips_by_norm() || has_trust_; }
  bool clips_by_norm() const { return clip_norm_ > 0; }
  bool has_trust() const { return has_trust_; }
  // Whether step t only adds to the accumulator: then it needs none of all this.
  bool holds(int64_t t) const { return accumulated_ > 1 && t % accumulated_ != 0; }
  ExpressionUpdate gradient_norm_at(int64_t t) const;
  std::vector<double> gradient_scales(std::span<const double> squares) const;
  ExpressionUpdate trust_norms_at(int64_t t, const StepTerms& terms) const;
  double trust_of(std::span<const double> squares) const;

  // Some optimizers update some parameters, or all, by a rule that looks at the whole parameter.
  // Such a one takes its whole step once the norms are there, and then the update of these terms.
  bool steps_whole(const std::string& path, const std::vector<int64_t>& shape) const;
  Status take_whole_step(FlatMath& math, int64_t t, const StepTerms& terms,
                         const ParameterMemory& parameter) const;
  // Floats that it takes for that, beside the slots.
  int64_t scratch_size(const std::string& path, const std::vector<int64_t>& shape) const;
  // The shape in which Keras keeps a slot of a parameter, whose elements are the slot's first ones;
  // none: it keeps none.
  std::optional<std::vector<int64_t>> stored_shape(size_t slot, const std::string& path,
                                                   const std::vector<int64_t>& shape) const;

 private:
  // Steps that differ in their expressions.
  static constexpr size_t kDecays = 1, kHolds = 2, kOverwrites = 4, kWhole = 8, kVariants = 16;

  void add_common_slots();
  void make_expressions();
  // The row's terms of a step: the gradient as it comes out of accumulation and clipping, the
  // weight after its decay. Scalars: the rate, the row's, then those of scalars_at().
  FormulaTerms terms_of(ExpressionBuilder& builder, bool decays, const char* decay_key) const;
  std::vector<Term> new_row_terms(ExpressionBuilder& builder, size_t variant) const;
  Term accumulated_gradient(ExpressionBuilder& builder) const;
  Expression expression_of(size_t variant) const;
  int64_t iterations_before(int64_t t) const { return (t - 1) / accumulated_; }
  int row_scalar_count() const;  // with the rate
  std::vector<double> row_scalars(int64_t t, double learning_rate) const;
  double learning_rate_at(int64_t t, const StepTerms& terms) const;
  // An expression with the scalars of a step.
  ExpressionUpdate at(int64_t t, const StepTerms& terms,
                      std::shared_ptr<const Expression> expression) const;

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
  std::shared_ptr<const Expression> gradient_norm_;
  std::array<std::shared_ptr<const Expression>, 2> trust_norms_;  // [kDecays]
  std::shared_ptr<const WholeRule> rule_;
  std::array<std::shared_ptr<const Expression>, 2> prepared_;  // for the rule: gradient and weight
};

}  // namespace lockstep
