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

}  // namespace

Status launch_squares(const float* x, int64_t count, int64_t stride, double* sums,
                      cudaStream_t stream) {
  LOCKSTEP_CHECK(count >= 0 && squares_blocks(count) <= INT32_MAX);
  if (count == 0) return {};
  return launch("squares_kernel", squares_kernel,
                {static_cast<unsigned>(squares_blocks(count)), unsigned{kSquaresLanes}}, stream, x,
                count, stride, sums);
}

}  // namespace lockstep
