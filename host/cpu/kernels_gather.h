// Gathering features by index lists, rows in vectors. Part of each instruction set's kernels.
#pragma once

#include <cstring>

#include "host/cpu/kernels.h"

namespace lockstep::cpu::LOCKSTEP_ISA {

LOCKSTEP_SIMD const float* gathered(const GatherArgs& args, int64_t k) {
  const float* base = args.bases[args.input == nullptr ? 0 : args.input[k]];
  return base + args.index[k] * int64_t{kLanes};
}

// kCount outputs whose lists are elements [begin, end), the first shifted by `shift` features.
template <int kCount, bool kMaximum>
LOCKSTEP_SIMD void gather_lists(const GatherArgs& args, int64_t begin, int64_t end, int64_t shift,
                                float* y) {
  Vec acc[kCount];
  const float* x = gathered(args, begin) + shift * kLanes;
#pragma GCC unroll 8
  for (int i = 0; i < kCount; ++i) acc[i] = load(x + i * kLanes);
  if (args.factor != nullptr) {
    const Vec factor = broadcast(args.factor + begin);
#pragma GCC unroll 8
    for (int i = 0; i < kCount; ++i) acc[i] = mul(acc[i], factor);
  }
  for (int64_t k = begin + 1; k < end; ++k) {
    x = gathered(args, k) + shift * kLanes;
    const Vec factor = args.factor != nullptr ? broadcast(args.factor + k) : set(1.0f);
#pragma GCC unroll 8
    for (int i = 0; i < kCount; ++i) {
      const Vec value = load(x + i * kLanes);
      acc[i] = kMaximum ? max(mul(value, factor), acc[i]) : fma(value, factor, acc[i]);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < kCount; ++i) store(y + i * kLanes, acc[i]);
}

template <bool kMaximum>
inline void gather_parallel(const GatherArgs& args, const GatherSegment& segment, float* y) {
  const int64_t begin = args.begin[segment.output];
  const int64_t end = args.begin[segment.output + 1];
  int64_t i = 0;
  for (; i + 8 <= segment.count; i += 8) {
    gather_lists<8, kMaximum>(args, begin, end, i, y + i * kLanes);
  }
  for (; i < segment.count; ++i) gather_lists<1, kMaximum>(args, begin, end, i, y + i * kLanes);
}

template <bool kMaximum>
inline void gather_segment(const GatherArgs& args, const GatherSegment& segment, float* y) {
  const int64_t* begin = args.begin + segment.output;
  switch (segment.kind) {
    case GatherKind::fill:
      for (int64_t i = 0; i < segment.count; ++i) store(y + i * kLanes, set(args.fill));
      return;
    case GatherKind::copy: {
      const size_t bytes = static_cast<size_t>(segment.count * kLanes) * sizeof(float);
      std::memcpy(y, gathered(args, *begin), bytes);
      return;
    }
    case GatherKind::parallel:
      return gather_parallel<kMaximum>(args, segment, y);
    case GatherKind::single:
      for (int64_t i = 0; i < segment.count; ++i) {
        store(y + i * kLanes, load(gathered(args, *begin + i)));
      }
      return;
    case GatherKind::lists:
      for (int64_t i = 0; i < segment.count; ++i) {
        gather_lists<1, kMaximum>(args, begin[i], begin[i + 1], 0, y + i * kLanes);
      }
      return;
  }
}

template <bool kMaximum>
inline void gather_block(const GatherArgs& args, float* y) {
  for (int64_t i = 0; i < args.segment_count; ++i) {
    const GatherSegment& segment = args.segments[i];
    gather_segment<kMaximum>(args, segment, y + segment.output * kLanes);
  }
}

inline void gather(const GatherArgs& args) {
  for (int64_t block = 0; block < args.row_blocks; ++block) {
    for (int i = 0; i < args.input_count; ++i) {
      args.bases[i] = args.x[i] + block * args.input_features[i] * kLanes;
    }
    float* y = args.y + block * args.outputs * kLanes;
    if (args.maximum) {
      gather_block<true>(args, y);
    } else {
      gather_block<false>(args, y);
    }
  }
}

// Gives dy of output o to the first element of its list that equals y, or parts to all that do.
template <bool kSplit>
LOCKSTEP_SIMD void scatter_maximum(const GatherMaximumGradientArgs& args, int64_t o, const float* x,
                                   Vec y, Vec dy, float* dx) {
  const int32_t* const begin = args.index + args.begin[o];
  const int32_t* const end = args.index + args.begin[o + 1];
  if constexpr (kSplit) {
    Vec ties = set(0.0f);
    for (const int32_t* k = begin; k < end; ++k) {
      ties = add(ties, keep(equal(load(x + *k * int64_t{kLanes}), y), set(1.0f)));
    }
    dy = div(dy, ties);
  }
  Mask found = no_lanes();
  for (const int32_t* k = begin; k < end; ++k) {
    const int64_t at = *k * int64_t{kLanes};
    Mask takes = equal(load(x + at), y);
    if constexpr (!kSplit) {
      const Mask here = takes;
      takes = without(here, found);
      found = either(found, here);
    }
    const Vec old = load(dx + at);
    store(dx + at, select(takes, add(old, dy), old));
  }
}

template <bool kSplit>
inline void gather_maximum_gradient_of(const GatherMaximumGradientArgs& args) {
  for (int64_t block = 0; block < args.row_blocks; ++block) {
    const float* x = args.x + block * args.inputs * kLanes;
    float* dx = args.dx + block * args.inputs * kLanes;
    for (int64_t i = 0; i < args.inputs; ++i) store(dx + i * kLanes, set(0.0f));
    for (int64_t o = 0; o < args.outputs; ++o) {
      const int64_t at = (block * args.outputs + o) * kLanes;
      scatter_maximum<kSplit>(args, o, x, load(args.y + at), load(args.dy + at), dx);
    }
    if (args.mask == nullptr) continue;
    const float* mask = args.mask + block * args.inputs * kLanes;
    for (int64_t i = 0; i < args.inputs * kLanes; i += kLanes) {
      store(dx + i, keep(greater(load(mask + i), set(0.0f)), load(dx + i)));
    }
  }
}

inline void gather_maximum_gradient(const GatherMaximumGradientArgs& args) {
  if (args.split_ties) {
    gather_maximum_gradient_of<true>(args);
  } else {
    gather_maximum_gradient_of<false>(args);
  }
}

}  // namespace lockstep::cpu::LOCKSTEP_ISA
