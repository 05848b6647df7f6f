// Own kernels: the formulas of host/device/ops.h with the roundings of host/cpu/pins.h, so that
// their bits are the CPU's. Built without FMA contraction: an FMA is where the source says so.
//
// All pointers are to memory of the current device unless a comment says otherwise; a value of
// `rows` rows lies row by row, features in Keras' (C) order, which for images is NHWC. The calls
// return once the kernel is launched, in the order of `stream`; what fails later is the stream's to
// report. No kernel uses atomics: each output element is written by one thread, in a fixed order
// that is a function of the shapes alone.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <span>

#include "cuda/bf16.h"
#include "host/core/result.h"
#include "host/device/flat_sums.h"
#include "host/device/ops.h"
#include "host/device/sum_terms.h"

namespace lockstep {

// What changes from run to run of a recorded program; lies in device memory.
struct RunParameters {
  uint64_t seed = 0;
  uint32_t epoch = 0;
  float loss_scale = 1;
};

// out[i] = a[i] + b[i]; out may be a.
Status launch_add(const float* a, const float* b, float* out, int64_t count, cudaStream_t stream);

inline constexpr int kMaxSumTerms = 64;  // a launch; the host folds longer sums
inline constexpr int kMaxSumDepth = 8;   // entries on the stack
// out[i] = the sum of terms[...].values[i], `count` elements. out may be one of the terms' values.
Status launch_sum(std::span<const SumTerm> terms, int64_t count, float* out, cudaStream_t stream);

// One optimizer step over `count` parameters. Slots: Adam m, v; SGD its momentum, or none where the
// momentum is 0.
Status launch_update(const UpdateDesc& desc, const float* gradient, float* weights,
                     std::span<float* const> slots, int64_t count, cudaStream_t stream);

// sums[block * stride] = the sum of the squares of a block of x: host/device/flat_sums.h.
Status launch_squares(const float* x, int64_t count, int64_t stride, double* sums,
                      cudaStream_t stream);

// All outputs of a sum along an axis: host/device/flat_sums.h.
Status launch_sum_axis(const float* x, const AxisSum& sum, float* out, cudaStream_t stream);

// The lanes of every block of the state (host/device/state_digest.h): `lanes` gets
// ceil(count / kDigestBlock) * 16 words.
Status launch_digest(const float* weights, std::span<const float* const> slots, int64_t count,
                     uint32_t* lanes, cudaStream_t stream);

// y[r][c] = activation(x[r][c] + bias[c]); bias may be nullptr; y may be x.
Status launch_bias_activation(const float* x, const float* bias, Activation activation,
                              int64_t rows, int64_t channels, float* y, cudaStream_t stream);

// out[c] = the sum over r of x[r][c], in an order that depends on rows and channels alone; up to 64
// rows are added in order, as the CPU adds the rows of a partition.
// `scratch` holds column_sums_scratch(rows, channels) floats (may be 0: then nullptr will do).
int64_t column_sums_scratch(int64_t rows, int64_t channels);
Status launch_column_sums(const float* x, int64_t rows, int64_t channels, float* scratch,
                          float* out, cudaStream_t stream);

// out[c][r] = in[r][c].
Status launch_transpose(const float* in, int64_t rows, int64_t columns, float* out,
                        cudaStream_t stream);

// out[i] = in[i], rounded (cuda/bf16.h) or exactly.
Status launch_to_bf16(const float* in, int64_t count, Bf16* out, cudaStream_t stream);
Status launch_from_bf16(const Bf16* in, int64_t count, float* out, cudaStream_t stream);

// values[i] = mask[i] > 0 ? values[i] : 0.
Status launch_mask(const float* mask, int64_t count, float* values, cudaStream_t stream);

// As MaxPool2dOp says; mask may be nullptr (OpDesc::relu_mask).
Status launch_max_pool(const MaxPool2dOp& op, const float* x, int rows, float* y,
                       cudaStream_t stream);
Status launch_max_pool_gradient(const MaxPool2dOp& op, const float* x, const float* y,
                                const float* dy, const float* mask, int rows, float* dx,
                                cudaStream_t stream);

// As DropoutOp says, forward and gradient alike: out = kept ? in / (1 - rate) : 0, then the mask.
// `positions` holds one a row.
Status launch_dropout(const DropoutOp& op, const RunParameters* parameters,
                      const uint32_t* positions, const float* in, const float* mask, int rows,
                      float* out, cudaStream_t stream);

Status launch_relu(const float* x, int64_t count, float* y, cudaStream_t stream);
Status launch_relu_gradient(const float* y, const float* dy, const float* mask, int64_t count,
                            float* dx, cudaStream_t stream);

Status launch_softmax(const float* logits, int rows, int64_t classes, float* probabilities,
                      cudaStream_t stream);

// As SoftmaxCrossEntropyOp says, for one partition of `rows` rows: dlogits (rows x classes;
// nullptr: only measures; may be logits), metrics[0] = sum of the losses, metrics[1] = rows that
// are hit, rows in order. Without rows, nothing is written. Labels lie in [0, classes): the caller
// looks. `scratch` holds 2 * rows floats.
Status launch_cross_entropy(const float* logits, const int32_t* labels,
                            const RunParameters* parameters, int rows, int64_t classes,
                            float* dlogits, float* scratch, float* metrics, cudaStream_t stream);

}  // namespace lockstep
