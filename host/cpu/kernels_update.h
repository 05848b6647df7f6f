// One pass over flat memory: adding gradients, optimizer steps, exp and log. Part of each
// instruction set's kernels. Formulas: host/device/ops.h; their roundings: host/cpu/pins.h.
#pragma once

#include "host/cpu/kernels.h"
#include "host/cpu/kernels_elementwise.h"

namespace lockstep::cpu::LOCKSTEP_ISA {

// The last `count` < kLanes elements of a vector, the rest zeros.
LOCKSTEP_SIMD Vec load_tail(const float* p, int64_t count) {
  alignas(64) float buffer[kLanes] = {};
  for (int64_t i = 0; i < count; ++i) buffer[i] = p[i];
  return load(buffer);
}

LOCKSTEP_SIMD void store_tail(float* p, int64_t count, Vec a) {
  alignas(64) float buffer[kLanes];
  store(buffer, a);
  for (int64_t i = 0; i < count; ++i) p[i] = buffer[i];
}

inline void add_flat(const float* a, const float* b, float* out, int64_t count) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) store(out + i, add(load(a + i), load(b + i)));
  if (i == count) return;
  store_tail(out + i, count - i, add(load_tail(a + i, count - i), load_tail(b + i, count - i)));
}

LOCKSTEP_SIMD void adam_step(const AdamArgs& args, Vec g, Vec* w, Vec* m, Vec* v) {
  *m = fma(sub(g, *m), set(args.one_minus_beta_1), *m);
  *v = fma(sub(mul(g, g), *v), set(args.one_minus_beta_2), *v);
  const Vec denominator = add(sqrt(*v), set(args.epsilon));
  *w = sub(*w, div(mul(*m, set(args.alpha)), denominator));
}

inline void adam(const AdamArgs& args) {
  int64_t i = 0;
  for (; i + kLanes <= args.count; i += kLanes) {
    Vec w = load(args.weights + i), m = load(args.m + i), v = load(args.v + i);
    adam_step(args, load(args.gradient + i), &w, &m, &v);
    store(args.weights + i, w);
    store(args.m + i, m);
    store(args.v + i, v);
  }
  const int64_t rest = args.count - i;
  if (rest == 0) return;
  Vec w = load_tail(args.weights + i, rest), m = load_tail(args.m + i, rest);
  Vec v = load_tail(args.v + i, rest);
  adam_step(args, load_tail(args.gradient + i, rest), &w, &m, &v);
  store_tail(args.weights + i, rest, w);
  store_tail(args.m + i, rest, m);
  store_tail(args.v + i, rest, v);
}

LOCKSTEP_SIMD void sgd_step(const SgdArgs& args, Vec g, Vec* w, Vec* m) {
  const Vec step = mul(g, set(args.learning_rate));
  const Vec momentum = set(args.momentum);
  *m = sub(mul(momentum, *m), step);
  *w = add(*w, args.nesterov ? sub(mul(momentum, *m), step) : *m);
}

inline void sgd(const SgdArgs& args) {
  int64_t i = 0;
  for (; i + kLanes <= args.count; i += kLanes) {
    Vec w = load(args.weights + i);
    if (args.m == nullptr) {
      w = sub(w, mul(load(args.gradient + i), set(args.learning_rate)));
    } else {
      Vec m = load(args.m + i);
      sgd_step(args, load(args.gradient + i), &w, &m);
      store(args.m + i, m);
    }
    store(args.weights + i, w);
  }
  const int64_t rest = args.count - i;
  if (rest == 0) return;
  Vec w = load_tail(args.weights + i, rest);
  const Vec g = load_tail(args.gradient + i, rest);
  if (args.m == nullptr) {
    w = sub(w, mul(g, set(args.learning_rate)));
  } else {
    Vec m = load_tail(args.m + i, rest);
    sgd_step(args, g, &w, &m);
    store_tail(args.m + i, rest, m);
  }
  store_tail(args.weights + i, rest, w);
}

inline void exp_flat(const float* x, float* out, int64_t count) {
  for (int64_t i = 0; i < count; i += kLanes) {
    const int64_t rest = count - i < kLanes ? count - i : kLanes;
    store_tail(out + i, rest, math::exp_of<VectorOps>(load_tail(x + i, rest)));
  }
}

inline void log_flat(const float* x, float* out, int64_t count) {
  for (int64_t i = 0; i < count; i += kLanes) {
    const int64_t rest = count - i < kLanes ? count - i : kLanes;
    store_tail(out + i, rest, math::log_of<VectorOps>(load_tail(x + i, rest)));
  }
}

inline int64_t fma_loop(int64_t iterations) {
  constexpr int kChains = 12;
  Vec acc[kChains];
  for (int i = 0; i < kChains; ++i) acc[i] = set(static_cast<float>(i));
  Vec a = set(0.999f), b = set(0.001f);
  for (int64_t iteration = 0; iteration < iterations; ++iteration) {
    asm volatile("" : "+x"(a.v), "+x"(b.v));  // keeps the loop from being computed away
#pragma GCC unroll 16
    for (int i = 0; i < kChains; ++i) acc[i] = fma(acc[i], a, b);
  }
  Vec sum = acc[0];
  for (int i = 1; i < kChains; ++i) sum = add(sum, acc[i]);
  asm volatile("" : : "x"(sum.v));
  return iterations * kChains * kLanes * 2;
}

}  // namespace lockstep::cpu::LOCKSTEP_ISA
