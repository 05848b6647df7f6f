// The table of one instruction set. Included once by each kernels_*.cc, after its simd_*.h.
#pragma once

#include "host/cpu/kernels_conv.h"
#include "host/cpu/kernels_conv_gradient.h"
#include "host/cpu/kernels_conv_taps.h"
#include "host/cpu/kernels_dense.h"
#include "host/cpu/kernels_dense_gradient.h"
#include "host/cpu/kernels_elementwise.h"
#include "host/cpu/kernels_flat.h"
#include "host/cpu/kernels_gather.h"
#include "host/cpu/kernels_layout.h"
#include "host/cpu/kernels_map.h"
#include "host/cpu/kernels_matrix.h"
#include "host/cpu/kernels_norm.h"
#include "host/cpu/kernels_pool.h"
#include "host/cpu/kernels_update.h"

namespace lockstep::cpu::LOCKSTEP_ISA {

inline constexpr KernelTable kKernels = {
    .lanes = kLanes,
    .dense_forward_workspace = dense_forward_workspace,
    .dense_forward = dense_forward,
    .dense_data_gradient = dense_data_gradient,
    .dense_gradient_workspace = dense_gradient_workspace,
    .dense_weight_gradient = dense_weight_gradient,
    .correlate = correlate,
    .conv_weight_gradient = conv_weight_gradient,
    .correlate_taps = correlate_taps,
    .tap_weight_gradient = tap_weight_gradient,
    .conv_bias_gradient = conv_bias_gradient,
    .lane_reduce = lane_reduce,
    .pool_forward = pool_forward,
    .pool_backward = pool_backward,
    .dropout = dropout,
    .relu = relu,
    .relu_gradient = relu_gradient,
    .softmax = softmax,
    .cross_entropy = cross_entropy,
    .rows_to_lanes = rows_to_lanes,
    .lanes_to_rows = lanes_to_rows,
    .spread = spread,
    .map = map,
    .evaluate = evaluate,
    .gather = gather,
    .gather_maximum_gradient = gather_maximum_gradient,
    .channel_sums = channel_sums,
    .channel_moments = channel_moments,
    .channel_gradients = channel_gradients,
    .move_moments = move_moments,
    .normalize = normalize,
    .normalize_gradient = normalize_gradient,
    .matmul = matmul,
    .embedding = embedding,
    .add = add_flat,
    .adam = adam,
    .sgd = sgd,
    .digest = digest,
    .squares = squares,
    .sum_axis = sum_axis,
    .product = product,
    .exp = exp_flat,
    .log = log_flat,
    .fma_loop = fma_loop,
};

}  // namespace lockstep::cpu::LOCKSTEP_ISA
