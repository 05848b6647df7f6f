#include "host/cpu/expression_plan.h"

#include <algorithm>
#include <limits>

#include "host/core/check.h"

namespace lockstep::cpu {
namespace {

bool is_fusible(Operation operation) {
  return operation == Operation::add || operation == Operation::subtract ||
         operation == Operation::multiply || operation == Operation::maximum ||
         operation == Operation::minimum;
}

bool is_comparison(Operation operation) {
  return operation == Operation::greater || operation == Operation::greater_equal ||
         operation == Operation::equal;
}

bool is_leaf(const Instruction& instruction) {
  return instruction.operation <= Operation::constant;
}

class Planner {
 public:
  Planner(const Expression& expression, bool in_place)
      : expression_(expression),
        in_place_(in_place),
        places_(expression.code.size(), -1),
        last_use_(expression.code.size(), -1),
        absorbs_(expression.code.size(), -1),
        absorbed_(expression.code.size()) {}

  ExpressionPlan plan() {
    number_leaves();
    fuse();
    find_uses();
    // Slots and outputs are numbered from kSlot and kOutput until all slots are known.
    for (int i = 0; i < size(); ++i) {
      if (!is_leaf(code(i)) && last_use_[at(i)] >= 0 && !absorbed_[at(i)]) append(i);
    }
    append_copies();
    for (ExpressionStep& step : plan_.steps) {
      const bool random =
          step.operation == Operation::uniform || step.operation == Operation::normal;
      for (int* place : {&step.result, &step.a, &step.b, &step.c, &step.d}) {
        if (random && place != &step.result) continue;
        *place = final_place(*place);
      }
    }
    return std::move(plan_);
  }

 private:
  static constexpr int kSlot = 1 << 20;
  static constexpr int kOutput = 1 << 21;

  static size_t at(int i) { return static_cast<size_t>(i); }
  int size() const { return static_cast<int>(expression_.code.size()); }
  const Instruction& code(int i) const { return expression_.code[at(i)]; }

  void number_leaves() {
    plan_.operands = expression_.operand_count();
    plan_.outputs = static_cast<int>(expression_.outputs.size());
    for (const Instruction& i : expression_.code) {
      if (i.operation == Operation::scalar) plan_.scalars = std::max(plan_.scalars, i.a + 1);
    }
    for (int i = 0; i < size(); ++i) {
      if (code(i).operation == Operation::operand) places_[at(i)] = code(i).a;
      if (code(i).operation == Operation::scalar) {
        places_[at(i)] = plan_.first_scalar() + code(i).a;
      }
      if (code(i).operation == Operation::constant) {
        plan_.constants.push_back(code(i).value);
        places_[at(i)] = plan_.first_slot() - 1;
      }
    }
  }

  std::vector<int> arguments(int i) const {
    const Instruction& instruction = code(i);
    std::vector<int> result = {instruction.a, instruction.b, instruction.c};
    result.resize(at(argument_count(instruction.operation)));
    return result;
  }

  // Lets instructions absorb one of their arguments, so that it need not pass through memory.
  void fuse() {
    std::vector<int> uses(expression_.code.size());
    for (const int output : expression_.outputs) ++uses[at(output)];
    for (int i = 0; i < size(); ++i) {
      for (const int argument : arguments(i)) ++uses[at(argument)];
    }
    for (int i = 0; i < size(); ++i) {
      const Operation then = code(i).operation;
      for (const int argument : arguments(i)) {
        const Operation first = code(argument).operation;
        const bool fits = then == Operation::select ? argument == code(i).a && is_comparison(first)
                                                    : is_fusible(then) && is_fusible(first);
        if (!fits || uses[at(argument)] != 1 || absorbs_[at(argument)] >= 0) continue;
        absorbs_[at(i)] = argument;
        absorbed_[at(argument)] = true;
        break;
      }
    }
  }

  // Calls visit(argument) for each argument of the step that instruction i becomes.
  template <class Visit>
  void for_arguments(int i, const Visit& visit) const {
    for (const int argument : arguments(i)) {
      if (argument != absorbs_[at(i)]) visit(argument);
    }
    if (absorbs_[at(i)] < 0) return;
    for (const int argument : arguments(absorbs_[at(i)])) visit(argument);
  }

  void find_uses() {
    constexpr int kEnd = std::numeric_limits<int>::max();
    for (const int output : expression_.outputs) {
      last_use_[at(output)] = kEnd;
      if (in_place_ && code(output).operation == Operation::operand) last_operand_read_ = kEnd;
    }
    for (int i = size() - 1; i >= 0; --i) {
      if (is_leaf(code(i)) || last_use_[at(i)] < 0 || absorbed_[at(i)]) continue;
      for_arguments(i, [&](int argument) {
        last_use_[at(argument)] = std::max(last_use_[at(argument)], i);
        const bool operand = code(argument).operation == Operation::operand;
        if (in_place_ && operand) last_operand_read_ = std::max(last_operand_read_, i);
      });
    }
  }

  int take_slot() {
    if (!free_.empty()) {
      const int slot = free_.back();
      free_.pop_back();
      return slot;
    }
    return kSlot + plan_.slots++;
  }

  ExpressionStep step_of(int i) const {
    const auto place = [&](int argument) { return places_[at(argument)]; };
    const int first = absorbs_[at(i)];
    const Instruction& last = code(i);
    ExpressionStep step{.operation = last.operation, .a = last.a};
    const int count = argument_count(last.operation);
    if (first < 0) {
      if (count > 0) step.a = place(last.a);
      if (count > 1) step.b = place(last.b);
      if (count > 2) step.c = place(last.c);
      return step;
    }
    step.operation = code(first).operation;
    step.then = last.operation;
    step.a = place(code(first).a);
    step.b = place(code(first).b);
    if (last.operation == Operation::select) {
      step.c = place(last.b);
      step.d = place(last.c);
    } else {
      step.flipped = last.b == first;
      step.c = place(step.flipped ? last.a : last.b);
    }
    return step;
  }

  void append(int i) {
    ExpressionStep step = step_of(i);
    for_arguments(i, [&](int argument) {
      const int place = places_[at(argument)];
      if (last_use_[at(argument)] != i || place < kSlot || place >= kOutput) return;
      last_use_[at(argument)] = -1;  // freed once, though it may be two arguments
      free_.push_back(place);
    });
    const auto found = std::find(expression_.outputs.begin(), expression_.outputs.end(), i);
    const bool direct = found != expression_.outputs.end() && i >= last_operand_read_;
    const int output = static_cast<int>(found - expression_.outputs.begin());
    step.result = direct ? kOutput + output : take_slot();
    places_[at(i)] = step.result;
    plan_.steps.push_back(step);
  }

  // The outputs that no instruction has written.
  void append_copies() {
    std::vector<ExpressionStep> copies;
    for (int k = 0; k < plan_.outputs; ++k) {
      const int i = expression_.outputs[at(k)];
      int from = places_[at(i)];
      if (from == kOutput + k) continue;
      if (in_place_ && code(i).operation == Operation::operand) {
        const int slot = kSlot + plan_.slots++;
        plan_.steps.push_back({.result = slot, .a = from});
        from = slot;
      }
      copies.push_back({.result = kOutput + k, .a = from});
    }
    plan_.steps.insert(plan_.steps.end(), copies.begin(), copies.end());
  }

  int final_place(int place) const {
    if (place >= kOutput) return plan_.first_output() + place - kOutput;
    return place >= kSlot ? plan_.first_slot() + place - kSlot : place;
  }

  const Expression& expression_;
  const bool in_place_;
  std::vector<int> places_;    // of each instruction's result
  std::vector<int> last_use_;  // instruction, or -1: none
  std::vector<int> absorbs_;   // an argument that is part of an instruction's step, or -1
  std::vector<bool> absorbed_;
  int last_operand_read_ = -1;
  std::vector<int> free_;  // slots
  ExpressionPlan plan_;
};

}  // namespace

ExpressionPlan make_expression_plan(const Expression& expression, bool in_place) {
  return Planner(expression, in_place).plan();
}

ExpressionRunner::ExpressionRunner(int lanes, const Expression& expression, bool in_place)
    : lanes_(lanes),
      plan_(make_expression_plan(expression, in_place)),
      memory_(allocate_floats((plan_.first_slot() - plan_.first_scalar()) * lanes +
                              plan_.slots * kSlotFloats)),
      places_(static_cast<size_t>(plan_.places())) {
  float* memory = memory_.get();
  for (int i = plan_.first_scalar(); i < plan_.first_slot(); ++i, memory += lanes) {
    places_[static_cast<size_t>(i)] = {memory, 0};
  }
  for (size_t i = 0; i < plan_.constants.size(); ++i) {
    const size_t place = static_cast<size_t>(plan_.first_constant()) + i;
    std::fill_n(places_[place].data, lanes, plan_.constants[i]);
  }
  for (int i = plan_.first_slot(); i < plan_.first_output(); ++i, memory += kSlotFloats) {
    places_[static_cast<size_t>(i)] = {memory, lanes};
  }
}

StepsArgs ExpressionRunner::steps(std::span<const float> scalars) {
  LOCKSTEP_CHECK(static_cast<int>(scalars.size()) >= plan_.scalars);
  for (int i = 0; i < plan_.scalars; ++i) {
    const size_t place = static_cast<size_t>(plan_.first_scalar() + i);
    std::fill_n(places_[place].data, lanes_, scalars[static_cast<size_t>(i)]);
  }
  return {.steps = plan_.steps.data(),
          .step_count = static_cast<int>(plan_.steps.size()),
          .places = places_.data(),
          .operand_count = plan_.operands,
          .output_count = plan_.outputs,
          .first_output = plan_.first_output()};
}

FlatExpression::FlatExpression(const KernelTable& kernels, const Expression& expression)
    : kernels_(kernels),
      runner_(kernels.lanes, expression, true),
      tails_(allocate_floats((runner_.plan().operands + runner_.plan().outputs) * kernels.lanes)) {
  LOCKSTEP_CHECK(!expression.is_random());
}

void FlatExpression::evaluate(std::span<const float* const> operands,
                              std::span<const float> scalars, std::span<float* const> outputs,
                              int64_t count) {
  LOCKSTEP_CHECK(static_cast<int>(operands.size()) >= runner_.plan().operands);
  LOCKSTEP_CHECK(static_cast<int>(outputs.size()) == runner_.plan().outputs);
  kernels_.evaluate({.steps = runner_.steps(scalars),
                     .operands = operands.data(),
                     .outputs = outputs.data(),
                     .tails = tails_.get(),
                     .count = count});
}

}  // namespace lockstep::cpu
