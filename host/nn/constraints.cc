#include "host/nn/constraints.h"

#include <fmt/format.h>

#include <algorithm>
#include <vector>

#include "host/nn/class_config.h"

namespace lockstep {
namespace {

std::vector<ClassType> constraint_types() {
  const ConfigKey axis{"axis", KeyKind::axis, 0};
  return {{"MaxNorm", "max_norm", {{"max_value", KeyKind::number, 2.0}, axis}},
          {"MinMaxNorm",
           "min_max_norm",
           {{"min_value", KeyKind::number, 0.0},
            {"max_value", KeyKind::number, 1.0},
            {"rate", KeyKind::number, 1.0},
            axis}},
          {"NonNeg", "non_neg", {}},
          {"UnitNorm", "unit_norm", {axis}}};
}

// The factor of weights whose squares sum up to operand 0.
Expression factor_of(const std::string& class_name, const nlohmann::json& config) {
  ExpressionBuilder e;
  const Term norm = e.square_root(e.operand(0));
  Term desired = e.constant(1);
  if (class_name == "MaxNorm") desired = e.clip(norm, 0, config.at("max_value"));
  if (class_name == "MinMaxNorm") {
    const double rate = config.at("rate");
    desired = e.clip(norm, config.at("min_value"), config.at("max_value")) * rate;
    if (rate != 1) desired = desired + norm * (1 - rate);
  }
  return e.finish({desired / (norm + kEpsilon)});
}

}  // namespace

Result<nlohmann::json> resolve_constraint(const nlohmann::json& constraint) {
  return resolve_class("constraint", constraint_types(), constraint);
}

Result<WeightConstraint> weight_constraint(const Parameter& parameter) {
  const std::string class_name = parameter.constraint.at("class_name");
  const nlohmann::json& config = parameter.constraint.at("config");
  WeightConstraint result;
  if (class_name == "NonNeg") {
    ExpressionBuilder e;
    result.expression = e.finish({e.maximum(e.operand(0), e.constant(0))});
    return result;
  }
  result.by_norm = true;
  result.expression = factor_of(class_name, config);
  const auto axes = static_cast<int64_t>(parameter.shape.size());
  const nlohmann::json& given = config.at("axis");
  std::vector<int64_t> axis = given.is_array() ? given.get<std::vector<int64_t>>()
                                               : std::vector<int64_t>{given.get<int64_t>()};
  for (int64_t& one : axis) one = one < 0 ? one + axes : one;
  std::sort(axis.begin(), axis.end());
  bool fits = !axis.empty();
  for (size_t i = 0; i < axis.size(); ++i) {
    fits = fits && 0 <= axis[i] && axis[i] < axes && axis[i] == axis[0] + static_cast<int64_t>(i);
  }
  if (!fits) {
    return usage_error(fmt::format(
        "layer '{}': the axis {} of {} is none of a {} of shape {}, nor several side by side",
        parameter.layer, given.dump(), class_name, parameter.name, to_string(parameter.shape)));
  }
  for (int64_t i = 0; i < axes; ++i) {
    int64_t& part = i < axis.front() ? result.outer : i <= axis.back() ? result.size : result.inner;
    part *= parameter.shape[static_cast<size_t>(i)];
  }
  return result;
}

}  // namespace lockstep
