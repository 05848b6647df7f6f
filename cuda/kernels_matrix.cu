// Sums over the rows of a matrix, and its transpose.
#include "cuda/grid.h"
#include "cuda/kernels.h"

namespace lockstep {

namespace {

constexpr unsigned kBlock = 256;

// Up to here a thread adds all rows of its column in order, as the CPU adds those of a partition.
constexpr int64_t kOrderedRows = 64;
constexpr int kOrderedStep = 32;  // loads under way together
constexpr unsigned kMaxTileColumns = 32;
// Narrow tiles make more blocks of few rows; wide ones read whole cache lines.
constexpr unsigned kNarrowTileColumns = 8;
constexpr int64_t kNarrowRows = 2048;
constexpr int kChains = 8;            // sums of a thread, so that loads do not wait for adds
constexpr int64_t kRowsAThread = 64;  // at least, where rows are split: fewer aren't worth a launch
constexpr int64_t kColumnBlocks = 512;  // enough to fill any GPU

// How a matrix is cut: tiles of `tile_columns` (a power of two) by `splits` of rows. A function of
// the shape alone: it decides the order of the sum.
struct ColumnPlan {
  unsigned tile_columns = 1;
  int64_t tiles = 0;
  int64_t splits = 1;
  int64_t rows_a_split = 0;
};

ColumnPlan plan_columns(int64_t rows, int64_t channels) {
  ColumnPlan plan;
  const unsigned most_columns = rows <= kNarrowRows ? kNarrowTileColumns : kMaxTileColumns;
  while (plan.tile_columns < most_columns && plan.tile_columns < channels) plan.tile_columns *= 2;
  plan.tiles = (channels + plan.tile_columns - 1) / plan.tile_columns;
  const int64_t least_rows = kBlock / plan.tile_columns * kRowsAThread;
  const int64_t most_splits = std::max<int64_t>(1, kColumnBlocks / plan.tiles);
  const int64_t splits = std::clamp((rows + least_rows - 1) / least_rows, int64_t{1}, most_splits);
  plan.rows_a_split = (rows + splits - 1) / splits;
  plan.splits = (rows + plan.rows_a_split - 1) / plan.rows_a_split;
  return plan;
}

__global__ void ordered_sums_kernel(const float* x, int64_t rows, int64_t channels, float* out) {
  for (int64_t c = thread_index(); c < channels; c += thread_count()) {
    float sum = -0.0f;
    LOCKSTEP_UNROLL(1)
    for (int64_t first = 0; first < rows; first += kOrderedStep) {
      float values[kOrderedStep];
      for (int i = 0; i < kOrderedStep; ++i) {
        // Adding -0 changes nothing.
        values[i] = first + i < rows ? x[(first + i) * channels + c] : -0.0f;
      }
      for (int i = 0; i < kOrderedStep; ++i) sum += values[i];
    }
    out[c] = sum;
  }
}

// out[split][c] = the sum of the split's rows: kChains a thread, then a tree over the threads.
__global__ void column_sums_kernel(const float* x, int64_t rows, int64_t channels, ColumnPlan plan,
                                   float* out) {
  __shared__ float partial[kBlock];
  const unsigned tiles = static_cast<unsigned>(plan.tiles);
  const unsigned split = blockIdx.x / tiles;
  const int64_t tile = blockIdx.x % tiles;
  const int64_t column = tile * plan.tile_columns + threadIdx.x % plan.tile_columns;
  const unsigned step = kBlock / plan.tile_columns;
  const int64_t begin = split * plan.rows_a_split;
  const int64_t end = lesser(begin + plan.rows_a_split, rows);
  float sums[kChains];
  for (int k = 0; k < kChains; ++k) sums[k] = -0.0f;
  if (column < channels) {
    LOCKSTEP_UNROLL(1)
    for (int64_t row = begin + threadIdx.x / plan.tile_columns; row < end; row += kChains * step) {
      for (int k = 0; k < kChains; ++k) {
        const int64_t at = row + k * step;
        sums[k] += at < end ? x[at * channels + column] : -0.0f;
      }
    }
  }
  partial[threadIdx.x] =
      ((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7]));
  for (unsigned half = kBlock / 2; half >= plan.tile_columns; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) partial[threadIdx.x] += partial[threadIdx.x + half];
  }
  if (threadIdx.x < plan.tile_columns && column < channels) {
    out[split * channels + column] = partial[threadIdx.x];
  }
}

Status launch_column_plan(const float* x, int64_t rows, int64_t channels, const ColumnPlan& plan,
                          float* out, cudaStream_t stream) {
  return launch("column_sums_kernel", column_sums_kernel,
                {static_cast<unsigned>(plan.tiles * plan.splits), kBlock}, stream, x, rows,
                channels, plan, out);
}

constexpr unsigned kTile = 32;
constexpr unsigned kTileRows = kBlock / kTile;  // that a block moves at a time

// A tile goes through shared memory, so that rows are read and columns written side by side. Its
// rows are one float longer: a column then lies in different banks.
__global__ void transpose_kernel(const float* in, int64_t rows, int64_t columns,
                                 unsigned column_tiles, float* out) {
  __shared__ float tile[kTile][kTile + 1];
  const int64_t first_row = static_cast<int64_t>(blockIdx.x / column_tiles) * kTile;
  const int64_t first_column = static_cast<int64_t>(blockIdx.x % column_tiles) * kTile;
  const unsigned x = threadIdx.x % kTile, y = threadIdx.x / kTile;
  for (unsigned i = y; i < kTile; i += kTileRows) {
    if (first_row + i < rows && first_column + x < columns) {
      tile[i][x] = in[(first_row + i) * columns + first_column + x];
    }
  }
  __syncthreads();
  for (unsigned i = y; i < kTile; i += kTileRows) {
    if (first_column + i < columns && first_row + x < rows) {
      out[(first_column + i) * rows + first_row + x] = tile[x][i];
    }
  }
}

}  // namespace

int64_t column_sums_scratch(int64_t rows, int64_t channels) {
  if (rows <= kOrderedRows || channels == 0) return 0;
  const ColumnPlan plan = plan_columns(rows, channels);
  return plan.splits == 1 ? 0 : plan.splits * channels;
}

Status launch_column_sums(const float* x, int64_t rows, int64_t channels, float* scratch,
                          float* out, cudaStream_t stream) {
  LOCKSTEP_CHECK(rows >= 0 && channels >= 0);
  if (channels == 0) return {};
  if (rows <= kOrderedRows) {
    return launch("ordered_sums_kernel", ordered_sums_kernel, loop_shape(channels), stream, x, rows,
                  channels, out);
  }
  ColumnPlan plan = plan_columns(rows, channels);
  if (plan.splits == 1) return launch_column_plan(x, rows, channels, plan, out, stream);
  LOCKSTEP_CHECK(scratch != nullptr);
  LOCKSTEP_RETURN_IF_ERROR(launch_column_plan(x, rows, channels, plan, scratch, stream));
  const int64_t splits = plan.splits;
  plan.splits = 1;
  plan.rows_a_split = splits;
  return launch_column_plan(scratch, splits, channels, plan, out, stream);
}

Status launch_transpose(const float* in, int64_t rows, int64_t columns, float* out,
                        cudaStream_t stream) {
  LOCKSTEP_CHECK(rows >= 0 && columns >= 0);
  if (rows == 0 || columns == 0) return {};
  const int64_t row_tiles = (rows + kTile - 1) / kTile;
  const int64_t column_tiles = (columns + kTile - 1) / kTile;
  LOCKSTEP_CHECK(row_tiles * column_tiles <= INT32_MAX);  // blocks of a grid
  return launch("transpose_kernel", transpose_kernel,
                {static_cast<unsigned>(row_tiles * column_tiles), kBlock}, stream, in, rows,
                columns, static_cast<unsigned>(column_tiles), out);
}

}  // namespace lockstep
