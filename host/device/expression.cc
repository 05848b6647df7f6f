#include "host/device/expression.h"

#include <algorithm>
#include <numbers>
#include <utility>

#include "host/core/check.h"

namespace lockstep {

int argument_count(Operation operation) {
  if (operation <= Operation::normal) return 0;
  if (operation < Operation::add) return 1;
  return operation == Operation::select ? 3 : 2;
}

int Expression::operand_count() const {
  int count = 0;
  for (const Instruction& instruction : code) {
    if (instruction.operation == Operation::operand) count = std::max(count, instruction.a + 1);
  }
  return count;
}

bool Expression::is_random() const {
  return std::any_of(code.begin(), code.end(), [](const Instruction& instruction) {
    return instruction.operation == Operation::uniform ||
           instruction.operation == Operation::normal;
  });
}

Term ExpressionBuilder::leaf(Operation operation, int number) {
  return append({.operation = operation, .a = number});
}

Term ExpressionBuilder::constant(double value) {
  return append({.operation = Operation::constant, .value = static_cast<float>(value)});
}

Term ExpressionBuilder::append(const Instruction& instruction) {
  const auto found = std::find_if(code_.begin(), code_.end(), [&](const Instruction& other) {
    // -0 and 0 are equal, but not the same constant.
    return other == instruction &&
           __builtin_signbit(other.value) == __builtin_signbit(instruction.value);
  });
  if (found != code_.end()) return {this, static_cast<int>(found - code_.begin())};
  code_.push_back(instruction);
  return {this, static_cast<int>(code_.size()) - 1};
}

bool ExpressionBuilder::is_constant(Term term, float value) const {
  const Instruction& instruction = code_[static_cast<size_t>(term.index())];
  return instruction.operation == Operation::constant && instruction.value == value;
}

Term ExpressionBuilder::apply(Operation operation, Term a, Term b, Term c) {
  const int count = argument_count(operation);
  LOCKSTEP_CHECK(count > 0);
  const bool product = operation == Operation::multiply;
  if (product && is_constant(a, 1)) return b;
  if ((product || operation == Operation::divide) && is_constant(b, 1)) return a;
  Instruction instruction{.operation = operation, .a = a.index()};
  if (count > 1) instruction.b = b.index();
  if (count > 2) instruction.c = c.index();
  return append(instruction);
}

std::vector<Term> ExpressionBuilder::inlined(const Expression& expression,
                                             const std::vector<Term>& operands) {
  std::vector<Term> terms;
  for (const Instruction& instruction : expression.code) {
    const int count = argument_count(instruction.operation);
    if (instruction.operation == Operation::operand) {
      terms.push_back(operands[static_cast<size_t>(instruction.a)]);
    } else if (count == 0) {
      terms.push_back(append(instruction));
    } else {
      const auto term = [&](int index) { return terms[static_cast<size_t>(index)]; };
      terms.push_back(apply(instruction.operation, term(instruction.a),
                            count > 1 ? term(instruction.b) : Term{},
                            count > 2 ? term(instruction.c) : Term{}));
    }
  }
  std::vector<Term> outputs;
  for (const int output : expression.outputs) {
    outputs.push_back(terms[static_cast<size_t>(output)]);
  }
  return outputs;
}

Expression ExpressionBuilder::finish(const std::vector<Term>& outputs) const {
  std::vector<bool> needed(code_.size());
  for (const Term& output : outputs) needed[static_cast<size_t>(output.index())] = true;
  for (size_t i = code_.size(); i-- > 0;) {
    if (!needed[i]) continue;
    const int count = argument_count(code_[i].operation);
    if (count > 0) needed[static_cast<size_t>(code_[i].a)] = true;
    if (count > 1) needed[static_cast<size_t>(code_[i].b)] = true;
    if (count > 2) needed[static_cast<size_t>(code_[i].c)] = true;
  }
  Expression result;
  std::vector<int> moved(code_.size(), -1);
  for (size_t i = 0; i < code_.size(); ++i) {
    if (!needed[i]) continue;
    Instruction instruction = code_[i];
    const int count = argument_count(instruction.operation);
    if (count > 0) instruction.a = moved[static_cast<size_t>(instruction.a)];
    if (count > 1) instruction.b = moved[static_cast<size_t>(instruction.b)];
    if (count > 2) instruction.c = moved[static_cast<size_t>(instruction.c)];
    moved[i] = static_cast<int>(result.code.size());
    result.code.push_back(instruction);
  }
  for (const Term& output : outputs) {
    result.outputs.push_back(moved[static_cast<size_t>(output.index())]);
  }
  return result;
}

Term operator+(Term a, Term b) { return a.builder()->apply(Operation::add, a, b); }
Term operator-(Term a, Term b) { return a.builder()->apply(Operation::subtract, a, b); }
Term operator*(Term a, Term b) { return a.builder()->apply(Operation::multiply, a, b); }
Term operator/(Term a, Term b) { return a.builder()->apply(Operation::divide, a, b); }
Term operator-(Term a) { return a.builder()->apply(Operation::negate, a); }
Term operator+(Term a, double b) { return a + a.builder()->constant(b); }
Term operator-(Term a, double b) { return a - a.builder()->constant(b); }
Term operator*(Term a, double b) { return a * a.builder()->constant(b); }
Term operator/(Term a, double b) { return a / a.builder()->constant(b); }
Term operator+(double a, Term b) { return b.builder()->constant(a) + b; }
Term operator-(double a, Term b) { return b.builder()->constant(a) - b; }
Term operator*(double a, Term b) { return b.builder()->constant(a) * b; }
Term operator/(double a, Term b) { return b.builder()->constant(a) / b; }

namespace {

// The adjoints of an expression's instructions, from the output back.
class ReverseMode {
 public:
  ReverseMode(const Expression& expression, int operands) : expression_(expression) {
    std::vector<Term> inputs;
    for (int i = 0; i < operands; ++i) inputs.push_back(e_.operand(i));
    Expression all = expression;  // every instruction as an output, to have its term
    all.outputs.clear();
    for (size_t i = 0; i < expression.code.size(); ++i) all.outputs.push_back(static_cast<int>(i));
    terms_ = e_.inlined(all, inputs);
    adjoints_.resize(expression.code.size());
    add(expression.outputs[0], e_.operand(operands));
  }

  Expression run(const std::vector<int>& wanted) {
    for (size_t i = expression_.code.size(); i-- > 0;) {
      if (adjoints_[i].index() >= 0) propagate(expression_.code[i], terms_[i], adjoints_[i]);
    }
    std::vector<Term> outputs;
    for (const int operand : wanted) {
      Term gradient = e_.constant(0);
      for (size_t i = 0; i < expression_.code.size(); ++i) {
        const Instruction& instruction = expression_.code[i];
        const bool is_it = instruction.operation == Operation::operand && instruction.a == operand;
        if (is_it && adjoints_[i].index() >= 0) gradient = adjoints_[i];
      }
      outputs.push_back(gradient);
    }
    return e_.finish(outputs);
  }

 private:
  void add(int instruction, Term gradient) {
    Term& adjoint = adjoints_[static_cast<size_t>(instruction)];
    adjoint = adjoint.index() < 0 ? gradient : adjoint + gradient;
  }
  Term term(int instruction) const { return terms_[static_cast<size_t>(instruction)]; }

  void propagate(const Instruction& i, Term y, Term dy) {
    const int count = argument_count(i.operation);
    if (count == 1) {
      unary(i, y, dy);
    } else if (count == 2) {
      binary(i, y, dy);
    } else if (count == 3) {
      add(i.b, e_.select(term(i.a), dy, e_.constant(0)));
      add(i.c, e_.select(term(i.a), e_.constant(0), dy));
    }
  }

  void unary(const Instruction& i, Term y, Term dy) {
    const Term x = term(i.a);
    switch (i.operation) {
      case Operation::negate:
        return add(i.a, -dy);
      case Operation::absolute:
        return add(i.a, dy * e_.sign(x));
      case Operation::square_root:
        return add(i.a, dy * 0.5 / y);
      case Operation::exp:
        return add(i.a, dy * y);
      case Operation::expm1:
        return add(i.a, dy * (y + 1.0));
      case Operation::log:
        return add(i.a, dy / x);
      case Operation::log1p:
        return add(i.a, dy / (x + 1.0));
      case Operation::tanh:
        return add(i.a, dy * (1.0 - y * y));
      case Operation::sigmoid:
        return add(i.a, dy * y * (1.0 - y));
      case Operation::erf:
        return add(i.a, dy * (2 * std::numbers::inv_sqrtpi) * e_.exp(-(x * x)));
      default:
        return;  // sign, floor: flat
    }
  }

  void binary(const Instruction& i, Term y, Term dy) {
    const Term a = term(i.a);
    const Term b = term(i.b);
    const Term zero = e_.constant(0);
    switch (i.operation) {
      case Operation::add:
        add(i.a, dy);
        return add(i.b, dy);
      case Operation::subtract:
        add(i.a, dy);
        return add(i.b, -dy);
      case Operation::multiply:
        add(i.a, dy * b);
        return add(i.b, dy * a);
      case Operation::divide:
        add(i.a, dy / b);
        return add(i.b, -(dy * y / b));
      case Operation::maximum:
        add(i.a, e_.select(e_.greater(a, b), dy, zero));
        return add(i.b, e_.select(e_.greater(a, b), zero, dy));
      case Operation::minimum:
        add(i.a, e_.select(e_.greater(b, a), dy, zero));
        return add(i.b, e_.select(e_.greater(b, a), zero, dy));
      case Operation::power:
        add(i.a, dy * b * e_.power(a, b - 1.0));
        return add(i.b, dy * y * e_.log(a));
      default:
        return;  // comparisons: flat
    }
  }

  const Expression& expression_;
  ExpressionBuilder e_;
  std::vector<Term> terms_;
  std::vector<Term> adjoints_;
};

}  // namespace

Expression differentiate(const Expression& expression, int operands,
                         const std::vector<int>& wanted) {
  LOCKSTEP_CHECK(expression.outputs.size() == 1);
  return ReverseMode(expression, operands).run(wanted);
}

}  // namespace lockstep
