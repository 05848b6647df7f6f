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

LOCKSTEP_SIMD void copy_vectors(const float* from, int64_t count, float* to) {
  for (int64_t i = 0; i < count * kLanes; i += kLanes) store(to + i, load(from + i));
}

template <Operation kOperation>
LOCKSTEP_SIMD Vec fused_operation(Vec x, Vec y) {
  if constexpr (kOperation == Operation::add) return add(x, y);
  if constexpr (kOperation == Operation::subtract) return sub(x, y);
  if constexpr (kOperation == Operation::multiply) return mul(x, y);
  if constexpr (kOperation == Operation::maximum) return max(x, y);
  if constexpr (kOperation == Operation::minimum) return min(x, y);
}

// Calls f.template operator()<operation>() for one of the operations that are fused.
template <class F>
LOCKSTEP_SIMD void with_fusible(Operation operation, const F& f) {
  switch (operation) {
    case Operation::add:
      return f.template operator()<Operation::add>();
    case Operation::subtract:
      return f.template operator()<Operation::subtract>();
    case Operation::multiply:
      return f.template operator()<Operation::multiply>();
    case Operation::maximum:
      return f.template operator()<Operation::maximum>();
    case Operation::minimum:
      return f.template operator()<Operation::minimum>();
    default:
      return;
  }
}

template <Operation kFirst, Operation kThen>
inline void fused_loop(const Place& out, const Place& a, const Place& b, const Place& c,
                       bool flipped, int64_t count) {
  const float* other = c.data;
  if (flipped) {
    each(out, a, b, count, [&](Vec x, Vec y) {
      const Vec z = load(other);
      other += c.step;
      return fused_operation<kThen>(z, fused_operation<kFirst>(x, y));
    });
  } else {
    each(out, a, b, count, [&](Vec x, Vec y) {
      const Vec z = load(other);
      other += c.step;
      return fused_operation<kThen>(fused_operation<kFirst>(x, y), z);
    });
  }
}

inline void fused_step(const ExpressionStep& step, const Place* places, int64_t count) {
  const Place &out = places[step.result], &a = places[step.a], &b = places[step.b];
  with_fusible(step.operation, [&]<Operation kFirst>() {
    with_fusible(step.then, [&]<Operation kThen>() {
      fused_loop<kFirst, kThen>(out, a, b, places[step.c], step.flipped, count);
    });
  });
}

// result = compare(a, b) ? c : d
template <class Compare>
LOCKSTEP_SIMD void choose(const ExpressionStep& step, const Place* places, int64_t count,
                          const Compare& compare) {
  const Place &c = places[step.c], &d = places[step.d];
  const float* p = c.data;
  const float* q = d.data;
  each(places[step.result], places[step.a], places[step.b], count, [&](Vec x, Vec y) {
    const Vec result = select(compare(x, y), load(p), load(q));
    p += c.step;
    q += d.step;
    return result;
  });
}

inline void choose_step(const ExpressionStep& step, const Place* places, int64_t count) {
  if (step.operation == Operation::greater) {
    choose(step, places, count, [](Vec x, Vec y) { return greater(x, y); });
  } else if (step.operation == Operation::greater_equal) {
    choose(step, places, count, [](Vec x, Vec y) { return greater_equal(x, y); });
  } else {
    choose(step, places, count, [](Vec x, Vec y) { return equal(x, y); });
  }
}

// Runs `args.steps` over `count` vectors; random(step, place) makes random numbers.
template <class Random>
LOCKSTEP_SIMD void run_steps(const StepsArgs& args, int64_t count, const Random& random) {
  const Place* places = args.places;
  for (int i = 0; i < args.step_count; ++i) {
    const ExpressionStep& step = args.steps[i];
    const Place& out = places[step.result];
    if (step.then == Operation::select) {
      choose_step(step, places, count);
    } else if (step.then != Operation::operand) {
      fused_step(step, places, count);
    } else if (step.operation == Operation::uniform || step.operation == Operation::normal) {
      random(step, out);
    } else if (step.operation < Operation::add) {
      unary_step(step.operation, out, places[step.a], count);
    } else if (step.operation < Operation::select) {
      binary_step(step.operation, out, places[step.a], places[step.b], count);
    } else {
      select_step(out, places[step.a], places[step.b], places[step.c], count);
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

// Vectors of an operand's elements, as often as its table holds them.
inline void fill_table(const MapOperandArgs& operand, const float* data) {
  for (int64_t i = 0; operand.parameters && i < operand.modulus; ++i) {
    store(operand.table + i * kLanes, broadcast(data + i));
  }
  if (!operand.parameters) copy_vectors(data, operand.modulus, operand.table);
  for (int64_t i = operand.modulus; i < operand.period; i += operand.modulus) {
    copy_vectors(operand.table, operand.modulus, operand.table + i * kLanes);
  }
}

// Elements [f, f + count) of the features.
inline void fill_chunk(const MapOperandArgs& operand, const float* vectors, int64_t f,
                       int64_t count) {
  BroadcastWalk walk(operand.divisor, operand.modulus, f);
  for (int64_t i = 0; i < count; ++i, walk.advance(1)) {
    store(operand.chunk + i * kLanes, load(vectors + walk.index * kLanes));
  }
}

// For how many features from f on an operand can be read without a cut.
inline int64_t operand_extent(const MapOperandArgs& operand, int64_t f) {
  if (operand.kind == OperandKind::periodic) return operand.period - f % operand.period;
  if (operand.kind == OperandKind::runs) return operand.divisor - f % operand.divisor;
  return kChunkFloats;
}

// The vectors of an operand's elements for the rows of a block.
LOCKSTEP_SIMD const float* operand_vectors(const MapOperandArgs& operand, int64_t block) {
  return operand.table != nullptr ? operand.table : operand.data + block * operand.modulus * kLanes;
}

// Features [f, f + count) of a row block.
inline Place operand_place(const MapOperandArgs& operand, int64_t block, int64_t f, int64_t count) {
  float* const vectors = const_cast<float*>(operand_vectors(operand, block));
  if (operand.kind == OperandKind::periodic) return {vectors + f % operand.period * kLanes, kLanes};
  if (operand.kind == OperandKind::runs) {
    return {vectors + f / operand.divisor % operand.modulus * kLanes, 0};
  }
  fill_chunk(operand, vectors, f, count);
  return {operand.chunk, kLanes};
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

// Tables of parameters, before the first row block; of values, at each.
inline void fill_tables(const MapArgs& args, bool parameters, int64_t block) {
  for (int i = 0; i < args.steps.operand_count; ++i) {
    const MapOperandArgs& operand = args.operands[i];
    if (operand.table == nullptr || operand.parameters != parameters) continue;
    fill_table(operand, operand.data + (parameters ? 0 : block * operand.modulus * kLanes));
  }
}

// Sets the places of features from f on; returns how many they are.
inline int64_t set_places(const MapArgs& args, int64_t block, int64_t f) {
  int64_t count = kChunkFloats / kLanes;
  if (args.features - f < count) count = args.features - f;
  for (int i = 0; i < args.steps.operand_count; ++i) {
    const int64_t extent = operand_extent(args.operands[i], f);
    if (extent < count) count = extent;
  }
  for (int i = 0; i < args.steps.operand_count; ++i) {
    args.steps.places[i] = operand_place(args.operands[i], block, f, count);
  }
  float* y = args.y + (block * args.features + f) * kLanes;
  args.steps.places[args.steps.first_output] = {y, kLanes};
  return count;
}

inline void map(const MapArgs& args) {
  if (args.row_blocks == 0) return;
  fill_tables(args, true, 0);
  for (int64_t block = 0; block < args.row_blocks; ++block) {
    fill_tables(args, false, block);
    for (int64_t f = 0; f < args.features;) {
      const int64_t count = set_places(args, block, f);
      run_steps(args.steps, count, [&](const ExpressionStep& step, const Place& out) {
        random_step(args, step, block, f, count, out.data);
      });
      f += count;
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
