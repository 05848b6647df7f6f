// Softmax and its crossentropy. `lanes` threads share a row: they look for the maximum and take
// exponentials side by side, then one of them adds these in order, as the CPU does
// (host/cpu/kernels_elementwise.h).
#include "cuda/grid.h"
#include "cuda/kernels.h"
#include "host/core/math.h"

namespace lockstep {

namespace {

constexpr int kTileFloats = 2048;  // of exponentials in shared memory, for all rows of a block

// A block's rows and the thread's place there. Each row has an own part of the tile, one float
// apart from the next: the threads that add then read from different banks.
struct RowLanes {
  int64_t row;
  int group, lane, lanes;
  bool active;  // the last block may have rows that are not there; they join its barriers only

  __device__ RowLanes(int rows, int block_lanes)
      : group(static_cast<int>(threadIdx.x) / block_lanes),
        lane(static_cast<int>(threadIdx.x) % block_lanes),
        lanes(block_lanes) {
    row = static_cast<int64_t>(blockIdx.x) * (static_cast<int>(kThreads) / lanes) + group;
    active = row < rows;
  }
};

struct Top {
  float value;
  int index;  // of the first logit that equals it
};

// The largest logit, for all threads of the row. If the first is NaN, so is the result; NaN
// elsewhere is passed over: the CPU's maximum does so, and hence each thread begins with the first.
__device__ inline Top find_top(const float* logits, int classes, const RowLanes& at) {
  __shared__ float values[kThreads];
  __shared__ int indices[kThreads];
  Top top = {0, 0};
  if (at.active) {
    top.value = logits[0];
    LOCKSTEP_UNROLL(4)
    for (int c = at.lane; c < classes; c += at.lanes) {
      const float logit = logits[c];
      if (logit > top.value) top = {logit, c};
    }
  }
  values[threadIdx.x] = top.value;
  indices[threadIdx.x] = top.index;
  for (int half = at.lanes / 2; half > 0; half /= 2) {
    __syncthreads();
    if (at.lane < half) {
      const float value = values[threadIdx.x + static_cast<unsigned>(half)];
      const int index = indices[threadIdx.x + static_cast<unsigned>(half)];
      if (value > top.value || (value == top.value && index < top.index)) top = {value, index};
      values[threadIdx.x] = top.value;
      indices[threadIdx.x] = top.index;
    }
  }
  __syncthreads();
  return {values[at.group * at.lanes], indices[at.group * at.lanes]};
}

// The sum of exp(logit - top) over the classes in order, for all threads of the row. The
// exponentials go to `exponentials` too, unless that is nullptr; each thread writes those that it
// divides later.
__device__ inline float sum_exponentials(const float* logits, int classes, float top,
                                         const RowLanes& at, float* exponentials) {
  __shared__ float tile[kTileFloats + kThreads];
  __shared__ float sums[kThreads];
  const int tile_classes = kTileFloats / static_cast<int>(kThreads) * at.lanes;
  float* terms = tile + at.group * (tile_classes + 1);
  float sum = -0.0f;
  for (int begin = 0; begin < classes; begin += tile_classes) {
    const int count = lesser(tile_classes, classes - begin);
    if (at.active) {
      for (int c = at.lane; c < count; c += at.lanes) {
        const float e = math::exp(logits[begin + c] - top);
        terms[c] = e;
        if (exponentials != nullptr) exponentials[begin + c] = e;
      }
    }
    __syncthreads();
    if (at.lane == 0 && at.active) {
      LOCKSTEP_UNROLL(8)
      for (int c = 0; c < count; ++c) sum += terms[c];
    }
    __syncthreads();
  }
  if (at.lane == 0) sums[at.group] = sum;
  __syncthreads();
  return sums[at.group];
}

__global__ void softmax_kernel(const float* logits, int rows, int classes, int lanes,
                               float* probabilities) {
  const RowLanes at(rows, lanes);
  const float* z = logits + at.row * classes;
  float* p = probabilities + at.row * classes;
  const Top top = find_top(z, classes, at);
  const float sum = sum_exponentials(z, classes, top.value, at, p);
  if (!at.active) return;
  for (int c = at.lane; c < classes; c += at.lanes) p[c] /= sum;
}

// Adds losses and hits, rows in order. For all threads of one block; they read through shared
// memory, or each add would wait for its load.
__device__ inline void sum_metrics(const float* scratch, int rows, float* metrics) {
  constexpr int kStage = 512;
  __shared__ float staged[kMetricCount][kStage];
  float sum = -0.0f;
  for (int begin = 0; begin < rows; begin += kStage) {
    const int count = lesser(kStage, rows - begin);
    __syncthreads();
    for (int i = static_cast<int>(threadIdx.x); i < count; i += static_cast<int>(kThreads)) {
      staged[0][i] = scratch[begin + i];
      staged[1][i] = scratch[int64_t{rows} + begin + i];
    }
    __syncthreads();
    if (threadIdx.x < kMetricCount) {
      LOCKSTEP_UNROLL(8)
      for (int i = 0; i < count; ++i) sum += staged[threadIdx.x][i];
    }
  }
  if (threadIdx.x < kMetricCount) metrics[threadIdx.x] = sum;
}

__global__ void metrics_kernel(const float* scratch, int rows, float* metrics) {
  sum_metrics(scratch, rows, metrics);
}

struct CrossEntropyArgs {
  const float* logits;
  const int32_t* labels;
  const RunParameters* parameters;
  int rows, classes, lanes;
  float* dlogits;  // or none
  float* scratch;  // losses, then hits
  float* metrics;  // or none: the grid has more blocks, a kernel of its own sums
};

__global__ void cross_entropy_kernel(CrossEntropyArgs args) {
  const RowLanes at(args.rows, args.lanes);
  const float* z = args.logits + at.row * args.classes;
  float* dz = args.dlogits == nullptr ? nullptr : args.dlogits + at.row * args.classes;
  const int label = at.active ? args.labels[at.row] : 0;
  const float label_logit = at.active && at.lane == 0 ? z[label] : 0;
  const Top top = find_top(z, args.classes, at);
  const float sum = sum_exponentials(z, args.classes, top.value, at, dz);
  if (at.active && at.lane == 0) {
    args.scratch[at.row] = math::log(sum) - (label_logit - top.value);
    // NaN equals no logit.
    const bool hit = top.index == label && top.value == top.value;
    args.scratch[args.rows + at.row] = hit ? 1.0f : 0.0f;
  }
  if (at.active && dz != nullptr) {
    const float scale = args.parameters->loss_scale;
    for (int c = at.lane; c < args.classes; c += at.lanes) {
      dz[c] = (dz[c] / sum - (c == label ? 1.0f : 0.0f)) * scale;
    }
  }
  if (args.metrics == nullptr) return;
  __syncthreads();
  sum_metrics(args.scratch, args.rows, args.metrics);
}

// Threads a row, a power of two.
int row_lanes(int64_t classes) {
  int lanes = 1;
  while (lanes < classes && lanes < static_cast<int>(kThreads)) lanes *= 2;
  return lanes;
}

LaunchShape row_shape(int rows, int lanes) {
  const int block_rows = static_cast<int>(kThreads) / lanes;
  return {static_cast<unsigned>((rows - 1) / block_rows + 1), kThreads};
}

}  // namespace

Status launch_softmax(const float* logits, int rows, int64_t classes, float* probabilities,
                      cudaStream_t stream) {
  LOCKSTEP_CHECK(classes > 0 && classes <= kMaxIndexed);
  if (rows == 0) return {};
  const int lanes = row_lanes(classes);
  return launch("softmax_kernel", softmax_kernel, row_shape(rows, lanes), stream, logits, rows,
                static_cast<int>(classes), lanes, probabilities);
}

Status launch_cross_entropy(const float* logits, const int32_t* labels,
                            const RunParameters* parameters, int rows, int64_t classes,
                            float* dlogits, float* scratch, float* metrics, cudaStream_t stream) {
  LOCKSTEP_CHECK(classes > 0 && classes <= kMaxIndexed);
  if (rows == 0) return {};
  CrossEntropyArgs args;
  args.logits = logits;
  args.labels = labels;
  args.parameters = parameters;
  args.rows = rows;
  args.classes = static_cast<int>(classes);
  args.lanes = row_lanes(classes);
  args.dlogits = dlogits;
  args.scratch = scratch;
  const LaunchShape shape = row_shape(rows, args.lanes);
  const bool one_block = shape.blocks == 1;
  args.metrics = one_block ? metrics : nullptr;
  LOCKSTEP_RETURN_IF_ERROR(
      launch("cross_entropy_kernel", cross_entropy_kernel, shape, stream, args));
  if (one_block) return {};
  return launch("metrics_kernel", metrics_kernel, {1, kThreads}, stream, scratch, rows, metrics);
}

}  // namespace lockstep
