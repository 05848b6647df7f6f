#include "cuda/expression_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <utility>

#include "host/core/check.h"

namespace lockstep {
namespace {

constexpr int kNone = -1;

// Orders the instructions so that few registers are needed, and gives these out.
class RegisterPlanner {
 public:
  explicit RegisterPlanner(const Expression& expression)
      : expression_(expression), needs_(expression.code.size()), last_use_(needs_.size(), kNone) {
    find_needs();
    std::vector<bool> placed(needs_.size());
    for (const int output : expression_.outputs) place(output, &placed);
    for (size_t i = 0; i < order_.size(); ++i) {
      for (const int argument : arguments(order_[i])) {
        last_use_[static_cast<size_t>(argument)] = static_cast<int>(i);
      }
    }
    const int end = static_cast<int>(order_.size());
    for (const int output : expression_.outputs) last_use_[static_cast<size_t>(output)] = end;
  }

  // Register numbers may be too large for a plan: the caller looks at `registers`.
  ExpressionPlan plan() {
    ExpressionPlan plan;
    std::vector<int> registers(needs_.size(), kNone);
    for (size_t i = 0; i < order_.size(); ++i) {
      const int at = order_[i];
      const Instruction& from = expression_.code[static_cast<size_t>(at)];
      std::array<int, 3> sources = {0, 0, 0};
      const std::vector<int> used = arguments(at);
      for (size_t k = 0; k < used.size(); ++k) {
        sources[k] = registers[static_cast<size_t>(used[k])];
      }
      release(used, static_cast<int>(i), &registers);
      const int target = take_register();
      registers[static_cast<size_t>(at)] = target;
      RegisterInstruction to{.operation = from.operation,
                             .target = static_cast<uint8_t>(target),
                             .a = static_cast<uint8_t>(sources[0]),
                             .b = static_cast<uint8_t>(sources[1]),
                             .word = static_cast<uint32_t>(sources[2])};
      if (used.empty()) to.word = static_cast<uint32_t>(from.a);
      if (from.operation == Operation::constant) to.word = std::bit_cast<uint32_t>(from.value);
      plan.code.push_back(to);
    }
    for (const int output : expression_.outputs) {
      plan.outputs.push_back(static_cast<uint8_t>(registers[static_cast<size_t>(output)]));
    }
    plan.registers = static_cast<int>(taken_.size());
    return plan;
  }

 private:
  std::vector<int> arguments(int at) const {
    const Instruction& i = expression_.code[static_cast<size_t>(at)];
    const std::array<int, 3> all = {i.a, i.b, i.c};
    return {all.begin(), all.begin() + argument_count(i.operation)};
  }
  // Arguments, those that need most registers first (Sethi and Ullman 1970).
  std::vector<int> by_need(int at) const {
    std::vector<int> sorted = arguments(at);
    std::stable_sort(sorted.begin(), sorted.end(), [&](int a, int b) {
      return needs_[static_cast<size_t>(a)] > needs_[static_cast<size_t>(b)];
    });
    return sorted;
  }
  void find_needs() {
    for (size_t i = 0; i < needs_.size(); ++i) {
      needs_[i] = 1;
      int held = 0;
      for (const int argument : by_need(static_cast<int>(i))) {
        LOCKSTEP_CHECK(argument >= 0 && argument < static_cast<int>(i));
        needs_[i] = std::max(needs_[i], needs_[static_cast<size_t>(argument)] + held++);
      }
    }
  }
  void place(int at, std::vector<bool>* placed) {
    if ((*placed)[static_cast<size_t>(at)]) return;
    (*placed)[static_cast<size_t>(at)] = true;
    for (const int argument : by_need(at)) place(argument, placed);
    order_.push_back(at);
  }

  int take_register() {
    const auto free = std::find(taken_.begin(), taken_.end(), false);
    const int found = static_cast<int>(free - taken_.begin());
    if (free == taken_.end()) taken_.push_back(false);
    taken_[static_cast<size_t>(found)] = true;
    return found;
  }
  void release(const std::vector<int>& used, int position, std::vector<int>* registers) {
    for (const int argument : used) {
      const int held = (*registers)[static_cast<size_t>(argument)];
      if (last_use_[static_cast<size_t>(argument)] == position) {
        taken_[static_cast<size_t>(held)] = false;
      }
    }
  }

  const Expression& expression_;
  std::vector<int> needs_;  // registers, to compute an instruction and what it needs
  std::vector<int> order_;
  std::vector<int> last_use_;  // a position in order_
  std::vector<bool> taken_;
};

struct Pattern {
  CompiledFunction function;
  Expression expression;
};

Pattern pattern(CompiledFunction function, Term (*write)(ExpressionBuilder& e)) {
  ExpressionBuilder builder;
  const Term result = write(builder);
  return {function, builder.finish({result})};
}

constexpr double kAnyConstant = 7;

std::vector<Pattern> patterns() {
  using E = ExpressionBuilder;
  using F = CompiledFunction;
  return {
      pattern(F::copy, [](E& e) { return e.operand(0); }),
      pattern(F::add, [](E& e) { return e.operand(0) + e.operand(1); }),
      pattern(F::subtract, [](E& e) { return e.operand(0) - e.operand(1); }),
      pattern(F::multiply, [](E& e) { return e.operand(0) * e.operand(1); }),
      pattern(F::multiply_add, [](E& e) { return e.operand(0) * e.operand(1) + e.operand(2); }),
      pattern(F::scale, [](E& e) { return e.operand(0) * kAnyConstant; }),
      pattern(F::scale, [](E& e) { return kAnyConstant * e.operand(0); }),
      pattern(F::maximum, [](E& e) { return e.maximum(e.operand(0), e.constant(kAnyConstant)); }),
      pattern(
          F::add_maximum,
          [](E& e) { return e.maximum(e.operand(0) + e.operand(1), e.constant(kAnyConstant)); }),
      pattern(
          F::maximum_add,
          [](E& e) { return e.maximum(e.constant(kAnyConstant), e.operand(0) + e.operand(1)); }),
      pattern(F::gate,
              [](E& e) {
                const Term c = e.constant(kAnyConstant);
                return e.select(e.greater(e.operand(0), c), e.operand(1), c);
              }),
      pattern(F::gate_add,
              [](E& e) {
                const Term c = e.constant(kAnyConstant);
                return e.select(e.greater(e.operand(0), c), e.operand(1) + e.operand(2), c);
              }),
      pattern(F::sigmoid, [](E& e) { return e.sigmoid(e.operand(0)); }),
      pattern(F::tanh, [](E& e) { return e.tanh(e.operand(0)); }),
      pattern(F::self_gated, [](E& e) { return e.operand(0) * e.sigmoid(e.operand(0)); }),
  };
}

// Whether the plan is the pattern's, but for constants and the numbers of operands: then these.
bool matches(const ExpressionPlan& pattern, ExpressionPlan* plan) {
  if (plan->code.size() != pattern.code.size() || plan->outputs != pattern.outputs) return false;
  plan->compiled_operands.assign(pattern.code.size(), kNone);
  int operands = 0;
  for (size_t i = 0; i < plan->code.size(); ++i) {
    RegisterInstruction found = plan->code[i];
    const RegisterInstruction& wanted = pattern.code[i];
    if (found.operation == Operation::operand && wanted.operation == Operation::operand) {
      plan->compiled_operands[wanted.word] = static_cast<int>(found.word);
      operands = std::max(operands, static_cast<int>(wanted.word) + 1);
      found.word = wanted.word;
    }
    if (found.operation == Operation::constant) {
      plan->constant = std::bit_cast<float>(found.word);
      found.word = wanted.word;
    }
    if (found != wanted) return false;
  }
  plan->compiled_operands.resize(static_cast<size_t>(operands));
  return true;
}

CompiledFunction find_compiled(ExpressionPlan* plan) {
  for (const Pattern& candidate : patterns()) {
    if (candidate.expression.code.size() != plan->code.size()) continue;
    if (matches(RegisterPlanner(candidate.expression).plan(), plan)) return candidate.function;
  }
  plan->compiled_operands.clear();
  return CompiledFunction::none;
}

void count_leaves(ExpressionPlan* plan) {
  for (const RegisterInstruction& i : plan->code) {
    const int count = static_cast<int>(i.word) + 1;
    if (i.operation == Operation::operand) plan->operands = std::max(plan->operands, count);
    if (i.operation == Operation::scalar) plan->scalars = std::max(plan->scalars, count);
    plan->random =
        plan->random || i.operation == Operation::uniform || i.operation == Operation::normal;
  }
}

Status check_limit(const char* what, int count, int limit) {
  if (count <= limit) return {};
  return Error{fmt::format("its expression has {} {}; a GPU takes at most {}", count, what, limit)};
}

}  // namespace

Result<ExpressionPlan> plan_expression(const Expression& expression) {
  LOCKSTEP_RETURN_IF_ERROR(
      check_limit("instructions", static_cast<int>(expression.code.size()), kMaxInstructions));
  LOCKSTEP_RETURN_IF_ERROR(
      check_limit("outputs", static_cast<int>(expression.outputs.size()), kMaxMapOutputs));
  ExpressionPlan plan = RegisterPlanner(expression).plan();
  LOCKSTEP_RETURN_IF_ERROR(check_limit("intermediate results", plan.registers, kMaxRegisters));
  count_leaves(&plan);
  LOCKSTEP_RETURN_IF_ERROR(check_limit("operands", plan.operands, kMaxMapOperands));
  LOCKSTEP_RETURN_IF_ERROR(check_limit("scalars", plan.scalars, kMaxMapScalars));
  plan.compiled = find_compiled(&plan);
  return plan;
}

}  // namespace lockstep
