#include "host/optim/optimizer.h"

#include <fmt/format.h>

#include <cmath>

#include "host/core/check.h"
#include "host/core/suggest.h"

namespace lockstep {
namespace {

using Json = nlohmann::json;

std::vector<std::string> optimizer_names() { return {"adam", "sgd"}; }

// Keras' defaults (https://keras.io/api/optimizers); null for an unknown name.
Json default_config(const std::string& name) {
  Json config;
  if (name == "adam") {
    config["name"] = name;
    config["learning_rate"] = 0.001;
    config["beta_1"] = 0.9;
    config["beta_2"] = 0.999;
    config["epsilon"] = 1e-7;
  }
  if (name == "sgd") {
    config["name"] = name;
    config["learning_rate"] = 0.01;
    config["momentum"] = 0.0;
    config["nesterov"] = false;
  }
  return config;
}

// What values a key may have; `holds` gets a finite number.
struct NumberRule {
  const char* text;
  bool (*holds)(double value);
};

NumberRule rule_of(const std::string& key) {
  if (key == "beta_1" || key == "beta_2") {
    return {"at least 0 and below 1", [](double value) { return value >= 0 && value < 1; }};
  }
  if (key == "momentum") {
    return {"between 0 and 1", [](double value) { return value >= 0 && value <= 1; }};
  }
  return {"a positive number", [](double value) { return value > 0; }};
}

Status check_value(const std::string& optimizer, const std::string& key, const Json& value,
                   const Json& default_value) {
  if (default_value.is_boolean()) {
    if (value.is_boolean()) return {};
    return usage_error(fmt::format("optimizer '{}': {} must be true or false, not {}", optimizer,
                                   key, value.dump()));
  }
  const NumberRule rule = rule_of(key);
  if (value.is_number() && std::isfinite(value.get<double>()) && rule.holds(value.get<double>())) {
    return {};
  }
  return usage_error(fmt::format("optimizer '{}': {} must be {}, not {}", optimizer, key, rule.text,
                                 value.dump()));
}

Result<std::string> name_of(const Json& config) {
  if (!config.is_object() || !config.contains("name") || !config["name"].is_string()) {
    return usage_error(
        fmt::format("an optimizer is written {{\"name\": \"adam\", \"learning_rate\": 0.001}}, "
                    "not {}",
                    config.dump()));
  }
  return config["name"].get<std::string>();
}

// By repeated squaring: libm's pow differs between machines.
double power(double base, int64_t exponent) {
  double result = 1;
  for (; exponent > 0; exponent >>= 1) {
    if (exponent & 1) result *= base;
    base *= base;
  }
  return result;
}

}  // namespace

Result<Optimizer> Optimizer::create(const Json& config) {
  LOCKSTEP_ASSIGN(const std::string name, name_of(config));
  Optimizer optimizer;
  optimizer.config_ = default_config(name);
  if (optimizer.config_.is_null()) {
    return usage_error(unknown_name_message("optimizer", name, optimizer_names()));
  }
  std::vector<std::string> keys;
  for (const auto& [key, unused] : optimizer.config_.items()) keys.push_back(key);
  for (const auto& [key, value] : config.items()) {
    if (!optimizer.config_.contains(key)) {
      return usage_error(
          fmt::format("optimizer '{}': {}", name, unknown_name_message("key", key, keys)));
    }
    if (key == "name") continue;
    Json& field = optimizer.config_[key];
    LOCKSTEP_RETURN_IF_ERROR(check_value(name, key, value, field));
    // As a double, so that 1 and 1.0 are the same recipe.
    field = value.is_number() ? Json(value.get<double>()) : value;
  }
  if (name == "adam") optimizer.slots_ = {"m", "v"};
  if (name == "sgd" && optimizer.config_["momentum"] != 0.0) optimizer.slots_ = {"m"};
  return optimizer;
}

UpdateDesc Optimizer::update_at(int64_t t) const {
  LOCKSTEP_CHECK(t >= 1);
  const double learning_rate = config_["learning_rate"];
  if (config_["name"] == "sgd") {
    const bool has_momentum = !slots_.empty();
    return SgdUpdate{.learning_rate = static_cast<float>(learning_rate),
                     .momentum = config_["momentum"].get<float>(),
                     .nesterov = has_momentum && config_["nesterov"].get<bool>()};
  }
  const double beta_1 = config_["beta_1"];
  const double beta_2 = config_["beta_2"];
  const double alpha = learning_rate * std::sqrt(1.0 - power(beta_2, t)) / (1.0 - power(beta_1, t));
  return AdamUpdate{.one_minus_beta_1 = static_cast<float>(1.0 - beta_1),
                    .one_minus_beta_2 = static_cast<float>(1.0 - beta_2),
                    .alpha = static_cast<float>(alpha),
                    .epsilon = config_["epsilon"].get<float>()};
}

}  // namespace lockstep
