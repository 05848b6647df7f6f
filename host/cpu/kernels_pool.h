// Max pooling, channels and rows in vectors. Part of each instruction set's kernels.
#pragma once

#include "host/cpu/kernels.h"

namespace lockstep::cpu::LOCKSTEP_ISA {

struct PoolWindow {
  int64_t y_begin, y_end, x_begin, x_end;  // inside of the image
};

inline PoolWindow pool_window(const PoolArgs& args, int64_t y, int64_t x) {
  PoolWindow window;
  window.y_begin = y * args.stride_height - args.pad_top;
  window.x_begin = x * args.stride_width - args.pad_left;
  window.y_end = window.y_begin + args.pool_height;
  window.x_end = window.x_begin + args.pool_width;
  if (window.y_end > args.in_height) window.y_end = args.in_height;
  if (window.x_end > args.in_width) window.x_end = args.in_width;
  if (window.y_begin < 0) window.y_begin = 0;
  if (window.x_begin < 0) window.x_begin = 0;
  return window;
}

inline void pool_forward(const PoolArgs& args) {
  const int64_t pixel = args.channels * kLanes;
  for (int64_t block = 0; block < args.row_blocks; ++block) {
    const float* image = args.x + block * args.in_height * args.in_width * pixel;
    float* out = args.out + block * args.out_height * args.out_width * pixel;
    for (int64_t i = 0; i < args.out_height * args.out_width; ++i) {
      const PoolWindow window = pool_window(args, i / args.out_width, i % args.out_width);
      for (int64_t c = 0; c < pixel; c += kLanes) {
        Vec best = load(image + (window.y_begin * args.in_width + window.x_begin) * pixel + c);
        for (int64_t y = window.y_begin; y < window.y_end; ++y) {
          for (int64_t x = window.x_begin; x < window.x_end; ++x) {
            best = max(load(image + (y * args.in_width + x) * pixel + c), best);
          }
        }
        store(out + i * pixel + c, best);
      }
    }
  }
}

// Gives each window's dy to the first of its entries that equals y.
inline void pool_backward_window(const PoolArgs& args, const PoolWindow& window, const float* image,
                                 const float* y, const float* dy, float* dx) {
  const int64_t pixel = args.channels * kLanes;
  for (int64_t c = 0; c < pixel; c += kLanes) {
    const Vec best = load(y + c);
    const Vec gradient = load(dy + c);
    Mask found = no_lanes();
    for (int64_t iy = window.y_begin; iy < window.y_end; ++iy) {
      for (int64_t ix = window.x_begin; ix < window.x_end; ++ix) {
        const int64_t at = (iy * args.in_width + ix) * pixel + c;
        const Mask here = equal(load(image + at), best);
        const Mask takes = without(here, found);
        found = either(found, here);
        const Vec old = load(dx + at);
        store(dx + at, select(takes, add(old, gradient), old));
      }
    }
  }
}

inline void pool_backward(const PoolArgs& args) {
  const int64_t pixel = args.channels * kLanes;
  const int64_t in_block = args.in_height * args.in_width * pixel;
  const int64_t out_block = args.out_height * args.out_width * pixel;
  for (int64_t block = 0; block < args.row_blocks; ++block) {
    const float* image = args.x + block * in_block;
    float* dx = args.out + block * in_block;
    for (int64_t i = 0; i < in_block; i += kLanes) store(dx + i, set(0.0f));
    for (int64_t i = 0; i < args.out_height * args.out_width; ++i) {
      const int64_t at = block * out_block + i * pixel;
      pool_backward_window(args, pool_window(args, i / args.out_width, i % args.out_width), image,
                           args.y + at, args.dy + at, dx);
    }
    if (args.mask == nullptr) continue;
    const float* mask = args.mask + block * in_block;
    for (int64_t i = 0; i < in_block; i += kLanes) {
      store(dx + i, keep(greater(load(mask + i), set(0.0f)), load(dx + i)));
    }
  }
}

}  // namespace lockstep::cpu::LOCKSTEP_ISA
