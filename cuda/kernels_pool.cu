// Max pooling in NHWC; kWidth channels a thread. Formulas: host/cpu/kernels_pool.h.
#include "cuda/grid.h"
#include "cuda/kernels.h"

namespace lockstep {

namespace {

struct Window {
  int y_begin, y_end, x_begin, x_end;  // inside of the image
};

__device__ inline Window window_of(const MaxPool2dOp& op, int y, int x) {
  const int top = y * op.stride_height - op.pad_top;
  const int left = x * op.stride_width - op.pad_left;
  return {greater(top, 0), lesser(top + op.pool_height, op.in_height), greater(left, 0),
          lesser(left + op.pool_width, op.in_width)};
}

// The i-th piece of kWidth channels of an image of this size.
struct Place {
  int64_t row;
  int y, x, channel;
};

template <int kWidth>
__device__ inline Place place_of(uint32_t i, int height, int width, int channels) {
  const uint32_t pieces = static_cast<uint32_t>(channels / kWidth);
  const uint32_t pixel = i / pieces;
  const uint32_t line = pixel / static_cast<uint32_t>(width);
  const uint32_t row = line / static_cast<uint32_t>(height);
  return {row, static_cast<int>(line - row * static_cast<uint32_t>(height)),
          static_cast<int>(pixel - line * static_cast<uint32_t>(width)),
          static_cast<int>(i - pixel * pieces) * kWidth};
}

// The pixel's channels from `channel` on in a row's image.
__device__ inline const float* pixel_at(const float* image, int width, int channels, int y, int x,
                                        int channel) {
  return image + (static_cast<int64_t>(y) * width + x) * channels + channel;
}

template <int kWidth>
__global__ void max_pool_kernel(MaxPool2dOp op, const float* x, int64_t count, float* y) {
  const int64_t image_size = static_cast<int64_t>(op.in_height) * op.in_width * op.channels;
  for (int64_t i = thread_index(); i < count; i += thread_count()) {
    const Place at =
        place_of<kWidth>(static_cast<uint32_t>(i), op.out_height, op.out_width, op.channels);
    const Window window = window_of(op, at.y, at.x);
    const float* image = x + at.row * image_size;
    Floats<kWidth> best = load<kWidth>(
        pixel_at(image, op.in_width, op.channels, window.y_begin, window.x_begin, at.channel));
    for (int iy = window.y_begin; iy < window.y_end; ++iy) {
      for (int ix = window.x_begin; ix < window.x_end; ++ix) {
        const Floats<kWidth> entry =
            load<kWidth>(pixel_at(image, op.in_width, op.channels, iy, ix, at.channel));
        for (int j = 0; j < kWidth; ++j) {
          best.at[j] = entry.at[j] > best.at[j] ? entry.at[j] : best.at[j];
        }
      }
    }
    store(y + kWidth * i, best);
  }
}

struct PoolGradientArgs {
  const float* x;
  const float* y;
  const float* dy;
  const float* mask;  // or none
  float* dx;
  int64_t count;  // pieces of kWidth
};

// Takes the flag from those channels whose value stands earlier in the window than (y, x) too.
template <int kWidth>
__device__ inline void drop_later(const MaxPool2dOp& op, const float* image, const Window& window,
                                  const Place& at, const Floats<kWidth>& best,
                                  bool (&takes)[kWidth]) {
  for (int iy = window.y_begin; iy <= at.y; ++iy) {
    const int x_end = iy == at.y ? at.x : window.x_end;
    for (int ix = window.x_begin; ix < x_end; ++ix) {
      const Floats<kWidth> earlier =
          load<kWidth>(pixel_at(image, op.in_width, op.channels, iy, ix, at.channel));
      for (int j = 0; j < kWidth; ++j) {
        takes[j] = takes[j] && !(earlier.at[j] == best.at[j]);
      }
    }
  }
}

// The first and last window, along one axis, that an input lies in; first > last: none.
__device__ inline int first_window(int input, int pool, int stride, int pad) {
  return input + pad < pool ? 0 : (input + pad - pool) / stride + 1;
}
__device__ inline int last_window(int input, int stride, int pad, int windows) {
  return lesser((input + pad) / stride, windows - 1);
}

// Each input looks at its windows in order and takes the gradients of those where it is the first
// maximum: nothing is written twice.
template <int kWidth>
__global__ void max_pool_gradient_kernel(MaxPool2dOp op, PoolGradientArgs args) {
  const int64_t in_size = static_cast<int64_t>(op.in_height) * op.in_width * op.channels;
  const int64_t out_size = static_cast<int64_t>(op.out_height) * op.out_width * op.channels;
  for (int64_t i = thread_index(); i < args.count; i += thread_count()) {
    const Place at =
        place_of<kWidth>(static_cast<uint32_t>(i), op.in_height, op.in_width, op.channels);
    const float* image = args.x + at.row * in_size;
    const Floats<kWidth> self = load<kWidth>(args.x + kWidth * i);
    const int first_x = first_window(at.x, op.pool_width, op.stride_width, op.pad_left);
    const int last_x = last_window(at.x, op.stride_width, op.pad_left, op.out_width);
    const int first_y = first_window(at.y, op.pool_height, op.stride_height, op.pad_top);
    const int last_y = last_window(at.y, op.stride_height, op.pad_top, op.out_height);
    Floats<kWidth> total = {};
    for (int oy = first_y; oy <= last_y; ++oy) {
      for (int ox = first_x; ox <= last_x; ++ox) {
        const int64_t out = at.row * out_size +
                            (static_cast<int64_t>(oy) * op.out_width + ox) * op.channels +
                            at.channel;
        const Floats<kWidth> best = load<kWidth>(args.y + out);
        bool takes[kWidth];
        bool any = false;
        for (int j = 0; j < kWidth; ++j) {
          takes[j] = self.at[j] == best.at[j];
          any = any || takes[j];
        }
        if (!any) continue;
        const Floats<kWidth> gradient = load<kWidth>(args.dy + out);
        drop_later<kWidth>(op, image, window_of(op, oy, ox), at, best, takes);
        for (int j = 0; j < kWidth; ++j) {
          total.at[j] = takes[j] ? total.at[j] + gradient.at[j] : total.at[j];
        }
      }
    }
    if (args.mask != nullptr) {
      const Floats<kWidth> gate = load<kWidth>(args.mask + kWidth * i);
      for (int j = 0; j < kWidth; ++j) total.at[j] = keep(gate.at[j] > 0.0f, total.at[j]);
    }
    store(args.dx + kWidth * i, total);
  }
}

// Every window has an entry inside of the image.
void check_windows(const MaxPool2dOp& op) {
  LOCKSTEP_CHECK(op.pad_top >= 0 && op.pad_top < op.pool_height);
  LOCKSTEP_CHECK(op.pad_left >= 0 && op.pad_left < op.pool_width);
  LOCKSTEP_CHECK((op.out_height - 1) * op.stride_height - op.pad_top < op.in_height);
  LOCKSTEP_CHECK((op.out_width - 1) * op.stride_width - op.pad_left < op.in_width);
}

}  // namespace

Status launch_max_pool(const MaxPool2dOp& op, const float* x, int rows, float* y,
                       cudaStream_t stream) {
  check_windows(op);
  const int64_t in_size = int64_t{op.in_height} * op.in_width * op.channels;
  const int64_t out_size = int64_t{op.out_height} * op.out_width * op.channels;
  return for_row_pieces(rows, std::max(in_size, out_size), [&](int64_t first, int64_t count) {
    const float* piece_x = x + first * in_size;
    float* piece_y = y + first * out_size;
    const bool vectors = op.channels % kVector == 0 && vector_aligned({piece_x, piece_y});
    const int64_t threads = count * out_size / (vectors ? kVector : 1);
    return launch("max_pool_kernel", vectors ? max_pool_kernel<kVector> : max_pool_kernel<1>,
                  loop_shape(threads), stream, op, piece_x, threads, piece_y);
  });
}

Status launch_max_pool_gradient(const MaxPool2dOp& op, const float* x, const float* y,
                                const float* dy, const float* mask, int rows, float* dx,
                                cudaStream_t stream) {
  check_windows(op);
  const int64_t in_size = int64_t{op.in_height} * op.in_width * op.channels;
  const int64_t out_size = int64_t{op.out_height} * op.out_width * op.channels;
  return for_row_pieces(rows, std::max(in_size, out_size), [&](int64_t first, int64_t count) {
    PoolGradientArgs args;
    args.x = x + first * in_size;
    args.y = y + first * out_size;
    args.dy = dy + first * out_size;
    args.mask = mask == nullptr ? nullptr : mask + first * in_size;
    args.dx = dx + first * in_size;
    const bool vectors =
        op.channels % kVector == 0 && vector_aligned({args.x, args.y, args.dy, args.mask, args.dx});
    args.count = count * in_size / (vectors ? kVector : 1);
    return launch("max_pool_gradient_kernel",
                  vectors ? max_pool_gradient_kernel<kVector> : max_pool_gradient_kernel<1>,
                  loop_shape(args.count), stream, op, args);
  });
}

}  // namespace lockstep
