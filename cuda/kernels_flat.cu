// Sums over flat memory for optimizers that look at whole parameters: host/device/flat_sums.h.
#include "cuda/grid.h"
#include "cuda/kernels.h"
#include "host/device/flat_sums.h"

namespace lockstep {

namespace {

// A block of threads takes a block of elements, a thread a lane.
__global__ void squares_kernel(const float* x, int64_t count, int64_t stride, double* sums) {
  __shared__ double lanes[kSquaresLanes];
  const int64_t begin = blockIdx.x * kSquaresBlock;
  const int64_t end = lesser(begin + kSquaresBlock, count);
  double sum = 0;
  LOCKSTEP_UNROLL(8)
  for (int64_t i = begin + threadIdx.x; i < end; i += kSquaresLanes) {
    const double value = x[i];
    sum += value * value;
  }
  lanes[threadIdx.x] = sum;
  for (unsigned half = kSquaresLanes / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) lanes[threadIdx.x] += lanes[threadIdx.x + half];
  }
  if (threadIdx.x == 0) sums[blockIdx.x * stride] = lanes[0];
}

// A block of threads takes a sum, a thread a lane.
__global__ void sum_run_kernel(const float* x, int64_t size, float* out) {
  __shared__ double lanes[kRunLanes];
  const float* run = x + blockIdx.x * size;
  double sum = 0;
  LOCKSTEP_UNROLL(8)
  for (int64_t i = threadIdx.x; i < size; i += kRunLanes) sum += run[i];
  lanes[threadIdx.x] = sum;
  for (unsigned half = kRunLanes / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) lanes[threadIdx.x] += lanes[threadIdx.x + half];
  }
  if (threadIdx.x == 0) out[blockIdx.x] = static_cast<float>(lanes[0]);
}

// A block takes kColumnsTogether columns; those of a warp read what lies side by side.
__global__ void sum_columns_kernel(const float* x, AxisSum sum, int64_t tiles, float* out) {
  __shared__ double lanes[kColumnLanes][kColumnsTogether];
  const int64_t outer = blockIdx.x / tiles;
  const unsigned lane = threadIdx.x / kColumnsTogether, at = threadIdx.x % kColumnsTogether;
  const int64_t column = blockIdx.x % tiles * kColumnsTogether + at;
  double total = 0;
  if (column < sum.inner) {
    const float* from = x + outer * sum.size * sum.inner + column;
    LOCKSTEP_UNROLL(8)
    for (int64_t k = lane; k < sum.size; k += kColumnLanes) total += from[k * sum.inner];
  }
  lanes[lane][at] = total;
  for (unsigned half = kColumnLanes / 2; half > 0; half /= 2) {
    __syncthreads();
    if (lane < half) lanes[lane][at] += lanes[lane + half][at];
  }
  if (lane == 0 && column < sum.inner) {
    out[outer * sum.inner + column] = static_cast<float>(lanes[0][at]);
  }
}

}  // namespace

Status launch_sum_axis(const float* x, const AxisSum& sum, float* out, cudaStream_t stream) {
  if (sum.outputs() == 0) return {};
  if (sum.inner == 1) {
    LOCKSTEP_CHECK(sum.outer <= INT32_MAX);
    return launch("sum_run_kernel", sum_run_kernel,
                  {static_cast<unsigned>(sum.outer), unsigned{kRunLanes}}, stream, x, sum.size,
                  out);
  }
  const int64_t tiles = (sum.inner + kColumnsTogether - 1) / kColumnsTogether;
  LOCKSTEP_CHECK(sum.outer * tiles <= INT32_MAX);
  return launch(
      "sum_columns_kernel", sum_columns_kernel,
      {static_cast<unsigned>(sum.outer * tiles), unsigned{kColumnLanes * kColumnsTogether}}, stream,
      x, sum, tiles, out);
}

Status launch_squares(const float* x, int64_t count, int64_t stride, double* sums,
                      cudaStream_t stream) {
  LOCKSTEP_CHECK(count >= 0 && squares_blocks(count) <= INT32_MAX);
  if (count == 0) return {};
  return launch("squares_kernel", squares_kernel,
                {static_cast<unsigned>(squares_blocks(count)), unsigned{kSquaresLanes}}, stream, x,
                count, stride, sums);
}

}  // namespace lockstep
