#include "host/optim/hyperparameters.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "host/core/suggest.h"

namespace lockstep {
namespace {

using Json = nlohmann::json;

struct NumberRule {
  const char* text;
  bool (*holds)(double value);
};

NumberRule rule_of(HyperparameterKind kind) {
  switch (kind) {
    case HyperparameterKind::number:
      return {"a number", [](double) { return true; }};
    case HyperparameterKind::not_negative:
      return {"at least 0", [](double value) { return value >= 0; }};
    case HyperparameterKind::not_positive:
      return {"at most 0", [](double value) { return value <= 0; }};
    case HyperparameterKind::below_one:
      return {"at least 0 and below 1", [](double value) { return value >= 0 && value < 1; }};
    case HyperparameterKind::up_to_one:
      return {"between 0 and 1", [](double value) { return value >= 0 && value <= 1; }};
    case HyperparameterKind::within_one:
      return {"above 0 and below 1", [](double value) { return value > 0 && value < 1; }};
    case HyperparameterKind::one_or_more:
      return {"at least 1", [](double value) { return value >= 1; }};
    case HyperparameterKind::positive_or_none:
      return {"a positive number or null", [](double value) { return value > 0; }};
    case HyperparameterKind::not_negative_or_none:
      return {"at least 0 or null", [](double value) { return value >= 0; }};
    default:
      return {"a positive number", [](double value) { return value > 0; }};
  }
}

bool is_finite_number(const Json& value) {
  return value.is_number() && std::isfinite(value.get<double>());
}

Error wrong_value(const std::string& what, const Hyperparameter& key, const char* rule,
                  const Json& value) {
  return usage_error(fmt::format("{}: {} must be {}, not {}", what, key.name, rule, value.dump()));
}

}  // namespace

Result<Json> checked_value(const std::string& what, const Hyperparameter& key, const Json& value) {
  if (key.kind == HyperparameterKind::boolean) {
    if (value.is_boolean()) return value;
    return wrong_value(what, key, "true or false", value);
  }
  if (key.kind == HyperparameterKind::numbers) {
    if (!value.is_array() || value.empty() ||
        !std::all_of(value.begin(), value.end(), is_finite_number)) {
      return wrong_value(what, key, "a list of numbers", value);
    }
    return Json(value.get<std::vector<double>>());
  }
  if (key.kind == HyperparameterKind::names) {
    if (value.is_array() && std::all_of(value.begin(), value.end(),
                                        [](const Json& each) { return each.is_string(); })) {
      return value;
    }
    return wrong_value(what, key, "a list of names", value);
  }
  if (key.kind == HyperparameterKind::count_or_none) {
    if (value.is_null() || (value.is_number_integer() && value.get<int64_t>() >= key.least)) {
      return value;
    }
    const std::string rule = fmt::format("a whole number of at least {}, or null", key.least);
    return wrong_value(what, key, rule.c_str(), value);
  }
  const bool may_be_none = key.kind == HyperparameterKind::positive_or_none ||
                           key.kind == HyperparameterKind::not_negative_or_none;
  if (may_be_none && value.is_null()) return value;
  const NumberRule rule = rule_of(key.kind);
  if (is_finite_number(value) && rule.holds(value.get<double>())) return Json(value.get<double>());
  return wrong_value(what, key, rule.text, value);
}

Result<Json> checked_config(const std::string& what, const std::vector<Hyperparameter>& keys,
                            const Json& config) {
  std::vector<std::string> names;
  for (const Hyperparameter& key : keys) names.push_back(key.name);
  std::sort(names.begin(), names.end());
  for (const auto& [name, unused] : config.items()) {
    if (std::binary_search(names.begin(), names.end(), name)) continue;
    return usage_error(fmt::format("{}: {}", what, unknown_name_message("key", name, names)));
  }
  Json checked = Json::object();
  for (const Hyperparameter& key : keys) {
    const auto found = config.find(key.name);
    if (found == config.end()) {
      if (key.required) return usage_error(fmt::format("{}: {} is missing", what, key.name));
      if (!key.silent) checked[key.name] = key.default_value;
      continue;
    }
    LOCKSTEP_ASSIGN(const Json value, checked_value(what, key, *found));
    if (!key.silent || value != key.default_value) checked[key.name] = value;
  }
  return checked;
}

double number_of(const Json& config, const std::string& key) {
  const auto found = config.find(key);
  return found == config.end() || found->is_null() ? 0 : found->get<double>();
}

std::string lower_case(std::string text) {
  for (char& letter : text) {
    if (letter >= 'A' && letter <= 'Z') letter = static_cast<char>(letter - 'A' + 'a');
  }
  return text;
}

}  // namespace lockstep
