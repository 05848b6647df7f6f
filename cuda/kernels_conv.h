// Own convolutions for layers of few channels, where a vendor's deterministic FP32 kernels cannot
// fill their tiles. The kernel is read as it lies in the weights (Keras' HWIO) and its gradient is
// written so; bias, relu and relu's mask are part of the pass.
//
// Conventions as in cuda/kernels.h: float32 in device memory, activations NHWC, no atomics, every
// output the sum in one order that is a function of the shapes alone. Products and sums are
// float32 FMAs. x, y, dx and dy are aligned to 16 bytes, the others to 4.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "host/core/result.h"
#include "host/device/ops.h"

namespace lockstep {

// Whether `op.pass` of `op` is better done here than by cuDNN. A function of the shapes alone.
bool small_conv_suits(const Conv2dOp& op, int rows);

// How outputs are shared out among threads, forward and for the data gradient; decides no bits.
struct ConvTile {
  int channels = 4;   // of a thread: 4, 8, 12 or 16
  int pixels = 1;     // of a thread, one below the other: 1 or 2, up to 8 channels 4 as well
  int threads = 128;  // a block
};
ConvTile conv_tile(const Conv2dOp& op, int rows);

// y = activation(x * kernel + bias), as Conv2dOp says; bias may be nullptr.
Status launch_conv(const Conv2dOp& op, const ConvTile& tile, int rows, const float* x,
                   const float* kernel, const float* bias, float* y, cudaStream_t stream);

// dx = dy * the kernel turned around, zero where mask is not positive; mask (of dx's shape) may be
// nullptr.
Status launch_conv_data_gradient(const Conv2dOp& op, const ConvTile& tile, int rows,
                                 const float* dy, const float* kernel, const float* mask, float* dx,
                                 cudaStream_t stream);

// How the sum over rows and pixels is cut. It decides the order of the sum, hence bits.
struct ConvGradientPlan {
  // Of one thread: columns of the kernel (3 or 5: all of them; 1), channels in, channels out.
  int columns = 1, in = 1, out = 1;
  int members = 1;       // threads that hold the whole kernel's gradient together: a set
  int tile_members = 1;  // those of them in one block
  int tiles = 1;         // members / tile_members, rounded up
  int sets = 1;          // a block
  int segments = 1;      // that a row of output pixels is cut into; a set takes them one by one
  int splits = 1;        // partial sums; blocks / tiles
};
struct ConvGradientOptions {
  int threads = 256;    // of a block, at most (256)
  int segments = 0;     // 0: chosen
  int most_blocks = 0;  // 0: chosen
};
ConvGradientPlan plan_conv_gradient(const Conv2dOp& op, int rows,
                                    const ConvGradientOptions& options = {});
// Floats of scratch.
int64_t conv_gradient_scratch(const Conv2dOp& op, const ConvGradientPlan& plan);

// The gradients of kernel and bias (bias_gradient may be nullptr).
Status launch_conv_weight_gradient(const Conv2dOp& op, const ConvGradientPlan& plan, int rows,
                                   const float* x, const float* dy, float* scratch,
                                   float* kernel_gradient, float* bias_gradient,
                                   cudaStream_t stream);

}  // namespace lockstep
