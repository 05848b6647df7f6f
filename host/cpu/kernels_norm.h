// Sums over the features of a channel, and batch normalization; rows in vectors. Part of each
// instruction set's kernels.
#pragma once

#include "host/cpu/kernels.h"
#include "host/cpu/pins.h"

namespace lockstep::cpu::LOCKSTEP_ISA {

// Channels that are summed side by side.
inline constexpr int kChannelTile = kLanes == 16 ? 8 : 4;

// Calls visit(offset in floats) for the terms [t, end) of channel c.
template <class Visit>
LOCKSTEP_SIMD void each_term(const ChannelShape& shape, int64_t c, int64_t t, int64_t end,
                             const Visit& visit) {
  if (shape.divisor == 1) {
    for (; t < end; ++t) visit((t * shape.channels + c) * kLanes);
    return;
  }
  while (t < end) {
    const int64_t period = t / shape.divisor, used = t % shape.divisor;
    int64_t at = ((period * shape.channels + c) * shape.divisor + used) * kLanes;
    int64_t run = shape.divisor - used;
    if (run > end - t) run = end - t;
    t += run;
    for (int64_t i = 0; i < run; ++i, at += kLanes) visit(at);
  }
}

// Calls visit(t, end) for each block of terms.
template <class Visit>
LOCKSTEP_SIMD void each_block(const ChannelShape& shape, const Visit& visit) {
  for (int64_t t = 0; t < shape.terms; t += kSumBlock) {
    visit(t, t + kSumBlock < shape.terms ? t + kSumBlock : shape.terms);
  }
}

// Calls tile.template operator()<kC>(c) for tiles of all channels.
template <class Tile>
LOCKSTEP_SIMD void each_tile(int64_t channels, const Tile& tile) {
  int64_t c = 0;
  for (; c + kChannelTile <= channels; c += kChannelTile) tile.template operator()<kChannelTile>(c);
  for (; c < channels; ++c) tile.template operator()<1>(c);
}

// Sums of the terms [t, end) of kC channels from c on.
template <int kC>
LOCKSTEP_SIMD void sum_block(const ChannelSumArgs& args, int64_t c, int64_t t, int64_t end,
                             Vec (&sum)[kC]) {
  const int64_t step = args.shape.divisor * kLanes;
#pragma GCC unroll 8
  for (int k = 0; k < kC; ++k) sum[k] = set(-0.0f);
  each_term(args.shape, c, t, end, [&](int64_t at) {
#pragma GCC unroll 8
    for (int k = 0; k < kC; ++k) sum[k] = add(sum[k], load(args.x + at + k * step));
  });
}

template <int kC>
LOCKSTEP_SIMD void store_channels(float* to, int64_t c, const Vec (&values)[kC]) {
#pragma GCC unroll 8
  for (int k = 0; k < kC; ++k) store(to + (c + k) * kLanes, values[k]);
}

template <int kC>
inline void channel_sums_tile(const ChannelSumArgs& args, int64_t c) {
  Vec total[kC];
#pragma GCC unroll 8
  for (int k = 0; k < kC; ++k) total[k] = set(-0.0f);
  each_block(args.shape, [&](int64_t t, int64_t end) {
    Vec sum[kC];
    sum_block<kC>(args, c, t, end, sum);
#pragma GCC unroll 8
    for (int k = 0; k < kC; ++k) total[k] = add(total[k], sum[k]);
  });
  store_channels<kC>(args.sums, c, total);
}

inline void channel_sums(const ChannelSumArgs& args) {
  each_tile(args.shape.channels, [&]<int kC>(int64_t c) { channel_sums_tile<kC>(args, c); });
}

// Squared deviations of the terms [t, end) from `mean`.
template <int kC>
LOCKSTEP_SIMD void deviations_block(const ChannelSumArgs& args, int64_t c, int64_t t, int64_t end,
                                    const Vec (&mean)[kC], Vec (&sum)[kC]) {
  const int64_t step = args.shape.divisor * kLanes;
#pragma GCC unroll 8
  for (int k = 0; k < kC; ++k) sum[k] = set(0.0f);
  each_term(args.shape, c, t, end, [&](int64_t at) {
#pragma GCC unroll 8
    for (int k = 0; k < kC; ++k) {
      const Vec d = sub(load(args.x + at + k * step), mean[k]);
      sum[k] = fma(d, d, sum[k]);
    }
  });
}

// One pass over memory: a block is in L1 when its deviations are taken.
template <int kC>
inline void channel_moments_tile(const ChannelSumArgs& args, int64_t c) {
  Vec total[kC], squares[kC];
#pragma GCC unroll 8
  for (int k = 0; k < kC; ++k) total[k] = squares[k] = set(-0.0f);
  each_block(args.shape, [&](int64_t t, int64_t end) {
    Vec sum[kC], mean[kC], block_squares[kC];
    sum_block<kC>(args, c, t, end, sum);
    const float count = static_cast<float>(end - t), before = static_cast<float>(t);
#pragma GCC unroll 8
    for (int k = 0; k < kC; ++k) mean[k] = mul(sum[k], set(1 / count));
    deviations_block<kC>(args, c, t, end, mean, block_squares);
    const Vec weight = set(before * (count / (before + count)));
#pragma GCC unroll 8
    for (int k = 0; k < kC; ++k) {
      if (t > 0) {
        const Vec d = sub(mean[k], mul(total[k], set(1 / before)));
        block_squares[k] = fma(mul(d, d), weight, block_squares[k]);
      }
      squares[k] = add(squares[k], block_squares[k]);
      total[k] = add(total[k], sum[k]);
    }
  });
  store_channels<kC>(args.sums, c, total);
  store_channels<kC>(args.second, c, squares);
}

inline void channel_moments(const ChannelSumArgs& args) {
  if (args.shape.terms == 1) {  // what the tiles would do
    for (int64_t i = 0; i < args.shape.channels * kLanes; i += kLanes) {
      store(args.sums + i, load(args.x + i));
      store(args.second + i, set(0.0f));
    }
    return;
  }
  each_tile(args.shape.channels, [&]<int kC>(int64_t c) { channel_moments_tile<kC>(args, c); });
}

inline void move_moments(const ChannelSumArgs& args) {
  const float terms = static_cast<float>(args.shape.terms);
  for (int64_t i = 0; i < args.shape.channels * kLanes; i += kLanes) {
    const Vec d = sub(mul(load(args.sums + i), set(1 / terms)), load(args.mean + i));
    store(args.second + i, fma(mul(d, d), set(terms), load(args.second + i)));
  }
}

template <int kC>
inline void channel_gradients_tile(const ChannelSumArgs& args, int64_t c) {
  const int64_t step = args.shape.divisor * kLanes;
  Vec total[kC], products[kC], mean[kC];
#pragma GCC unroll 8
  for (int k = 0; k < kC; ++k) {
    mean[k] = load(args.mean + (c + k) * kLanes);
    total[k] = products[k] = set(-0.0f);
  }
  each_block(args.shape, [&](int64_t t, int64_t end) {
    Vec sum[kC], product[kC];
#pragma GCC unroll 8
    for (int k = 0; k < kC; ++k) sum[k] = product[k] = set(-0.0f);
    each_term(args.shape, c, t, end, [&](int64_t at) {
#pragma GCC unroll 8
      for (int k = 0; k < kC; ++k) {
        const Vec dy = load(args.dy + at + k * step);
        sum[k] = add(sum[k], dy);
        product[k] = fma(dy, sub(load(args.x + at + k * step), mean[k]), product[k]);
      }
    });
#pragma GCC unroll 8
    for (int k = 0; k < kC; ++k) {
      total[k] = add(total[k], sum[k]);
      products[k] = add(products[k], product[k]);
    }
  });
  store_channels<kC>(args.sums, c, total);
  store_channels<kC>(args.second, c, products);
}

inline void channel_gradients(const ChannelSumArgs& args) {
  each_tile(args.shape.channels, [&]<int kC>(int64_t c) { channel_gradients_tile<kC>(args, c); });
}

// Calls run(c)(offset in floats) for all features: run gets ready for `divisor` of channel c.
template <class Run>
LOCKSTEP_SIMD void each_feature(const ChannelShape& shape, const Run& run) {
  for (int64_t at = 0; at < shape.features * kLanes;) {
    if (shape.divisor == 1) {
      for (int64_t c = 0; c < shape.channels; ++c, at += kLanes) run(c * kLanes)(at);
    } else {
      for (int64_t c = 0; c < shape.channels; ++c) {
        const auto feature = run(c * kLanes);
        for (int64_t i = 0; i < shape.divisor; ++i, at += kLanes) feature(at);
      }
    }
  }
}

inline void normalize(const NormalizeArgs& args) {
  each_feature(args.shape, [&](int64_t c) {
    const Vec mean = load(args.mean + c), scale = load(args.scale + c),
              shift = load(args.shift + c);
    return [=, &args](int64_t at) {
      store(args.y + at, fma(sub(load(args.x + at), mean), scale, shift));
    };
  });
}

template <bool kMask>
inline void normalize_gradient_of(const NormalizeGradientArgs& args) {
  each_feature(args.shape, [&](int64_t c) {
    const Vec mean = load(args.mean + c), scale = load(args.scale + c);
    const Vec a = load(args.a + c), b = load(args.b + c);
    return [=, &args](int64_t at) {
      const Vec rest = fma(sub(mean, load(args.x + at)), b, sub(load(args.dy + at), a));
      Vec dx = mul(scale, rest);
      if constexpr (kMask) dx = keep(greater(load(args.mask + at), set(0.0f)), dx);
      store(args.dx + at, dx);
    };
  });
}

inline void normalize_gradient(const NormalizeGradientArgs& args) {
  if (args.mask != nullptr) {
    normalize_gradient_of<true>(args);
  } else {
    normalize_gradient_of<false>(args);
  }
}

}  // namespace lockstep::cpu::LOCKSTEP_ISA
