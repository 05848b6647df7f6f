// One pass over flat memory: adding gradients, optimizer steps, exp and log. Part of each
// instruction set's kernels. Formulas: host/device/ops.h; their roundings: host/cpu/pins.h.
#pragma once

#include <utility>

#include "host/cpu/kernels.h"
#include "host/cpu/kernels_elementwise.h"
#include "host/device/state_digest.h"

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

// The digest of host/device/state_digest.h, its 16 lanes in registers.
inline constexpr int kDigestVectors = 16 / kLanes;

// Lanes after one more vector of the state. words: weights, then slots.
template <int kWords>
LOCKSTEP_SIMD IVec digest_step(IVec lanes, const Vec* words) {
  IVec x = bits(words[kWords - 1]);
#pragma GCC unroll 8
  for (int k = kWords - 2; k >= 0; --k) {
    x = add_int(rotate_left<8>(x), bits(words[k]));
  }
  const IVec factor = set_int(static_cast<int32_t>(kDigestFactor));
  return add_int(mul_int(rotate_left<16>(lanes), factor), x);
}

// The same for the first `count` lanes only.
template <int kWords>
LOCKSTEP_SIMD IVec digest_tail(IVec lanes, const Vec* words, int64_t count) {
  alignas(64) float ones[kLanes] = {};
  for (int64_t i = 0; i < count; ++i) ones[i] = 1;
  const Mask taken = greater(load(ones), set(0.0f));
  return bits(select(taken, from_bits(digest_step<kWords>(lanes, words)), from_bits(lanes)));
}

// state_step: the optimizer's formula on a vector.
LOCKSTEP_SIMD void state_step(const AdamArgs& args, Vec g, Vec (&words)[3]) {
  Vec &w = words[0], &m = words[1], &v = words[2];
  m = fma(sub(g, m), set(args.one_minus_beta_1), m);
  v = fma(sub(mul(g, g), v), set(args.one_minus_beta_2), v);
  const Vec denominator = add(sqrt(v), set(args.epsilon));
  w = sub(w, div(mul(m, set(args.alpha)), denominator));
}

LOCKSTEP_SIMD void state_step(const SgdArgs& args, Vec g, Vec (&words)[2]) {
  Vec &w = words[0], &m = words[1];
  const Vec step = mul(g, set(args.learning_rate));
  const Vec momentum = set(args.momentum);
  m = sub(mul(momentum, m), step);
  w = add(w, args.nesterov ? sub(mul(momentum, m), step) : m);
}

LOCKSTEP_SIMD void state_step(const SgdArgs& args, Vec g, Vec (&words)[1]) {
  words[0] = sub(words[0], mul(g, set(args.learning_rate)));
}

template <int kWords, bool kDigest, class Args>
inline void update_state(const Args& args) {
  const StateArgs& state = args.state;
  float* const memory[] = {state.weights, state.slots[0], state.slots[1]};
  IVec lanes[kDigestVectors];
  for (IVec& vector : lanes) vector = set_int(0);
  Vec words[kWords];
  int64_t i = 0;
  for (; i + kDigestVectors * kLanes <= state.count; i += kDigestVectors * kLanes) {
#pragma GCC unroll 2
    for (int j = 0; j < kDigestVectors; ++j) {
      const int64_t at = i + j * kLanes;
#pragma GCC unroll 4
      for (int k = 0; k < kWords; ++k) words[k] = load(memory[k] + at);
      state_step(args, load(args.gradient + at), words);
#pragma GCC unroll 4
      for (int k = 0; k < kWords; ++k) store(memory[k] + at, words[k]);
      if constexpr (kDigest) lanes[j] = digest_step<kWords>(lanes[j], words);
    }
  }
#pragma GCC unroll 2
  for (int j = 0; j < kDigestVectors; ++j) {
    const int64_t at = i + j * kLanes;
    if (at >= state.count) break;
    const int64_t rest = state.count - at < kLanes ? state.count - at : kLanes;
    for (int k = 0; k < kWords; ++k) words[k] = load_tail(memory[k] + at, rest);
    state_step(args, load_tail(args.gradient + at, rest), words);
    for (int k = 0; k < kWords; ++k) store_tail(memory[k] + at, rest, words[k]);
    if constexpr (kDigest) lanes[j] = digest_tail<kWords>(lanes[j], words, rest);
  }
  if constexpr (kDigest) {
    for (int j = 0; j < kDigestVectors; ++j) store_int(state.lanes + j * kLanes, lanes[j]);
  }
}

template <int kWords, class Args>
inline void update_state(const Args& args) {
  if (args.state.lanes == nullptr) {
    update_state<kWords, false>(args);
  } else {
    update_state<kWords, true>(args);
  }
}

inline void adam(const AdamArgs& args) { update_state<3>(args); }

inline void sgd(const SgdArgs& args) {
  if (args.state.slots[0] == nullptr) {
    update_state<1>(args);
  } else {
    update_state<2>(args);
  }
}

template <int kWords>
inline void digest_state(const DigestArgs& args) {
  const float* memory[kWords] = {args.weights};
  for (int k = 1; k < kWords; ++k) memory[k] = args.slots[k - 1];
  IVec lanes[kDigestVectors];
  for (IVec& vector : lanes) vector = set_int(0);
  Vec words[kWords];
  int64_t i = 0;
  for (; i + kDigestVectors * kLanes <= args.count; i += kDigestVectors * kLanes) {
#pragma GCC unroll 2
    for (int j = 0; j < kDigestVectors; ++j) {
#pragma GCC unroll 8
      for (int k = 0; k < kWords; ++k) words[k] = load(memory[k] + i + j * kLanes);
      lanes[j] = digest_step<kWords>(lanes[j], words);
    }
  }
#pragma GCC unroll 2
  for (int j = 0; j < kDigestVectors; ++j) {
    const int64_t at = i + j * kLanes;
    if (at >= args.count) break;
    const int64_t rest = args.count - at < kLanes ? args.count - at : kLanes;
    for (int k = 0; k < kWords; ++k) words[k] = load_tail(memory[k] + at, rest);
    lanes[j] = digest_tail<kWords>(lanes[j], words, rest);
  }
  for (int j = 0; j < kDigestVectors; ++j) store_int(args.lanes + j * kLanes, lanes[j]);
}

template <int... kSlots>
inline void digest_of_slots(const DigestArgs& args, std::integer_sequence<int, kSlots...>) {
  const auto slots = static_cast<int>(args.slot_count);
  ((slots == kSlots ? digest_state<1 + kSlots>(args) : void()), ...);
}

inline void digest(const DigestArgs& args) {
  digest_of_slots(args, std::make_integer_sequence<int, 1 + kMaxSlots>());
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
