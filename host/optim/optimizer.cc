#include "host/optim/optimizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "host/core/check.h"
#include "host/core/suggest.h"
#include "host/optim/hyperparameters.h"
#include "host/optim/optimizer_table.h"

namespace lockstep {
namespace {

using Json = nlohmann::json;

// Keras' optimizers, and options of all of them, that need norms or more state.
const char* const kLaterNames[] = {"lamb", "adafactor",         "muon", "schedulefreeadamw",
                                   "lars", "lossscaleoptimizer"};
const char* const kLaterKeys[] = {"clipnorm",          "global_clipnorm",
                                  "use_ema",           "ema_overwrite_frequency",
                                  "loss_scale_factor", "gradient_accumulation_steps"};

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

// Takes out what is switched off and refuses what is on.
Status take_later_keys(const std::string& what, Json* config) {
  for (const char* key : kLaterKeys) {
    const Json value = config->value(key, Json());
    if (!value.is_null() && value != false) {
      return usage_error(fmt::format("{}: {} comes later; leave it out", what, key));
    }
    config->erase(key);
  }
  config->erase("ema_momentum");  // means nothing without use_ema
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

// The row's formula between the clipping of the gradient and the decay of the weight, as in Keras.
Expression expression_of(const OptimizerRow& row, const Json& config, size_t slots) {
  ExpressionBuilder e;
  FormulaTerms terms{e, config, e.operand(0), e.operand(1), e.scalar(0), {}};
  for (size_t i = 0; i < slots; ++i) terms.slots.push_back(e.operand(2 + static_cast<int>(i)));
  if (const double limit = number_of(config, "clipvalue"); limit > 0) {
    // In this order NaN stays NaN.
    terms.gradient = e.minimum(e.constant(limit), terms.gradient);
    terms.gradient = e.maximum(e.constant(-limit), terms.gradient);
  }
  if (const double decay = number_of(config, "weight_decay"); decay > 0) {
    terms.weight = terms.weight - terms.weight * decay * terms.learning_rate;
  }
  const std::vector<Term> outputs = row.formula(terms);
  LOCKSTEP_CHECK(outputs.size() == slots + 1);
  return e.finish(outputs);
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
  keys.push_back({"clipvalue", HyperparameterKind::positive_or_none, nullptr, false, true});
  Json rate = flat.value("learning_rate", keys[0].default_value);
  LOCKSTEP_CHECK(keys[0].name == "learning_rate");
  LOCKSTEP_ASSIGN(optimizer.learning_rate_, LearningRate::create(what, rate));
  flat.erase("name");
  flat.erase("learning_rate");
  LOCKSTEP_ASSIGN(optimizer.config_, checked_config(what, keys, flat));
  optimizer.config_["name"] = name;
  optimizer.config_["learning_rate"] = optimizer.learning_rate_.config();
  optimizer.slots_ = optimizer.row_->slots(optimizer.config_);
  LOCKSTEP_CHECK(optimizer.slots_.size() <= kMaxSlots);
  const bool plain = !optimizer.config_.contains("amsgrad") &&
                     !optimizer.config_.contains("weight_decay") &&
                     !optimizer.config_.contains("clipvalue");
  if (optimizer.row_->fused == nullptr || !plain) {
    optimizer.expression_ = std::make_shared<const Expression>(
        expression_of(*optimizer.row_, optimizer.config_, optimizer.slots_.size()));
  }
  return optimizer;
}

UpdateDesc Optimizer::update_at(int64_t t, std::optional<double> set_rate) const {
  LOCKSTEP_CHECK(t >= 1);
  const double learning_rate = set_rate ? *set_rate : learning_rate_.at(t - 1);
  if (expression_ == nullptr) return row_->fused(config_, learning_rate, t);
  ExpressionUpdate update{expression_, {static_cast<float>(learning_rate)}, 1};
  if (row_->scalars == nullptr) return update;
  for (const double scalar : row_->scalars(config_, learning_rate, t)) {
    update.scalars.at(static_cast<size_t>(update.scalar_count++)) = static_cast<float>(scalar);
  }
  return update;
}

}  // namespace lockstep
