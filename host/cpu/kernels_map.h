// Expressions, chunk by chunk: each instruction is one loop over vectors in L1. Part of each
// instruction set's kernels.
#pragma once

#include "host/core/math_normal.h"
#include "host/core/math_power.h"
#include "host/cpu/kernels.h"
#include "host/cpu/kernels_elementwise.h"
#include "host/cpu/kernels_update.h"

namespace lockstep::cpu::LOCKSTEP_ISA {

// out[i] = f(a[i], …) for `count` vectors.
template <class F>
LOCKSTEP_SIMD void each(const Place& out, const Place& a, int64_t count, const F& f) {
  float* to = out.data;
  const float* p = a.data;
  for (int64_t i = 0; i < count; ++i, to += kLanes, p += a.step) store(to, f(load(p)));
}

template <class F>
LOCKSTEP_SIMD void each(const Place& out, const Place& a, const Place& b, int64_t count,
                        const F& f) {
  float* to = out.data;
  const float* p = a.data;
  const float* q = b.data;
  for (int64_t i = 0; i < count; ++i, to += kLanes, p += a.step, q += b.step) {
    store(to, f(load(p), load(q)));
  }
}

LOCKSTEP_SIMD Vec one_where(Mask mask) { return keep(mask, set(1.0f)); }

inline void unary_step(Operation operation, const Place& out, const Place& a, int64_t count) {
  switch (operation) {
    case Operation::operand:
      return each(out, a, count, [](Vec x) { return x; });
    case Operation::negate:
      return each(out, a, count,
                  [](Vec x) { return from_bits(exclusive_or(bits(x), set_int(math::kSignBit))); });
    case Operation::absolute:
      return each(out, a, count, [](Vec x) { return math::absolute_of<VectorOps>(x); });
    case Operation::sign:
      return each(out, a, count, [](Vec x) { return math::sign_of<VectorOps>(x); });
    case Operation::floor:
      return each(out, a, count, [](Vec x) { return math::floor_of<VectorOps>(x); });
    case Operation::square_root:
      return each(out, a, count, [](Vec x) { return math::square_root_of<VectorOps>(x); });
    case Operation::exp:
      return each(out, a, count, [](Vec x) { return math::exp_of<VectorOps>(x); });
    case Operation::expm1:
      return each(out, a, count, [](Vec x) { return math::expm1_of<VectorOps>(x); });
    case Operation::log:
      return each(out, a, count, [](Vec x) { return math::log_of<VectorOps>(x); });
    case Operation::log1p:
      return each(out, a, count, [](Vec x) { return math::log1p_of<VectorOps>(x); });
    case Operation::tanh:
      return each(out, a, count, [](Vec x) { return math::tanh_of<VectorOps>(x); });
    case Operation::sigmoid:
      return each(out, a, count, [](Vec x) { return math::sigmoid_of<VectorOps>(x); });
    case Operation::erf:
      return each(out, a, count, [](Vec x) { return math::erf_of<VectorOps>(x); });
    default:
      return;
  }
}

inline void binary_step(Operation operation, const Place& out, const Place& a, const Place& b,
                        int64_t count) {
  switch (operation) {
    case Operation::add:
      return each(out, a, b, count, [](Vec x, Vec y) { return add(x, y); });
    case Operation::subtract:
      return each(out, a, b, count, [](Vec x, Vec y) { return sub(x, y); });
    case Operation::multiply:
      return each(out, a, b, count, [](Vec x, Vec y) { return mul(x, y); });
    case Operation::divide:
      return each(out, a, b, count, [](Vec x, Vec y) { return div(x, y); });
    case Operation::maximum:
      return each(out, a, b, count, [](Vec x, Vec y) { return max(x, y); });
    case Operation::minimum:
      return each(out, a, b, count, [](Vec x, Vec y) { return min(x, y); });
    case Operation::power:
      return each(out, a, b, count, [](Vec x, Vec y) { return math::power_of<VectorOps>(x, y); });
    case Operation::greater:
      return each(out, a, b, count, [](Vec x, Vec y) { return one_where(greater(x, y)); });
    case Operation::greater_equal:
      return each(out, a, b, count, [](Vec x, Vec y) { return one_where(greater_equal(x, y)); });
    case Operation::equal:
      return each(out, a, b, count, [](Vec x, Vec y) { return one_where(equal(x, y)); });
    default:
      return;
  }
}

inline void select_step(const Place& out, const Place& a, const Place& b, const Place& c,
                        int64_t count) {
  const float* otherwise = c.data;
  each(out, a, b, count, [&](Vec x, Vec y) {
    const Vec z = load(otherwise);
    otherwise += c.step;
    return select(equal(x, set(0.0f)), z, y);
  });
}

// Runs `args.steps` over `count` vectors; random(step, place) makes random numbers.
template <class Random>
LOCKSTEP_SIMD void run_steps(const StepsArgs& args, int64_t count, const Random& random) {
  for (int i = 0; i < args.step_count; ++i) {
    const ExpressionStep& step = args.steps[i];
    const Place& out = args.places[step.result];
    if (step.operation == Operation::uniform || step.operation == Operation::normal) {
      random(step, out);
    } else if (step.operation < Operation::add) {
      unary_step(step.operation, out, args.places[step.a], count);
    } else if (step.operation < Operation::select) {
      binary_step(step.operation, out, args.places[step.a], args.places[step.b], count);
    } else {
      select_step(out, args.places[step.a], args.places[step.b], args.places[step.c], count);
    }
  }
}

// Walks along f / divisor % modulus.
struct BroadcastWalk {
  int64_t divisor, modulus;
  int64_t index, used;  // of the divisor

  BroadcastWalk(int64_t d, int64_t m, int64_t f)
      : divisor(d), modulus(m), index(f / d % m), used(f % d) {}
  void advance(int64_t count) {  // never past the end of a run of equal elements
    used += count;
    if (used < divisor) return;
    used = 0;
    if (++index == modulus) index = 0;
  }
};

// Writes elements [f, f + count) of an operand to its chunk; `data` is that of the row block.
inline void fill_chunk(const MapOperandArgs& operand, const float* data, int64_t f, int64_t count) {
  BroadcastWalk walk(operand.divisor, operand.modulus, f);
  float* to = operand.chunk;
  float* const end = to + count * kLanes;
  while (to < end) {
    const Vec x =
        operand.parameters ? broadcast(data + walk.index) : load(data + walk.index * kLanes);
    const int64_t left = (end - to) / kLanes;
    const int64_t run = walk.divisor - walk.used < left ? walk.divisor - walk.used : left;
    for (int64_t i = 0; i < run; ++i, to += kLanes) store(to, x);
    walk.advance(run);
  }
}

// Features [f, f + count) of a row block, where `operand` needs no index.
inline Place operand_place(const MapArgs& args, const MapOperandArgs& operand, int64_t block,
                           int64_t f, int64_t count) {
  const float* data = operand.data;
  if (!operand.parameters) data += block * operand.modulus * kLanes;
  float* const in_place = const_cast<float*>(data);
  if (!operand.parameters && operand.modulus == 1) return {in_place, 0};
  if (!operand.parameters && operand.modulus == args.features && operand.divisor == 1) {
    return {in_place + f * kLanes, kLanes};
  }
  fill_chunk(operand, data, f, operand.modulus == 1 ? 1 : count);
  return {operand.chunk, operand.modulus == 1 ? 0 : kLanes};
}

// Random numbers of features [f, f + count) of a row block.
inline void random_step(const MapArgs& args, const ExpressionStep& step, int64_t block, int64_t f,
                        int64_t count, float* to) {
  const IVec positions = load_int(args.positions + block * kLanes);
  const uint32_t layer = args.layer + (static_cast<uint32_t>(step.a) << 20);
  BroadcastWalk walk(args.noise_divisor, args.noise_modulus, f);
  for (int64_t left = count; left > 0;) {
    IVec words[4] = {set_int(static_cast<int32_t>(walk.index)), positions,
                     set_int(static_cast<int32_t>(args.epoch)),
                     set_int(static_cast<int32_t>(layer))};
    philox(words, args.key);
    const Vec x = step.operation == Operation::normal
                      ? math::normal_of<VectorOps>(words[0], words[1])
                      : mul(to_float(shift_right_unsigned<8>(words[0])), set(1.0f / 16777216.0f));
    // All features, where the modulus is 1.
    int64_t run = walk.modulus == 1 ? left : walk.divisor - walk.used;
    if (run > left) run = left;
    for (int64_t i = 0; i < run; ++i, to += kLanes) store(to, x);
    if (walk.modulus > 1) walk.advance(run);
    left -= run;
  }
}

inline void map(const MapArgs& args) {
  constexpr int64_t kChunk = kChunkFloats / kLanes;
  for (int64_t block = 0; block < args.row_blocks; ++block) {
    for (int64_t f = 0; f < args.features; f += kChunk) {
      const int64_t count = args.features - f < kChunk ? args.features - f : kChunk;
      for (int i = 0; i < args.steps.operand_count; ++i) {
        args.steps.places[i] = operand_place(args, args.operands[i], block, f, count);
      }
      float* y = args.y + (block * args.features + f) * kLanes;
      args.steps.places[args.steps.first_output] = {y, kLanes};
      run_steps(args.steps, count, [&](const ExpressionStep& step, const Place& out) {
        random_step(args, step, block, f, count, out.data);
      });
    }
  }
}

inline void evaluate(const EvaluateArgs& args) {
  constexpr auto kNoRandom = [](const ExpressionStep&, const Place&) {};
  const StepsArgs& steps = args.steps;
  Place* const outputs = steps.places + steps.first_output;
  const int64_t whole = args.count / kLanes * kLanes;
  for (int64_t i = 0; i < whole; i += kChunkFloats) {
    const int64_t count = whole - i < kChunkFloats ? whole - i : kChunkFloats;
    for (int k = 0; k < steps.operand_count; ++k) {
      steps.places[k] = {const_cast<float*>(args.operands[k]) + i, kLanes};
    }
    for (int k = 0; k < steps.output_count; ++k) outputs[k] = {args.outputs[k] + i, kLanes};
    run_steps(steps, count / kLanes, kNoRandom);
  }
  const int64_t rest = args.count - whole;
  if (rest == 0) return;
  float* tail = args.tails;
  for (int k = 0; k < steps.operand_count; ++k, tail += kLanes) {
    store(tail, load_tail(args.operands[k] + whole, rest));
    steps.places[k] = {tail, kLanes};
  }
  for (int k = 0; k < steps.output_count; ++k, tail += kLanes) outputs[k] = {tail, kLanes};
  run_steps(steps, 1, kNoRandom);
  for (int k = 0; k < steps.output_count; ++k) {
    store_tail(args.outputs[k] + whole, rest, load(outputs[k].data));
  }
}

}  // namespace lockstep::cpu::LOCKSTEP_ISA
