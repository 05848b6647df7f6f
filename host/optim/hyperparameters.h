// The keys of an optimizer's or a schedule's configuration: their defaults and their checks.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "host/core/result.h"

namespace lockstep {

enum class HyperparameterKind {
  number,
  positive,
  not_negative,
  not_positive,
  below_one,    // at least 0 and below 1
  within_one,   // above 0 and below 1
  up_to_one,    // between 0 and 1
  one_or_more,  // at least 1
  boolean,
  positive_or_none,      // null: none
  not_negative_or_none,  // null: none
  count_or_none,         // a whole number of at least `least`; null: none
  numbers,               // a list
  names                  // a list
};

struct Hyperparameter {
  std::string name;
  HyperparameterKind kind = HyperparameterKind::positive;
  nlohmann::json default_value;  // null with `required`: there is none
  bool required = false;
  // Left out of the configuration at its default: keys that came after the first jobs were written,
  // whose recipes stay as they are.
  bool silent = false;
  int64_t least = 1;  // of a count
};

// `what`: "optimizer 'adam'", for messages. `value` as it stands in a recipe: numbers are doubles,
// so that 1 and 1.0 are the same.
Result<nlohmann::json> checked_value(const std::string& what, const Hyperparameter& key,
                                     const nlohmann::json& value);

// The configuration with every default filled in; an unknown key is an error that names the nearest
// known one.
Result<nlohmann::json> checked_config(const std::string& what,
                                      const std::vector<Hyperparameter>& keys,
                                      const nlohmann::json& config);

// Null stands for "none" and reads as 0.
double number_of(const nlohmann::json& config, const std::string& key);

std::string lower_case(std::string text);

}  // namespace lockstep
