// Sums over the elements of each channel, and batch normalization on top of them. What is added to
// what is a function of the shape alone.
#include <math.h>

#include "cuda/divisor.h"
#include "cuda/grid.h"
#include "cuda/kernels_general.h"
#include "cuda/map_groups.h"
#include "host/core/math.h"

namespace lockstep {

namespace {

constexpr unsigned kBlock = 256;
constexpr unsigned kMaxTileChannels = 32;
constexpr int kChains = 4;               // sums of a thread, so that loads do not wait for adds
constexpr int64_t kElementsAThread = 8;  // at least, where a channel is split
constexpr int64_t kSumBlocks = 512;      // enough to fill any GPU

// A block adds up a part of each of `tile_channels` channels (a power of two).
struct SumPlan {
  uint32_t channels = 0, per_channel = 0;
  uint32_t tile_channels = 1, tiles = 1;
  uint32_t splits = 1, a_split = 0;  // of a channel's elements
  Divisor inner;

  // Of element r of a channel.
  __device__ uint32_t index(uint32_t r, uint32_t channel) const {
    const uint32_t outer = inner.quotient(r);
    return (outer * channels + channel) * inner.divisor + (r - outer * inner.divisor);
  }
};

SumPlan plan_sums(const ChannelShape& shape) {
  SumPlan plan;
  plan.channels = static_cast<uint32_t>(shape.channels);
  plan.per_channel = static_cast<uint32_t>(shape.per_channel);
  plan.inner = Divisor(shape.inner);
  // Where a channel's elements lie side by side, a block takes one channel.
  const uint32_t most = shape.inner == 1 ? kMaxTileChannels : 1;
  while (plan.tile_channels < most && plan.tile_channels < plan.channels) plan.tile_channels *= 2;
  plan.tiles = (plan.channels + plan.tile_channels - 1) / plan.tile_channels;
  const int64_t least = kBlock / plan.tile_channels * kElementsAThread;
  const int64_t most_splits = std::max<int64_t>(1, kSumBlocks / plan.tiles);
  const int64_t splits =
      std::clamp((shape.per_channel + least - 1) / least, int64_t{1}, most_splits);
  plan.a_split = static_cast<uint32_t>((shape.per_channel + splits - 1) / splits);
  plan.splits = (plan.per_channel + plan.a_split - 1) / plan.a_split;
  return plan;
}

// --- what is added ---

struct PlainTerms {
  static constexpr int kSums = 1;
  const float* x;
  __device__ void add(uint32_t index, uint32_t, float* sums) const { sums[0] += x[index]; }
};

struct SquaredDifferences {
  static constexpr int kSums = 1;
  const float* x;
  const float* mean;
  __device__ void add(uint32_t index, uint32_t channel, float* sums) const {
    const float difference = x[index] - mean[channel];
    sums[0] += difference * difference;
  }
};

struct GradientTerms {
  static constexpr int kSums = 2;
  const float* x;
  const float* dy;
  const float* mean;
  const float* deviation;
  __device__ void add(uint32_t index, uint32_t channel, float* sums) const {
    sums[0] += dy[index];
    sums[1] += dy[index] * ((x[index] - mean[channel]) * deviation[channel]);
  }
};

// Of the splits: [split][sum][channel], the plan's element r being a split.
template <int kCount>
struct PartialSums {
  static constexpr int kSums = kCount;
  const float* partials;
  uint32_t channels;
  __device__ void add(uint32_t index, uint32_t channel, float* sums) const {
    const uint32_t first = (index - channel) * kCount + channel;
    for (uint32_t k = 0; k < kCount; ++k) sums[k] += partials[first + k * channels];
  }
};

// --- what becomes of the sums ---

struct Finish {
  enum class Kind { partials, sums, mean, deviation, gradient } kind = Kind::sums;
  float* out = nullptr;      // of gradients: s1 / n, then s2 / n
  float* moments = nullptr;  // or none
  float* gamma_gradient = nullptr;
  float* beta_gradient = nullptr;
  float count = 0, rows = 0, epsilon = 0;

  template <int kSums>
  __device__ void store(const float* sums, uint32_t split, uint32_t c, uint32_t channels) const {
    const float average = sums[0] / count;
    switch (kind) {
      case Kind::partials:
        for (uint32_t k = 0; k < kSums; ++k) out[(split * kSums + k) * channels + c] = sums[k];
        return;
      case Kind::sums:
        out[c] = sums[0];
        return;
      case Kind::mean:
        out[c] = average;
        if (moments != nullptr) moments[c] = rows * average;
        return;
      case Kind::deviation:
        out[c] = 1.0f / math::square_root(average + epsilon);
        if (moments != nullptr) moments[channels + c] = rows * average;
        return;
      case Kind::gradient:
        out[c] = average;
        out[channels + c] = sums[kSums - 1] / count;
        if (beta_gradient != nullptr) beta_gradient[c] = sums[0];
        if (gamma_gradient != nullptr) gamma_gradient[c] = sums[kSums - 1];
        return;
    }
  }
};

// A thread's kChains sums, then a tree over the threads of a channel.
template <class Terms>
__global__ void channel_sums_kernel(SumPlan plan, Terms terms, Finish finish) {
  constexpr int kSums = Terms::kSums;
  __shared__ float partial[kSums][kBlock];
  const uint32_t split = blockIdx.x / plan.tiles;
  const uint32_t channel =
      blockIdx.x % plan.tiles * plan.tile_channels + threadIdx.x % plan.tile_channels;
  const uint32_t step = kBlock / plan.tile_channels;
  const uint32_t begin = split * plan.a_split;
  const uint32_t end = lesser(begin + plan.a_split, plan.per_channel);
  float sums[kChains][kSums];
  for (int k = 0; k < kChains; ++k) {
    for (int s = 0; s < kSums; ++s) sums[k][s] = -0.0f;
  }
  if (channel < plan.channels) {
    uint32_t r = begin + threadIdx.x / plan.tile_channels;
    for (; r + (kChains - 1) * step < end; r += kChains * step) {
      for (uint32_t k = 0; k < kChains; ++k) {
        terms.add(plan.index(r + k * step, channel), channel, sums[k]);
      }
    }
    for (; r < end; r += step) terms.add(plan.index(r, channel), channel, sums[0]);
  }
  for (int s = 0; s < kSums; ++s) {
    partial[s][threadIdx.x] = (sums[0][s] + sums[1][s]) + (sums[2][s] + sums[3][s]);
  }
  for (unsigned half = kBlock / 2; half >= plan.tile_channels; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) {
      for (int s = 0; s < kSums; ++s) partial[s][threadIdx.x] += partial[s][threadIdx.x + half];
    }
  }
  if (threadIdx.x >= plan.tile_channels || channel >= plan.channels) return;
  float totals[kSums];
  for (int s = 0; s < kSums; ++s) totals[s] = partial[s][threadIdx.x];
  finish.template store<kSums>(totals, split, channel, plan.channels);
}

template <class Terms>
Status launch_plan(const SumPlan& plan, const Terms& terms, const Finish& finish,
                   cudaStream_t stream) {
  return launch("channel_sums_kernel", channel_sums_kernel<Terms>,
                {plan.tiles * plan.splits, kBlock}, stream, plan, terms, finish);
}

// `partials` holds splits x sums x channels, where there is more than one split.
template <class Terms>
Status launch_sums(const ChannelShape& shape, const Terms& terms, const Finish& finish,
                   float* partials, cudaStream_t stream) {
  SumPlan plan = plan_sums(shape);
  if (plan.splits == 1) return launch_plan(plan, terms, finish, stream);
  Finish first;
  first.kind = Finish::Kind::partials;
  first.out = partials;
  first.count = 1;
  LOCKSTEP_RETURN_IF_ERROR(launch_plan(plan, terms, first, stream));
  plan = plan_sums({shape.channels, 1, plan.splits});
  plan.splits = 1;
  plan.a_split = plan.per_channel;
  return launch_plan(plan, PartialSums<Terms::kSums>{partials, plan.channels}, finish, stream);
}

// --- what is done with them ---

struct Normalize {
  static constexpr int kOperands = 5;  // x, mean, deviation, gamma, beta
  __device__ float operator()(const float* v) const { return (v[0] - v[1]) * v[2] * v[3] + v[4]; }
};

struct NormalizeGradient {
  static constexpr int kOperands = 7;  // x, mean, deviation, gamma, dy, s1 / n, s2 / n
  __device__ float operator()(const float* v) const {
    const float normalized = (v[0] - v[1]) * v[2];
    return v[3] * v[2] * (v[4] - v[5] - normalized * v[6]);
  }
};

GroupOperand value_operand(const BatchNormOp& op, const float* data) {
  return group_operand(data, op.features, {1, op.features}, op.features, kVector);
}

GroupOperand channel_operand(const BatchNormOp& op, const float* data, float otherwise) {
  if (data == nullptr) return constant_operand(otherwise);
  return group_operand(data, 0, op.channel, op.features, kVector);
}

}  // namespace

Result<ChannelShape> ChannelShape::of(const Broadcast& broadcast, int64_t features, int rows) {
  const int64_t period = broadcast.divisor * broadcast.modulus;
  LOCKSTEP_CHECK(period > 0);
  if (rows * features > INT32_MAX)
    return Error{"it has more than 2^31 elements: too many for a GPU"};
  if (broadcast.modulus == 1) return ChannelShape{1, 1, rows * features};
  if (features % period != 0) {
    return Error{"its features are no whole number of channels: a GPU cannot sum these"};
  }
  return ChannelShape{broadcast.modulus, broadcast.divisor, rows * features / broadcast.modulus};
}

int64_t channel_scratch(const ChannelShape& shape) {
  const int64_t splits = plan_sums(shape).splits;
  return (2 * splits + 2) * shape.channels;
}

Status launch_channel_sums(const ChannelShape& shape, const float* x, float* scratch, float* out,
                           cudaStream_t stream) {
  if (shape.per_channel == 0) return {};
  Finish finish;
  finish.out = out;
  finish.count = 1;
  return launch_sums(shape, PlainTerms{x}, finish, scratch, stream);
}

Status launch_batch_norm(const BatchNormOp& op, const ChannelShape& shape,
                         const BatchNormMemory& memory, int rows, cudaStream_t stream) {
  if (shape.per_channel == 0) return {};
  Finish finish;
  finish.kind = Finish::Kind::mean;
  finish.out = memory.mean;
  finish.moments = memory.moments;
  finish.count = static_cast<float>(shape.per_channel);
  finish.rows = static_cast<float>(rows);
  finish.epsilon = op.epsilon;
  LOCKSTEP_RETURN_IF_ERROR(
      launch_sums(shape, PlainTerms{memory.x}, finish, memory.scratch, stream));
  finish.kind = Finish::Kind::deviation;
  finish.out = memory.deviation;
  LOCKSTEP_RETURN_IF_ERROR(launch_sums(shape, SquaredDifferences{memory.x, memory.mean}, finish,
                                       memory.scratch, stream));
  // Not even +0 is added where there is no beta: it would change -0.
  return launch_function(
      "normalize_kernel", Normalize{},
      std::array{value_operand(op, memory.x), channel_operand(op, memory.mean, 0),
                 channel_operand(op, memory.deviation, 1), channel_operand(op, memory.gamma, 1),
                 channel_operand(op, memory.beta, -0.0f)},
      nullptr, rows, op.features, memory.y, stream);
}

Status launch_batch_norm_gradient(const BatchNormOp& op, const ChannelShape& shape,
                                  const BatchNormGradientMemory& memory, int rows,
                                  cudaStream_t stream) {
  if (shape.per_channel == 0) return {};
  float* averages = memory.scratch;
  Finish finish;
  finish.kind = Finish::Kind::gradient;
  finish.out = averages;
  finish.gamma_gradient = memory.gamma_gradient;
  finish.beta_gradient = memory.beta_gradient;
  finish.count = static_cast<float>(shape.per_channel);
  LOCKSTEP_RETURN_IF_ERROR(
      launch_sums(shape, GradientTerms{memory.x, memory.dy, memory.mean, memory.deviation}, finish,
                  memory.scratch + 2 * shape.channels, stream));
  return launch_function(
      "normalize_gradient_kernel", NormalizeGradient{},
      std::array{value_operand(op, memory.x), channel_operand(op, memory.mean, 0),
                 channel_operand(op, memory.deviation, 1), channel_operand(op, memory.gamma, 1),
                 value_operand(op, memory.dy), channel_operand(op, averages, 0),
                 channel_operand(op, averages + shape.channels, 0)},
      memory.mask, rows, op.features, memory.dx, stream);
}

}  // namespace lockstep
