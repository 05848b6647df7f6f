#include "host/runtime/weight_constraints.h"

#include <algorithm>
#include <memory>
#include <utility>

#include "host/core/check.h"

namespace lockstep {
namespace {

template <class Formula>
SharedExpression expression_of(const Formula& formula) {
  ExpressionBuilder e;
  return std::make_shared<const Expression>(e.finish({formula(e.operand(0), e.operand(1))}));
}

}  // namespace

WeightConstraints::WeightConstraints(const Graph& graph)
    : square_(expression_of([](Term from, Term) { return from * from; })),
      add_(add_expression()),
      copy_(expression_of([](Term from, Term) { return from; })),
      multiply_(expression_of([](Term from, Term to) { return to * from; })) {
  for (const Parameter& parameter : graph.parameters) {
    // Nothing else changes the others.
    if (parameter.constraint.is_null() || parameter.role != ParameterRole::trained ||
        parameter.gradient_offset < 0) {
      continue;
    }
    auto constraint = weight_constraint(parameter);
    LOCKSTEP_CHECK(constraint.ok());
    auto expression = std::make_shared<const Expression>(constraint->expression);
    scratch_size_ = std::max(scratch_size_, constraint->size * constraint->inner);
    items_.push_back(
        {parameter.offset, parameter.count(), *std::move(constraint), std::move(expression)});
  }
}

Status WeightConstraints::apply_to(Device& device, int number, float* weights,
                                   float* scratch) const {
  const Item& item = items_[static_cast<size_t>(number)];
  float* mine = weights + item.offset;
  if (!item.constraint.by_norm) return apply(device, item.expression, {}, mine, mine, item.count);
  const int64_t part = item.constraint.size * item.constraint.inner;
  for (int64_t outer = 0; outer < item.constraint.outer; ++outer) {
    LOCKSTEP_RETURN_IF_ERROR(scale_by_norm(device, item, mine + outer * part, scratch));
  }
  return {};
}

// The rows' squares are summed into the first row, made a factor there and copied to the others.
Status WeightConstraints::scale_by_norm(Device& device, const Item& item, float* weights,
                                        float* scratch) const {
  const int64_t rows = item.constraint.size, size = item.constraint.inner;
  LOCKSTEP_RETURN_IF_ERROR(apply(device, square_, {}, weights, scratch, rows * size));
  LOCKSTEP_RETURN_IF_ERROR(fold_rows(device, scratch, rows, size, add_));
  LOCKSTEP_RETURN_IF_ERROR(apply(device, item.expression, {}, scratch, scratch, size));
  for (int64_t filled = 1; filled < rows; filled *= 2) {
    const int64_t more = std::min(filled, rows - filled);
    LOCKSTEP_RETURN_IF_ERROR(
        apply(device, copy_, {}, scratch, scratch + filled * size, more * size));
  }
  return apply(device, multiply_, {}, scratch, weights, rows * size);
}

}  // namespace lockstep
