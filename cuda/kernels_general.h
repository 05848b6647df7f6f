// Own kernels of the general ops (MapOp to RowSumOp in host/device/ops.h), one partition each. As
// kernels.h says of all of them; expressions, gathers and matrices have the bits of the formulas
// evaluated as they stand, with fmaf in matrices only.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "cuda/expression_plan.h"
#include "cuda/handle.h"
#include "cuda/kernels.h"

namespace lockstep {

// out[k][i] = output k of the expression for operands[...][i], `count` elements. Outputs may be
// operands. Scalars as many as the plan has; an expression with random numbers is refused.
Status launch_expression(const ExpressionPlan& plan, std::span<const float* const> operands,
                         std::span<const float> scalars, std::span<float* const> outputs,
                         int64_t count, cudaStream_t stream);

struct MapMemory {
  std::span<const float* const> operands;  // one of op.operands each: an input or parameters
  const RunParameters* parameters = nullptr;
  const uint32_t* positions = nullptr;  // one a row; read where there are random numbers
  const float* mask = nullptr;          // or none
  float* y = nullptr;
};
// `plan` is that of op.expression. y may be an operand or the mask, if that is broadcast to no
// other element.
Status launch_map_op(const MapOp& op, const ExpressionPlan& plan, const MapMemory& memory, int rows,
                     cudaStream_t stream);

// to[row] = columns [offset, offset + count) of from[row], which has `columns`.
Status launch_columns(const float* from, int64_t columns, int64_t offset, int64_t count, int rows,
                      float* to, cudaStream_t stream);

// Index lists in the memory of a device.
struct DeviceLists {
  std::shared_ptr<const IndexLists> host;
  MemoryHandle memory;
  const int32_t* source = nullptr;  // of copies: what each output is, -1: filled
  const int32_t* begin = nullptr;   // else: outputs + 1
  const int32_t* index = nullptr;
  const float* factor = nullptr;  // or none
  bool runs = false;              // most elements lie right behind the one before them
  int64_t longest = 0;
  int64_t bytes = 0;
};
// Where no list has more than one element, a gather needs the sources only.
enum class ListForm { sources_or_lists, lists };
// Returns when the lists are there; uses `stream`. Fails where they are too long for 32 bits.
Result<DeviceLists> upload_lists(std::shared_ptr<const IndexLists> lists, ListForm form,
                                 cudaStream_t stream);

inline constexpr int kMaxGatherInputs = 32;
// `inputs` are op.input_features wide.
Status launch_gather(const GatherOp& op, const DeviceLists& lists,
                     std::span<const float* const> inputs, const float* mask, int rows, float* y,
                     cudaStream_t stream);
Status launch_gather_maximum_gradient(const GatherMaximumGradientOp& op, const DeviceLists& lists,
                                      const DeviceLists& readers, const float* x, const float* y,
                                      const float* dy, const float* mask, int rows, float* dx,
                                      cudaStream_t stream);

// As MatmulOp says, with fmaf.
Status launch_matmul(const MatmulOp& op, const float* x, const float* z, const float* mask,
                     int rows, float* out, cudaStream_t stream);

Status launch_embedding(const EmbeddingOp& op, const float* x, const float* kernel, int rows,
                        float* y, cudaStream_t stream);
// All of `gradient` (vocabulary x units) is written. A word's first 64 places, or all where it has
// no more, are added in order, else in an order that follows from the places alone. `scratch` holds
// embedding_scratch(op, rows) floats.
int64_t embedding_scratch(const EmbeddingOp& op, int rows);
Status launch_embedding_gradient(const EmbeddingOp& op, const float* x, const float* dy, int rows,
                                 float* scratch, float* gradient, cudaStream_t stream);

// How a value lies as seen from its channels.
struct ChannelShape {
  int64_t channels = 0;
  int64_t inner = 1;        // elements of a channel that lie side by side
  int64_t per_channel = 0;  // elements of a channel in all
  // Fails where the features are no whole number of the broadcast's periods.
  static Result<ChannelShape> of(const Broadcast& broadcast, int64_t features, int rows);
};

// out[c] = the sum of a channel's elements, in an order that depends on the shape alone. `scratch`
// holds channel_scratch(shape) floats.
int64_t channel_scratch(const ChannelShape& shape);
Status launch_channel_sums(const ChannelShape& shape, const float* x, float* scratch, float* out,
                           cudaStream_t stream);

// Pointers that a BatchNormOp lacks are nullptr. Means and deviations: `channels` floats.
struct BatchNormMemory {
  const float* x = nullptr;
  const float* gamma = nullptr;
  const float* beta = nullptr;
  float* y = nullptr;
  float* mean = nullptr;
  float* deviation = nullptr;
  float* moments = nullptr;  // 2 x channels: rows * mean, rows * variance
  float* scratch = nullptr;  // channel_scratch(shape) floats
};
Status launch_batch_norm(const BatchNormOp& op, const ChannelShape& shape,
                         const BatchNormMemory& memory, int rows, cudaStream_t stream);

struct BatchNormGradientMemory {
  const float* x = nullptr;
  const float* dy = nullptr;
  const float* mean = nullptr;
  const float* deviation = nullptr;
  const float* gamma = nullptr;
  const float* mask = nullptr;
  float* dx = nullptr;
  float* gamma_gradient = nullptr;
  float* beta_gradient = nullptr;
  float* scratch = nullptr;  // channel_scratch(shape) floats
};
Status launch_batch_norm_gradient(const BatchNormOp& op, const ChannelShape& shape,
                                  const BatchNormGradientMemory& memory, int rows,
                                  cudaStream_t stream);

}  // namespace lockstep
