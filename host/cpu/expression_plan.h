// Expressions made ready for the kernels: leaves become places, intermediate results share slots.
#pragma once

#include <span>
#include <vector>

#include "host/cpu/kernels.h"
#include "host/cpu/memory.h"
#include "host/device/expression.h"

namespace lockstep::cpu {

struct ExpressionPlan {
  std::vector<ExpressionStep> steps;
  int operands = 0, scalars = 0, slots = 0, outputs = 0;
  std::vector<float> constants;

  // The first place of each kind.
  int first_scalar() const { return operands; }
  int first_constant() const { return first_scalar() + scalars; }
  int first_slot() const { return first_constant() + static_cast<int>(constants.size()); }
  int first_output() const { return first_slot() + slots; }
  int places() const { return first_output() + outputs; }
};

// With `in_place`, outputs may lie where operands lie: none is written before the last operand has
// been read.
ExpressionPlan make_expression_plan(const Expression& expression, bool in_place);

// A plan with its memory. Used by one thread.
class ExpressionRunner {
 public:
  ExpressionRunner(int lanes, const Expression& expression, bool in_place);
  const ExpressionPlan& plan() const { return plan_; }
  // Valid until the next call; the places of operands and outputs are the kernel's to set.
  StepsArgs steps(std::span<const float> scalars);

 private:
  int lanes_;
  ExpressionPlan plan_;
  Memory memory_;
  std::vector<Place> places_;
};

// An expression without random numbers over flat memory: optimizer steps.
class FlatExpression {
 public:
  FlatExpression(const KernelTable& kernels, const Expression& expression);
  // outputs[k][i] = output k of the expression at operands[...][i], for i < count. An output may
  // be an operand.
  void evaluate(std::span<const float* const> operands, std::span<const float> scalars,
                std::span<float* const> outputs, int64_t count);

 private:
  const KernelTable& kernels_;
  ExpressionRunner runner_;
  Memory tails_;
};

}  // namespace lockstep::cpu
