#include "host/optim/optimizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "host/core/check.h"
#include "host/core/suggest.h"
#include "host/optim/hyperparameters.h"
#include "host/optim/optimizer_table.h"
#include "host/optim/whole_rule.h"

namespace lockstep {
namespace {

using Json = nlohmann::json;

// Keras' optimizers, and an option of all of them, that come later.
const char* const kLaterNames[] = {"lossscaleoptimizer"};
const char* const kLaterKeys[] = {"loss_scale_factor"};
// What Keras 2 writes beside, and what changes no number.
const char* const kOldKeys[] = {"is_legacy_optimizer", "jit_compile"};

constexpr double kAverageMomentum = 0.99;  // the default, which configs leave out

// Those that all have. None was in the first jobs' recipes.
std::vector<Hyperparameter> common_keys() {
  using enum HyperparameterKind;
  const auto silent = [](const char* name, HyperparameterKind kind, Json value = nullptr) {
    return Hyperparameter{name, kind, std::move(value), false, true};
  };
  Hyperparameter accumulated = silent("gradient_accumulation_steps", count_or_none);
  accumulated.least = 2;
  return {silent("clipvalue", positive_or_none),
          silent("clipnorm", positive_or_none),
          silent("global_clipnorm", positive_or_none),
          silent("use_ema", boolean, false),
          silent("ema_momentum", up_to_one, kAverageMomentum),
          silent("ema_overwrite_frequency", count_or_none),
          accumulated,
          silent("exclude_from_weight_decay", names, Json::array())};
}

// {"name": …, …} of either way of writing an optimizer; keys beside "config" win.
Result<Json> flattened(const Json& config) {
  const bool serialized = config.is_object() && config.contains("class_name");
  const char* name_key = serialized ? "class_name" : "name";
  if (!config.is_object() || !config.contains(name_key) || !config[name_key].is_string() ||
      (serialized && !config.value("config", Json::object()).is_object())) {
    return usage_error(
        fmt::format("an optimizer is written {{\"name\": \"adam\", \"learning_rate\": 0.001}}, "
                    "not {}",
                    config.dump()));
  }
  Json flat = config;
  if (serialized) {
    flat = config.value("config", Json::object());
    Json beside = config;
    for (const char* key : {"class_name", "config", "module", "registered_name"}) beside.erase(key);
    flat.update(beside);
  }
  flat["name"] = lower_case(config[name_key].get<std::string>());
  return flat;
}

// Takes out what is switched off or means nothing here, and refuses what is on.
Status take_later_keys(const std::string& what, Json* config) {
  for (const char* key : kLaterKeys) {
    const Json value = config->value(key, Json());
    if (!value.is_null() && value != false) {
      return usage_error(fmt::format("{}: {} comes later; leave it out", what, key));
    }
    config->erase(key);
  }
  for (const char* key : kOldKeys) config->erase(key);
  if (const Json decay = config->value("decay", Json()); decay.is_null() || decay == 0) {
    config->erase("decay");  // of the rate, in Keras 2: now a schedule
  }
  if (config->value("use_ema", Json(false)) == false) {  // they mean nothing without it
    config->erase("ema_momentum");
    config->erase("ema_overwrite_frequency");
  }
  return {};
}

Result<const OptimizerRow*> row_of(const std::string& name) {
  for (const OptimizerRow& row : optimizer_table()) {
    if (lower_case(row.keras_class) == name) return &row;
  }
  if (std::find(std::begin(kLaterNames), std::end(kLaterNames), name) != std::end(kLaterNames)) {
    return usage_error(fmt::format("optimizer '{}' comes later; use adam or adamw", name));
  }
  return usage_error(unknown_name_message("optimizer", name, optimizer_names()));
}

Status check_clipping(const std::string& what, const Json& config) {
  std::string given;
  int count = 0;
  for (const char* key : {"clipnorm", "clipvalue", "global_clipnorm"}) {
    if (!config.contains(key) || config[key].is_null()) continue;
    given += (count++ > 0 ? " and " : "") + std::string(key);
  }
  if (count <= 1) return {};
  return usage_error(fmt::format("{}: {} exclude each other: give one", what, given));
}

}  // namespace

Result<Optimizer> Optimizer::create(const Json& config) {
  LOCKSTEP_ASSIGN(Json flat, flattened(config));
  const std::string name = flat["name"];
  const std::string what = fmt::format("optimizer '{}'", name);
  Optimizer optimizer;
  LOCKSTEP_ASSIGN(optimizer.row_, row_of(name));
  LOCKSTEP_RETURN_IF_ERROR(take_later_keys(what, &flat));
  std::vector<Hyperparameter> keys = optimizer.row_->keys;
  for (const Hyperparameter& key : common_keys()) keys.push_back(key);
  Json rate = flat.value("learning_rate", keys[0].default_value);
  LOCKSTEP_CHECK(keys[0].name == "learning_rate");
  LOCKSTEP_ASSIGN(optimizer.learning_rate_, LearningRate::create(what, rate));
  flat.erase("name");
  flat.erase("learning_rate");
  LOCKSTEP_ASSIGN(optimizer.config_, checked_config(what, keys, flat));
  LOCKSTEP_RETURN_IF_ERROR(check_clipping(what, optimizer.config_));
  optimizer.config_["name"] = name;
  optimizer.config_["learning_rate"] = optimizer.learning_rate_.config();
  optimizer.add_common_slots();
  LOCKSTEP_CHECK(optimizer.slots_.size() <= kMaxSlots);
  if (optimizer.row_->whole != nullptr) {
    LOCKSTEP_ASSIGN(optimizer.rule_, optimizer.row_->whole(optimizer.config_));
  }
  optimizer.make_expressions();
  return optimizer;
}

// In the order in which Keras makes its variables.
void Optimizer::add_common_slots() {
  if (config_.value("use_ema", false)) {
    average_slot_ = static_cast<int>(slots_.size());
    slots_.push_back({"average"});
  }
  if (const double steps = number_of(config_, "gradient_accumulation_steps"); steps > 0) {
    accumulated_ = static_cast<int64_t>(steps);
    accumulator_slot_ = static_cast<int>(slots_.size());
    slots_.push_back({"gradient_accumulator"});
  }
  first_row_slot_ = static_cast<int>(slots_.size());
  for (OptimizerSlot& slot : row_->slots(config_)) slots_.push_back(std::move(slot));
  clip_all_ = number_of(config_, "global_clipnorm") > 0;
  clip_norm_ = number_of(config_, clip_all_ ? "global_clipnorm" : "clipnorm");
  has_trust_ = row_->trust.has_value();
  const bool decay =
      number_of(config_, "weight_decay") > 0 || number_of(config_, row_->formula_decay) > 0;
  if (decay) undecayed_ = config_.value("exclude_from_weight_decay", undecayed_);
}

void Optimizer::make_expressions() {
  const auto shared = [](Expression expression) {
    return std::make_shared<const Expression>(std::move(expression));
  };
  if (clips_by_norm()) {
    ExpressionBuilder e;
    gradient_norm_ = shared(e.finish({accumulated_gradient(e)}));
  }
  for (size_t decays = 0; decays < trust_norms_.size() && has_trust_; ++decays) {
    ExpressionBuilder e;
    const auto measured = row_->trust->measured(terms_of(e, decays != 0, "weight_decay"));
    trust_norms_[decays] = shared(e.finish({measured.begin(), measured.end()}));
  }
  for (size_t decays = 0; decays < prepared_.size() && rule_ != nullptr; ++decays) {
    ExpressionBuilder e;
    const FormulaTerms terms = terms_of(e, decays != 0, "weight_decay");
    prepared_[decays] = shared(e.finish({terms.gradient, terms.weight}));
  }
  const bool plain = !config_.contains("amsgrad") && !config_.contains("weight_decay") &&
                     !config_.contains("clipvalue") && first_row_slot_ == 0 && !reads_norms();
  if (row_->fused != nullptr && plain) return;
  const bool overwrites = number_of(config_, "ema_overwrite_frequency") > 0;
  for (size_t variant = 0; variant < kVariants; ++variant) {
    if ((variant & kHolds) != 0 && accumulated_ == 1) continue;
    if ((variant & kOverwrites) != 0 && !overwrites) continue;
    const bool whole = (variant & kWhole) != 0;
    if (whole ? rule_ == nullptr : row_->formula == nullptr) continue;
    expressions_[variant] = shared(expression_of(variant));
  }
}

Term Optimizer::accumulated_gradient(ExpressionBuilder& e) const {
  if (accumulator_slot_ < 0) return e.operand(0);
  return (e.operand(0) + e.operand(2 + accumulator_slot_)) / static_cast<double>(accumulated_);
}

FormulaTerms Optimizer::terms_of(ExpressionBuilder& e, bool decays, const char* decay_key) const {
  FormulaTerms terms{e, config_, accumulated_gradient(e), e.operand(1), e.scalar(0), {}, {}};
  for (int i = first_row_slot_; i < std::ssize(slots_); ++i) {
    terms.slots.push_back(e.operand(2 + i));
  }
  int next_scalar = row_scalar_count();
  if (clips_by_norm()) terms.gradient = terms.gradient * e.scalar(next_scalar++);
  if (has_trust_) terms.trust = e.scalar(next_scalar);
  if (const double limit = number_of(config_, "clipvalue"); limit > 0) {
    // In this order NaN stays NaN.
    terms.gradient = e.minimum(e.constant(limit), terms.gradient);
    terms.gradient = e.maximum(e.constant(-limit), terms.gradient);
  }
  const double decay = number_of(config_, decay_key);
  if (decay > 0 && decays && !row_->decays_itself) {
    terms.weight = terms.weight - terms.weight * decay * terms.learning_rate;
  }
  return terms;
}

// The new slots of the row and the new weight. Where the whole rule has taken its step, its slots
// are there, and what is left is in the gradient's place.
std::vector<Term> Optimizer::new_row_terms(ExpressionBuilder& e, size_t variant) const {
  const bool holds_still = (variant & kHolds) != 0, whole = (variant & kWhole) != 0;
  const FormulaTerms terms = terms_of(e, (variant & kDecays) != 0, row_->formula_decay);
  if (!holds_still && !whole) return row_->formula(terms);
  std::vector<Term> outputs = terms.slots;
  outputs.push_back(holds_still ? e.operand(1) : e.operand(1) - e.operand(0));
  return outputs;
}

// The row's formula, as Keras has it, and then the moving average.
Expression Optimizer::expression_of(size_t variant) const {
  ExpressionBuilder e;
  std::vector<Term> row_outputs = new_row_terms(e, variant);
  LOCKSTEP_CHECK(std::ssize(row_outputs) == std::ssize(slots_) - first_row_slot_ + 1);
  std::vector<Term> outputs;
  if (average_slot_ >= 0) {
    const int kept = row_scalar_count() + (clips_by_norm() ? 1 : 0) + (has_trust_ ? 1 : 0);
    const Term average =
        e.operand(2 + average_slot_) * e.scalar(kept) + row_outputs.back() * e.scalar(kept + 1);
    outputs.push_back(average);
    if ((variant & kOverwrites) != 0) row_outputs.back() = average;
  }
  if (accumulator_slot_ >= 0) {
    const Term sum = e.operand(0) + e.operand(2 + accumulator_slot_);
    outputs.push_back((variant & kHolds) != 0 ? sum : e.constant(0));
  }
  outputs.insert(outputs.end(), row_outputs.begin(), row_outputs.end());
  return e.finish(outputs);
}

double Optimizer::learning_rate_at(int64_t t, const StepTerms& terms) const {
  return terms.learning_rate ? *terms.learning_rate : learning_rate_.at(t - 1);
}

int Optimizer::row_scalar_count() const { return 1 + static_cast<int>(row_scalars(1, 1).size()); }

std::vector<double> Optimizer::row_scalars(int64_t t, double learning_rate) const {
  if (row_->scalars == nullptr) return {};
  return row_->scalars(config_, learning_rate, iterations_before(t) + 1);
}

UpdateDesc Optimizer::update_at(int64_t t, const StepTerms& terms) const {
  LOCKSTEP_CHECK(t >= 1);
  const int64_t frequency = static_cast<int64_t>(number_of(config_, "ema_overwrite_frequency"));
  const bool overwrites = frequency > 0 && (iterations_before(t) + 1) % frequency == 0;
  const size_t variant = (terms.decays ? kDecays : 0) | (holds(t) ? kHolds : 0) |
                         (overwrites ? kOverwrites : 0) | (terms.whole ? kWhole : 0);
  if (expressions_[variant] != nullptr) return at(t, terms, expressions_[variant]);
  return row_->fused(config_, learning_rate_at(t, terms), t);
}

ExpressionUpdate Optimizer::at(int64_t t, const StepTerms& terms,
                               std::shared_ptr<const Expression> expression) const {
  const double learning_rate = learning_rate_at(t, terms);
  std::vector<double> scalars = {learning_rate};
  for (const double scalar : row_scalars(t, learning_rate)) scalars.push_back(scalar);
  if (clips_by_norm()) scalars.push_back(terms.gradient_scale);
  if (has_trust_) scalars.push_back(terms.trust);
  if (average_slot_ >= 0) {
    const double kept =
        iterations_before(t) == 0 ? 0 : config_.value("ema_momentum", kAverageMomentum);
    scalars.insert(scalars.end(), {kept, 1 - kept});
  }
  return with_scalars(std::move(expression), scalars);
}

bool Optimizer::decays(const std::string& parameter) const {
  return std::none_of(undecayed_.begin(), undecayed_.end(), [&](const std::string& part) {
    return parameter.find(part) != std::string::npos;
  });
}

ExpressionUpdate Optimizer::gradient_norm_at(int64_t t) const { return at(t, {}, gradient_norm_); }

// Keras' clip_by_norm and clip_by_global_norm.
std::vector<double> Optimizer::gradient_scales(std::span<const double> squares) const {
  std::vector<double> scales;
  const double all = std::accumulate(squares.begin(), squares.end(), 0.0);
  for (const double square : squares) {
    const double norm = std::sqrt(clip_all_ ? all : square);
    // What is not finite becomes NaN, as in Keras.
    scales.push_back((norm > clip_norm_ ? clip_norm_ / norm : 1) + (norm - norm));
  }
  return scales;
}

ExpressionUpdate Optimizer::trust_norms_at(int64_t t, const StepTerms& terms) const {
  return at(t, terms, trust_norms_[terms.decays ? kDecays : 0]);
}

bool Optimizer::steps_whole(const std::string& path, const std::vector<int64_t>& shape) const {
  return rule_ != nullptr && rule_->takes(path, shape);
}

Status Optimizer::take_whole_step(FlatMath& math, int64_t t, const StepTerms& terms,
                                  const ParameterMemory& parameter) const {
  LOCKSTEP_CHECK(terms.whole);
  if (holds(t)) return {};
  std::vector<const float*> operands = {parameter.gradient, parameter.weights};
  operands.insert(operands.end(), parameter.slots.begin(), parameter.slots.end());
  int64_t count = 1;
  for (const int64_t axis : parameter.shape) count *= axis;
  LOCKSTEP_RETURN_IF_ERROR(math.evaluate(at(t, terms, prepared_[terms.decays ? kDecays : 0]),
                                         operands,
                                         std::array{parameter.gradient, parameter.weights}, count));
  return rule_->step(math, {learning_rate_at(t, terms), iterations_before(t) + 1, parameter.shape,
                            parameter.gradient, parameter.weights,
                            std::span(parameter.slots).subspan(first_row_slot_)});
}

int64_t Optimizer::scratch_size(const std::string& path, const std::vector<int64_t>& shape) const {
  return steps_whole(path, shape) ? rule_->scratch_size(shape) : 0;
}

std::optional<std::vector<int64_t>> Optimizer::stored_shape(
    size_t slot, const std::string& path, const std::vector<int64_t>& shape) const {
  const auto first = static_cast<size_t>(first_row_slot_);
  if (rule_ == nullptr || slot < first) return shape;
  return rule_->stored_shape(slot - first, path, shape);
}

ExpressionUpdate with_scalars(SharedExpression expression, std::span<const double> scalars) {
  ExpressionUpdate update{std::move(expression), {}, static_cast<int>(scalars.size())};
  LOCKSTEP_CHECK(scalars.size() <= update.scalars.size());
  std::transform(scalars.begin(), scalars.end(), update.scalars.begin(),
                 [](double scalar) { return static_cast<float>(scalar); });
  return update;
}

double Optimizer::trust_of(std::span<const double> squares) const {
  return row_->trust->trust(config_, std::sqrt(squares[0]), std::sqrt(squares[1]));
}

}  // namespace lockstep
