// What tests/golden/make_losses.py writes, and the tensors that it makes up.
#pragma once

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/nn/training_step.h"
#include "tests/support/golden_json.h"

namespace lockstep {

inline const nlohmann::json& loss_golden_file() { return golden_json("losses"); }

// `made` of the script: rows of `features` values, `last` of them on the last axis.
inline std::vector<float> made_up_targets(const std::string& kind, uint64_t tensor, int64_t count,
                                          int64_t last) {
  std::vector<double> x;
  for (int64_t i = 0; i < count; ++i) {
    x.push_back(made_up_uniform(tensor, static_cast<uint64_t>(i)));
  }
  std::vector<float> values;
  for (int64_t i = 0; i < count; ++i) {
    const double value = x[static_cast<size_t>(i)];
    double result = value;
    if (kind == "centred") result = 4 * value - 2;
    if (kind == "binary") result = std::floor(2 * value);
    if (kind == "signs") result = 2 * std::floor(2 * value) - 1;
    if (kind == "one_hot") {
      const auto begin = x.begin() + i / last * last;
      result = value == *std::max_element(begin, begin + last) ? 1 : 0;
    }
    if (kind.starts_with("classes:")) result = std::floor(std::stod(kind.substr(8)) * value);
    values.push_back(static_cast<float>(result));
  }
  return values;
}

}  // namespace lockstep
