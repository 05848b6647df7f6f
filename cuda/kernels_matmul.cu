// Products of small matrices with any strides. Large ones of a layer's kernel are cublasLt's
// (matmul.h).
#include <math.h>

#include "cuda/grid.h"
#include "cuda/kernels_general.h"

namespace lockstep {

namespace {

constexpr unsigned kSide = 16;  // threads of a block, each way
constexpr unsigned kBlock = kSide * kSide;
constexpr unsigned kInner = 16;  // of the sum, in shared memory at a time

struct Strides {
  uint32_t row, column;
};

struct MatmulArgs {
  const float* x;
  const float* z;
  const float* mask;  // or none
  float* out;
  int64_t x_features, z_features, features;
  int64_t x_batch, z_batch, out_batch;
  Strides x_strides, z_strides, out_strides;
  uint32_t batches, rows, inner, columns;
  uint32_t row_tiles, column_tiles;
};

// Copies kInner x kTile elements to shared memory, zeros where there are none. Threads side by side
// read what lies side by side. `along` is the stride of the tile's kTile, `inner` of its kInner.
template <unsigned kTile>
__device__ inline void load_tile(const float* from, uint32_t inner_stride, uint32_t along_stride,
                                 uint32_t first_inner, uint32_t first_along, uint32_t inner,
                                 uint32_t along, float (*tile)[kTile + 1]) {
  const bool inner_first = inner_stride < along_stride;
  for (unsigned n = 0; n < kInner * kTile / kBlock; ++n) {
    const unsigned e = n * kBlock + threadIdx.x;
    const unsigned k = inner_first ? e % kInner : e / kTile;
    const unsigned a = inner_first ? e / kInner : e % kTile;
    const bool there = first_inner + k < inner && first_along + a < along;
    tile[k][a] =
        there ? from[(first_inner + k) * inner_stride + (first_along + a) * along_stride] : 0.0f;
  }
}

// A block computes kMicro * kSide rows and columns of one product, each thread kMicro of both.
template <unsigned kMicro>
__global__ void matmul_kernel(const __grid_constant__ MatmulArgs args) {
  constexpr unsigned kTile = kMicro * kSide;
  __shared__ float x_tile[kInner][kTile + 1];
  __shared__ float z_tile[kInner][kTile + 1];
  uint32_t block = blockIdx.x;
  const uint32_t first_column = block % args.column_tiles * kTile;
  block /= args.column_tiles;
  const uint32_t first_row = block % args.row_tiles * kTile;
  block /= args.row_tiles;
  const int64_t batch = block % args.batches, sample = block / args.batches;
  const float* x = args.x + sample * args.x_features + batch * args.x_batch;
  const float* z = args.z + sample * args.z_features + batch * args.z_batch;
  const int64_t out = sample * args.features + batch * args.out_batch;
  const unsigned tx = threadIdx.x % kSide, ty = threadIdx.x / kSide;
  float sums[kMicro][kMicro];
  for (unsigned i = 0; i < kMicro; ++i) {
    for (unsigned j = 0; j < kMicro; ++j) sums[i][j] = 0;
  }
  for (uint32_t first = 0; first < args.inner; first += kInner) {
    load_tile<kTile>(x, args.x_strides.column, args.x_strides.row, first, first_row, args.inner,
                     args.rows, x_tile);
    load_tile<kTile>(z, args.z_strides.row, args.z_strides.column, first, first_column, args.inner,
                     args.columns, z_tile);
    __syncthreads();
    LOCKSTEP_UNROLL(4)
    for (unsigned k = 0; k < kInner; ++k) {
      float left[kMicro], right[kMicro];
      for (unsigned i = 0; i < kMicro; ++i) left[i] = x_tile[k][ty + i * kSide];
      for (unsigned j = 0; j < kMicro; ++j) right[j] = z_tile[k][tx + j * kSide];
      for (unsigned i = 0; i < kMicro; ++i) {
        for (unsigned j = 0; j < kMicro; ++j) sums[i][j] = fmaf(left[i], right[j], sums[i][j]);
      }
    }
    __syncthreads();
  }
  for (unsigned i = 0; i < kMicro; ++i) {
    for (unsigned j = 0; j < kMicro; ++j) {
      const uint32_t m = first_row + ty + i * kSide, n = first_column + tx + j * kSide;
      if (m >= args.rows || n >= args.columns) continue;
      const int64_t at = out + m * args.out_strides.row + n * args.out_strides.column;
      args.out[at] = keep(args.mask == nullptr || args.mask[at] > 0.0f, sums[i][j]);
    }
  }
}

Strides strides_of(const MatrixStrides& strides) {
  return {static_cast<uint32_t>(strides.row), static_cast<uint32_t>(strides.column)};
}

template <unsigned kMicro>
Status launch_tiles(MatmulArgs args, int rows, cudaStream_t stream) {
  constexpr unsigned kTile = kMicro * kSide;
  args.row_tiles = (args.rows + kTile - 1) / kTile;
  args.column_tiles = (args.columns + kTile - 1) / kTile;
  const int64_t blocks =
      int64_t{args.row_tiles} * args.column_tiles * args.batches * static_cast<int64_t>(rows);
  LOCKSTEP_CHECK(blocks <= INT32_MAX);
  return launch("matmul_kernel", matmul_kernel<kMicro>, {static_cast<unsigned>(blocks), kBlock},
                stream, args);
}

}  // namespace

Status launch_matmul(const MatmulOp& op, const float* x, const float* z, const float* mask,
                     int rows, float* out, cudaStream_t stream) {
  LOCKSTEP_CHECK(std::max({op.x_features, op.z_features, op.features}) <= INT32_MAX);
  if (rows == 0 || op.batches == 0 || op.rows == 0 || op.columns == 0) return {};
  MatmulArgs args;
  args.x = x;
  args.z = z;
  args.mask = mask;
  args.out = out;
  args.x_features = op.x_features;
  args.z_features = op.z_features;
  args.features = op.features;
  args.x_batch = op.x.batch;
  args.z_batch = op.z.batch;
  args.out_batch = op.out.batch;
  args.x_strides = strides_of(op.x);
  args.z_strides = strides_of(op.z);
  args.out_strides = strides_of(op.out);
  args.batches = static_cast<uint32_t>(op.batches);
  args.rows = static_cast<uint32_t>(op.rows);
  args.inner = static_cast<uint32_t>(op.inner);
  args.columns = static_cast<uint32_t>(op.columns);
  const bool large = op.rows > 2 * kSide && op.columns > 2 * kSide;
  return large ? launch_tiles<4>(args, rows, stream) : launch_tiles<2>(args, rows, stream);
}

}  // namespace lockstep
