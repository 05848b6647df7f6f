// Keras' constraints: what a weight is made to be after each update.
#pragma once

#include <nlohmann/json.hpp>

#include "host/core/result.h"
#include "host/device/expression.h"
#include "host/graph/graph.h"

namespace lockstep {

// A constraint as {"class_name", "config"} with all its keys; null stays null. An unknown name or
// key is an error.
Result<nlohmann::json> resolve_constraint(const nlohmann::json& constraint);

// How a constraint changes a parameter. One that is not `by_norm` gives each weight w[i] the value
// of the expression. One by the norm sees the parameter as (outer, size, inner): w[o, s, i] is
// multiplied by the expression of the sum of w[o, s, i]^2 over s.
struct WeightConstraint {
  Expression expression;  // of one operand
  bool by_norm = false;
  int64_t outer = 1, size = 1, inner = 1;
};

// Of a parameter's resolved constraint. An error where its axis does not fit the shape; `parameter`
// must have a constraint.
Result<WeightConstraint> weight_constraint(const Parameter& parameter);

}  // namespace lockstep
