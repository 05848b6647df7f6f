// cuDNN's operation graph of a convolution's pass.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cuda/conv_plan.h"

namespace lockstep {

// The tensors' names in a graph and in the variant pack. kConvolved and kBiased exist inside of a
// fused graph only.
enum ConvUid : int64_t { kX = 1, kKernel = 2, kBias = 3, kY = 4, kConvolved = 5, kBiased = 6 };

// What a forward graph does after the convolution.
struct ConvFusion {
  bool bias = false;
  bool relu = false;
};

// "forward of 32x28x28x1 by 4x3x3x1 to 32x26x26x4, strides 1x1, padding 0x0": activations NHWC, the
// kernel KRSC.
std::string describe_conv_graph(const Conv2dOp& op, int64_t rows);

// Fails where the output is larger than the windows that touch the image: cuDNN would take it for
// more padding.
Status check_conv_shapes(const Conv2dOp& op, int64_t rows);

// The descriptors of the graph of op.pass, finalized; the last is the graph itself.
Result<std::vector<CudnnDescriptor>> build_conv_graph(const CudnnTarget& target, const Conv2dOp& op,
                                                      int64_t rows, const ConvPlanOptions& options,
                                                      const ConvFusion& fusion);

}  // namespace lockstep
