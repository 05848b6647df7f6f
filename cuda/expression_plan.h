// An expression made ready for the GPU: registers instead of single assignments, or one of a few
// compiled functions.
#pragma once

#include <cstdint>
#include <vector>

#include "host/core/result.h"
#include "host/device/expression.h"

namespace lockstep {

inline constexpr int kMaxInstructions = 256;  // with the operands, what a launch can take along
inline constexpr int kMaxMapOperands = 24;
inline constexpr int kMaxMapOutputs = 8;
inline constexpr int kMaxMapScalars = 16;
// The interpreter's registers lie in shared memory. With up to kWideRegisters of them a thread
// computes four elements at a time.
inline constexpr int kFewRegisters = 8;
inline constexpr int kWideRegisters = 24;
inline constexpr int kMaxRegisters = 96;

// registers[target] = operation(registers[a], registers[b], …).
struct RegisterInstruction {
  Operation operation = Operation::constant;
  uint8_t target = 0, a = 0, b = 0;
  uint32_t word = 0;  // a leaf's number, a constant's bits, the register c of a selection
  bool operator==(const RegisterInstruction&) const = default;
};

// The functions that run without the interpreter; x, y, z are their operands, c a constant.
enum class CompiledFunction {
  none,
  copy,          // x
  add,           // x + y
  subtract,      // x - y
  multiply,      // x * y
  multiply_add,  // x * y + z
  scale,         // x * c
  maximum,       // x > c ? x : c
  add_maximum,   // the same of x + y
  maximum_add,   // c > x + y ? c : x + y
  gate,          // x > c ? y : c
  gate_add,      // x > c ? y + z : c
  sigmoid,       // of x
  tanh,          // of x
  self_gated     // x * sigmoid(x)
};

struct ExpressionPlan {
  std::vector<RegisterInstruction> code;
  std::vector<uint8_t> outputs;  // registers
  int registers = 0;
  int operands = 0, scalars = 0;  // 1 + the largest number
  bool random = false;
  CompiledFunction compiled = CompiledFunction::none;
  std::vector<int> compiled_operands;  // the operand that x is, then y, then z
  float constant = 0;
};

// Fails where the expression is longer or wider than the limits above, in words for people.
Result<ExpressionPlan> plan_expression(const Expression& expression);

}  // namespace lockstep
