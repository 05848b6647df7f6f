// Dropout, relu, softmax and the loss. Part of each instruction set's kernels.
#pragma once

#include "host/core/math.h"
#include "host/cpu/kernels.h"

namespace lockstep::cpu::LOCKSTEP_ISA {

// host/core/math.h's operations on vectors.
struct VectorOps {
  using Float = Vec;
  using Int = IVec;
  using Mask = LOCKSTEP_ISA::Mask;
  LOCKSTEP_SIMD static Vec set(float x) { return LOCKSTEP_ISA::set(x); }
  LOCKSTEP_SIMD static IVec set_int(int32_t x) { return LOCKSTEP_ISA::set_int(x); }
  LOCKSTEP_SIMD static Vec add(Vec a, Vec b) { return LOCKSTEP_ISA::add(a, b); }
  LOCKSTEP_SIMD static Vec sub(Vec a, Vec b) { return LOCKSTEP_ISA::sub(a, b); }
  LOCKSTEP_SIMD static Vec mul(Vec a, Vec b) { return LOCKSTEP_ISA::mul(a, b); }
  LOCKSTEP_SIMD static Vec div(Vec a, Vec b) { return LOCKSTEP_ISA::div(a, b); }
  LOCKSTEP_SIMD static Vec sqrt(Vec a) { return LOCKSTEP_ISA::sqrt(a); }
  LOCKSTEP_SIMD static Vec floor(Vec a) { return LOCKSTEP_ISA::floor(a); }
  LOCKSTEP_SIMD static Vec fma(Vec a, Vec b, Vec c) { return LOCKSTEP_ISA::fma(a, b, c); }
  LOCKSTEP_SIMD static IVec add_int(IVec a, IVec b) { return LOCKSTEP_ISA::add_int(a, b); }
  LOCKSTEP_SIMD static IVec sub_int(IVec a, IVec b) { return LOCKSTEP_ISA::sub_int(a, b); }
  LOCKSTEP_SIMD static IVec bit_and(IVec a, IVec b) { return LOCKSTEP_ISA::bit_and(a, b); }
  LOCKSTEP_SIMD static IVec bit_or(IVec a, IVec b) { return LOCKSTEP_ISA::bit_or(a, b); }
  LOCKSTEP_SIMD static IVec exclusive_or(IVec a, IVec b) {
    return LOCKSTEP_ISA::exclusive_or(a, b);
  }
  template <int kBits>
  LOCKSTEP_SIMD static IVec shift_left(IVec a) {
    return LOCKSTEP_ISA::shift_left<kBits>(a);
  }
  template <int kBits>
  LOCKSTEP_SIMD static IVec shift_right(IVec a) {
    return LOCKSTEP_ISA::shift_right<kBits>(a);
  }
  template <int kBits>
  LOCKSTEP_SIMD static IVec shift_right_unsigned(IVec a) {
    return LOCKSTEP_ISA::shift_right_unsigned<kBits>(a);
  }
  LOCKSTEP_SIMD static Vec to_float(IVec a) { return LOCKSTEP_ISA::to_float(a); }
  LOCKSTEP_SIMD static IVec bits(Vec a) { return LOCKSTEP_ISA::bits(a); }
  LOCKSTEP_SIMD static Vec from_bits(IVec a) { return LOCKSTEP_ISA::from_bits(a); }
  LOCKSTEP_SIMD static Mask greater(Vec a, Vec b) { return LOCKSTEP_ISA::greater(a, b); }
  LOCKSTEP_SIMD static Mask greater_equal(Vec a, Vec b) {
    return LOCKSTEP_ISA::greater_equal(a, b);
  }
  LOCKSTEP_SIMD static Mask less(Vec a, Vec b) { return LOCKSTEP_ISA::less(a, b); }
  LOCKSTEP_SIMD static Mask equal(Vec a, Vec b) { return LOCKSTEP_ISA::equal(a, b); }
  LOCKSTEP_SIMD static Mask equal_int(IVec a, IVec b) { return LOCKSTEP_ISA::equal_int(a, b); }
  LOCKSTEP_SIMD static Mask both(Mask a, Mask b) { return LOCKSTEP_ISA::both(a, b); }
  LOCKSTEP_SIMD static Mask either(Mask a, Mask b) { return LOCKSTEP_ISA::either(a, b); }
  LOCKSTEP_SIMD static Mask without(Mask a, Mask b) { return LOCKSTEP_ISA::without(a, b); }
  LOCKSTEP_SIMD static Vec select(Mask m, Vec a, Vec b) { return LOCKSTEP_ISA::select(m, a, b); }
};

// Philox4x32-10 as in host/core/rng.h, one counter a lane.
LOCKSTEP_SIMD void philox(IVec counter[4], uint64_t key) {
  uint32_t key0 = static_cast<uint32_t>(key);
  uint32_t key1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    IVec low0, high0, low1, high1;
    multiply_wide(counter[0], set_int(static_cast<int32_t>(0xD2511F53u)), &low0, &high0);
    multiply_wide(counter[2], set_int(static_cast<int32_t>(0xCD9E8D57u)), &low1, &high1);
    const IVec k0 = set_int(static_cast<int32_t>(key0));
    const IVec k1 = set_int(static_cast<int32_t>(key1));
    counter[0] = exclusive_or(exclusive_or(high1, counter[1]), k0);
    counter[1] = low1;
    counter[2] = exclusive_or(exclusive_or(high0, counter[3]), k1);
    counter[3] = low0;
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
}

inline void dropout(const DropoutArgs& args) {
  const Vec rate = set(args.rate);
  const Vec scale = set(args.scale);
  for (int64_t block = 0; block < args.row_blocks; ++block) {
    const IVec positions = load_int(args.positions + block * kLanes);
    for (int64_t f = 0; f < args.features; f += 4) {
      IVec words[4] = {set_int(static_cast<int32_t>(f / 4)), positions,
                       set_int(static_cast<int32_t>(args.epoch)),
                       set_int(static_cast<int32_t>(args.layer))};
      philox(words, args.key);
      const int64_t count = args.features - f < 4 ? args.features - f : 4;
      for (int64_t i = 0; i < count; ++i) {
        const int64_t at = (block * args.features + f + i) * kLanes;
        const Vec uniform =
            mul(to_float(shift_right_unsigned<8>(words[i])), set(1.0f / 16777216.0f));
        Vec y = keep(greater_equal(uniform, rate), mul(load(args.x + at), scale));
        if (args.mask != nullptr) y = keep(greater(load(args.mask + at), set(0.0f)), y);
        store(args.y + at, y);
      }
    }
  }
}

// `count` is a multiple of kLanes in both.
inline void relu(const float* x, float* out, int64_t count) {
  for (int64_t i = 0; i < count; i += kLanes) store(out + i, max(set(0.0f), load(x + i)));
}

inline void relu_gradient(const float* y, const float* dy, const float* mask, float* dx,
                          int64_t count) {
  for (int64_t i = 0; i < count; i += kLanes) {
    Vec result = keep(greater(load(y + i), set(0.0f)), load(dy + i));
    if (mask != nullptr) result = keep(greater(load(mask + i), set(0.0f)), result);
    store(dx + i, result);
  }
}

// The largest feature of each lane.
LOCKSTEP_SIMD Vec largest(const float* logits, int64_t classes) {
  Vec result = load(logits);
  for (int64_t c = 1; c < classes; ++c) result = max(load(logits + c * kLanes), result);
  return result;
}

inline void softmax(const float* logits, float* out, int64_t classes, int64_t row_blocks) {
  for (int64_t block = 0; block < row_blocks; ++block) {
    const float* z = logits + block * classes * kLanes;
    float* p = out + block * classes * kLanes;
    const Vec top = largest(z, classes);
    Vec sum = set(-0.0f);
    for (int64_t c = 0; c < classes; ++c) {
      const Vec e = math::exp_of<VectorOps>(sub(load(z + c * kLanes), top));
      sum = add(sum, e);
      store(p + c * kLanes, e);
    }
    for (int64_t c = 0; c < classes; ++c) {
      store(p + c * kLanes, div(load(p + c * kLanes), sum));
    }
  }
}

// One row block. `lanes` holds 0, 1, 2, …
inline void cross_entropy_block(const CrossEntropyArgs& args, int64_t block, IVec lanes) {
  const float* z = args.logits + block * args.classes * kLanes;
  float* dz = args.dlogits == nullptr ? nullptr : args.dlogits + block * args.classes * kLanes;
  const IVec labels = load_int(args.labels + block * kLanes);
  const Vec top = largest(z, args.classes);
  Vec sum = set(-0.0f);
  Vec at_label = set(0.0f);
  Vec hit = set(0.0f);
  Mask found = no_lanes();
  for (int64_t c = 0; c < args.classes; ++c) {
    const Vec logit = load(z + c * kLanes);
    const Vec shifted = sub(logit, top);
    const Vec e = math::exp_of<VectorOps>(shifted);
    sum = add(sum, e);
    if (dz != nullptr) store(dz + c * kLanes, e);
    const Mask is_label = equal_int(labels, set_int(static_cast<int32_t>(c)));
    const Mask is_top = equal(logit, top);
    at_label = select(is_label, shifted, at_label);
    hit = select(both(is_label, without(is_top, found)), set(1.0f), hit);
    found = either(found, is_top);
  }
  store(args.losses + block * kLanes, sub(math::log_of<VectorOps>(sum), at_label));
  store(args.hits + block * kLanes, hit);
  if (dz == nullptr) return;
  const Vec present = set(static_cast<float>(args.rows - block * kLanes));
  const Mask is_row = greater(present, to_float(lanes));
  for (int64_t c = 0; c < args.classes; ++c) {
    const Mask is_label = equal_int(labels, set_int(static_cast<int32_t>(c)));
    const Vec p = div(load(dz + c * kLanes), sum);
    const Vec difference = sub(p, keep(is_label, set(1.0f)));
    store(dz + c * kLanes, keep(is_row, mul(difference, set(args.scale))));
  }
}

inline void cross_entropy(const CrossEntropyArgs& args) {
  alignas(64) int32_t lanes[kLanes];
  for (int i = 0; i < kLanes; ++i) lanes[i] = i;
  for (int64_t block = 0; block * kLanes < args.rows; ++block) {
    cross_entropy_block(args, block, load_int(lanes));
  }
}

}  // namespace lockstep::cpu::LOCKSTEP_ISA
