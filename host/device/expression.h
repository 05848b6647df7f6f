// Small elementwise programs: what activations, merges, losses and most optimizers are made of.
//
// An expression is a list of instructions in static single assignment form. Each instruction is one
// IEEE 754 operation, or one function of host/core/math.h: an expression has the same bits on every
// device. Nothing is reordered or contracted.
#pragma once

#include <cstdint>
#include <vector>

namespace lockstep {

enum class Operation : uint8_t {
  // Leaves.
  operand,   // the element of operand number a
  scalar,    // scalar number a: the same for all elements, may change from run to run
  constant,  // value
  uniform,   // of random stream a: in [0, 1), 24 bits
  normal,    // of random stream a: standard normal, by Box and Muller from two uniform numbers
  // Of instruction a.
  negate,
  absolute,
  sign,  // -1, 0 or 1; NaN stays
  floor,
  square_root,
  exp,
  expm1,
  log,
  log1p,
  tanh,
  sigmoid,
  erf,
  // Of instructions a and b.
  add,
  subtract,
  multiply,
  divide,
  maximum,  // a > b ? a : b
  minimum,  // a < b ? a : b
  power,    // a^b for a >= 0; a < 0 only where b is an integer
  greater,  // 1 or 0
  greater_equal,
  equal,
  // Of a, b and c: a != 0 ? b : c. NaN counts as not 0.
  select,
};

struct Instruction {
  Operation operation = Operation::constant;
  int a = 0, b = 0, c = 0;  // earlier instructions; a leaf's number
  float value = 0;          // of a constant
  bool operator==(const Instruction&) const = default;
};

// How many of a, b, c name earlier instructions.
int argument_count(Operation operation);

struct Expression {
  std::vector<Instruction> code;
  std::vector<int> outputs;  // instructions
  bool operator==(const Expression&) const = default;

  int operand_count() const;  // 1 + the largest operand number
  bool is_random() const;
};

// Reads as arithmetic: `ExpressionBuilder e; auto x = e.operand(0); e.finish({x * e.sigmoid(x)})`.
// An instruction that is there already is used again; constants are folded only where the result
// is exact (0 + x, 1 * x, x / 1), so that writing a formula is choosing its roundings.
class ExpressionBuilder;

class Term {
 public:
  Term() = default;
  int index() const { return index_; }
  ExpressionBuilder* builder() const { return builder_; }

 private:
  friend class ExpressionBuilder;
  Term(ExpressionBuilder* builder, int index) : builder_(builder), index_(index) {}
  ExpressionBuilder* builder_ = nullptr;
  int index_ = -1;
};

class ExpressionBuilder {
 public:
  ExpressionBuilder() = default;
  ExpressionBuilder(const ExpressionBuilder&) = delete;
  ExpressionBuilder& operator=(const ExpressionBuilder&) = delete;

  Term operand(int number) { return leaf(Operation::operand, number); }
  Term scalar(int number) { return leaf(Operation::scalar, number); }
  Term uniform(int stream) { return leaf(Operation::uniform, stream); }
  Term normal(int stream) { return leaf(Operation::normal, stream); }
  Term constant(double value);
  Term apply(Operation operation, Term a, Term b = {}, Term c = {});

  Term absolute(Term a) { return apply(Operation::absolute, a); }
  Term sign(Term a) { return apply(Operation::sign, a); }
  Term floor(Term a) { return apply(Operation::floor, a); }
  Term square_root(Term a) { return apply(Operation::square_root, a); }
  Term exp(Term a) { return apply(Operation::exp, a); }
  Term expm1(Term a) { return apply(Operation::expm1, a); }
  Term log(Term a) { return apply(Operation::log, a); }
  Term log1p(Term a) { return apply(Operation::log1p, a); }
  Term tanh(Term a) { return apply(Operation::tanh, a); }
  Term sigmoid(Term a) { return apply(Operation::sigmoid, a); }
  Term erf(Term a) { return apply(Operation::erf, a); }
  Term maximum(Term a, Term b) { return apply(Operation::maximum, a, b); }
  Term minimum(Term a, Term b) { return apply(Operation::minimum, a, b); }
  Term clip(Term a, double low, double high) {
    return minimum(maximum(a, constant(low)), constant(high));
  }
  Term power(Term a, Term b) { return apply(Operation::power, a, b); }
  Term greater(Term a, Term b) { return apply(Operation::greater, a, b); }
  Term greater_equal(Term a, Term b) { return apply(Operation::greater_equal, a, b); }
  Term equal(Term a, Term b) { return apply(Operation::equal, a, b); }
  Term select(Term condition, Term a, Term b) { return apply(Operation::select, condition, a, b); }

  // Appends another expression with its operands replaced by terms; its outputs as terms here.
  std::vector<Term> inlined(const Expression& expression, const std::vector<Term>& operands);
  // The expression of these outputs; instructions that none of them needs are left out.
  Expression finish(const std::vector<Term>& outputs) const;

 private:
  Term leaf(Operation operation, int number);
  Term append(const Instruction& instruction);
  bool is_constant(Term term, float value) const;

  std::vector<Instruction> code_;
};

Term operator+(Term a, Term b);
Term operator-(Term a, Term b);
Term operator*(Term a, Term b);
Term operator/(Term a, Term b);
Term operator-(Term a);
Term operator+(Term a, double b);
Term operator-(Term a, double b);
Term operator*(Term a, double b);
Term operator/(Term a, double b);
Term operator+(double a, Term b);
Term operator-(double a, Term b);
Term operator*(double a, Term b);
Term operator/(double a, Term b);
inline Term square(Term a) { return a * a; }

// Reverse mode: for an expression f of one output, one expression whose output k is
// dy * df/d(operand wanted[k]); dy is one more operand, numbered behind f's `operands`. The
// derivative of sign, floor and comparisons is 0; that of absolute is sign; maximum and minimum
// give the whole gradient to the one that was taken; select to the branch that was taken. A random
// number has no derivative.
Expression differentiate(const Expression& expression, int operands,
                         const std::vector<int>& wanted);

}  // namespace lockstep
