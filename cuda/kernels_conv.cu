// Convolutions of few channels: the products of a thread stand in registers, the kernel in shared
// memory, and L1 holds what neighbouring threads read of an image.
#include "cuda/kernels_conv.h"

#include <cmath>

#include "cuda/grid.h"
#include "cuda/kernels.h"

namespace lockstep {

namespace {

constexpr int kTableFloats = 6400;  // of a kernel, in shared memory, at most: 5x5x32x8

// Floats of a square kernel (size 0: any other) for a thread's channels out: enough for 32 channels
// in, or 64 where few go out. What shared memory doesn't take is L1's.
constexpr int table_floats(int size, int channels) {
  const int in_times_out = 32 * channels > 64 * 4 ? 32 * channels : 64 * 4;
  const int wanted = size * size * in_times_out;
  return size > 0 && wanted < kTableFloats ? wanted : kTableFloats;
}

// out[n][y][x][o] = the sum over ky, kx, c of in[n][(y stride + ky - pad) / gap][...][c] *
// kernel, where the division leaves no rest. The forward pass has gap 1, the data gradient is the
// one of stride 1 whose gap is the stride and whose kernel is turned around.
struct Correlation {
  int in_height = 0, in_width = 0, in_channels = 0;
  int out_height = 0, out_width = 0, out_channels = 0;
  int kernel_height = 0, kernel_width = 0;
  int stride_height = 1, stride_width = 1;
  int gap_height = 1, gap_width = 1;
  int pad_top = 0, pad_left = 0;
  int row_tiles = 0;  // of the pixels of a thread
  int groups = 0;     // of the channels of a thread
  int items = 0;      // rows * row_tiles * out_width: threads a group
  bool turned = false;
  bool relu = false;
  const float* in = nullptr;
  const float* kernel = nullptr;
  const float* bias = nullptr;
  const float* mask = nullptr;
  float* out = nullptr;
};

template <int kWidth>
__device__ inline Floats<kWidth> load_inside(const float* p, bool inside) {
  Floats<kWidth> values;
  for (int i = 0; i < kWidth; ++i) values.at[i] = 0;
  if (inside) values = load<kWidth>(p);
  return values;
}

// What a block keeps in shared memory for its group of channels; those that the last group lacks
// are 0.
template <int kSize, int kChannels>
struct Table {
  Floats<kVector> kernel[table_floats(kSize, kChannels) / kVector];  // [tap][c][o of the group]
  float bias[kChannels];
};

template <int kChannels>
__device__ inline void fill_table(const Correlation& shape, int group, float* table, float* bias) {
  const int taps = shape.kernel_height * shape.kernel_width;
  const int first = group * kChannels;
  const int in_channels = shape.in_channels;
  const int channel = static_cast<int>(threadIdx.x);
  if (channel < kChannels) {
    const bool has_bias = shape.bias != nullptr && first + channel < shape.out_channels;
    bias[channel] = has_bias ? shape.bias[first + channel] : 0.0f;
  }
  LOCKSTEP_UNROLL(4)
  for (int i = static_cast<int>(threadIdx.x); i < taps * in_channels * kChannels;
       i += static_cast<int>(blockDim.x)) {
    if (shape.turned) {  // HWIO has this c innermost
      const int c = i % in_channels, o = i / in_channels % kChannels;
      const int tap = i / in_channels / kChannels;
      const int from = (taps - 1 - tap) * shape.out_channels + first + o;
      table[(tap * in_channels + c) * kChannels + o] =
          first + o < shape.out_channels ? shape.kernel[from * in_channels + c] : 0.0f;
    } else {
      const int o = i % kChannels;
      table[i] = first + o < shape.out_channels
                     ? shape.kernel[i / kChannels * shape.out_channels + first + o]
                     : 0.0f;
    }
  }
}

template <int kChannels>
__device__ inline void add_products(float x, const Floats<kVector>* kernel, float* sums) {
  LOCKSTEP_UNROLL()
  for (int q = 0; q < kChannels / kVector; ++q) {
    const Floats<kVector> factors = kernel[q];
    for (int j = 0; j < kVector; ++j) {
      sums[kVector * q + j] = fmaf(x, factors.at[j], sums[kVector * q + j]);
    }
  }
}

template <int kWidth>
__device__ inline void finish(const Correlation& shape, const float* bias, int at,
                              const float* sums) {
  Floats<kWidth> values;
  for (int j = 0; j < kWidth; ++j) values.at[j] = sums[j] + bias[j];
  if (shape.relu) {
    for (int j = 0; j < kWidth; ++j) values.at[j] = 0 > values.at[j] ? 0 : values.at[j];
  }
  if (shape.mask != nullptr) {
    const Floats<kWidth> mask = load<kWidth>(shape.mask + at);
    for (int j = 0; j < kWidth; ++j) values.at[j] = keep(mask.at[j] > 0, values.at[j]);
  }
  store(shape.out + at, values);
}

// Adds bias, applies relu or the mask, and stores the channels of one pixel from `first` on.
template <int kChannels>
__device__ inline void finish_pixel(const Correlation& shape, const float* bias, int pixel,
                                    int first, const float* sums) {
  const bool vectors = shape.out_channels % kVector == 0;
  LOCKSTEP_UNROLL()
  for (int q = 0; q < kChannels; q += kVector) {
    const int left = shape.out_channels - first - q;
    const int at = pixel * shape.out_channels + first + q;
    if (vectors && left > 0) finish<kVector>(shape, bias + q, at, sums + q);
    LOCKSTEP_UNROLL()
    for (int j = 0; j < kVector; ++j) {
      if (!vectors && j < left) finish<1>(shape, bias + q + j, at + j, sums + q + j);
    }
  }
}

// Where a thread's pixels lie: (n, y .. y + kPixels - 1, x).
struct PixelTile {
  int n = 0, y = 0, x = 0;
};

template <int kPixels>
__device__ inline PixelTile pixel_tile(const Correlation& shape, int item) {
  const int tile = item / shape.out_width;
  return {tile / shape.row_tiles, tile % shape.row_tiles * kPixels, item % shape.out_width};
}

// A square kernel of kSize, stride and gap 1. Each thread takes kPixels pixels, one below the
// other: a column of the image is loaded once for all of them, and the next thread's lies beside
// it. kWidth channels of the image are loaded at once.
template <int kSize, int kChannels, int kPixels, int kWidth>
__global__ void square_conv_kernel(Correlation shape) {
  __shared__ Table<kSize, kChannels> table;
  const int group = static_cast<int>(blockIdx.x) % shape.groups;
  fill_table<kChannels>(shape, group, table.kernel[0].at, table.bias);
  __syncthreads();
  constexpr int kRows = kPixels + kSize - 1;
  const int in_channels = shape.in_channels;
  const int tap = in_channels * kChannels / kVector;  // vectors of the table
  const int blocks = static_cast<int>(gridDim.x) / shape.groups;
  const int block = static_cast<int>(blockIdx.x) / shape.groups;
  const int threads = static_cast<int>(blockDim.x);
  for (int item = block * threads + static_cast<int>(threadIdx.x); item < shape.items;
       item += blocks * threads) {
    const PixelTile tile = pixel_tile<kPixels>(shape, item);
    const int first_x = tile.x - shape.pad_left;
    int at[kRows];  // of the row's first column
    bool row_inside[kRows];
    LOCKSTEP_UNROLL()
    for (int i = 0; i < kRows; ++i) {
      const int iy = tile.y - shape.pad_top + i;
      row_inside[i] = static_cast<unsigned>(iy) < static_cast<unsigned>(shape.in_height);
      at[i] = ((tile.n * shape.in_height + iy) * shape.in_width + first_x) * in_channels;
    }
    float sums[kPixels][kChannels] = {};
    LOCKSTEP_UNROLL(1)
    for (int c = 0; c < in_channels; c += kWidth) {
      LOCKSTEP_UNROLL((kSize <= 3 ? kSize : 1))
      for (int kx = 0; kx < kSize; ++kx) {
        const bool column_inside =
            static_cast<unsigned>(first_x + kx) < static_cast<unsigned>(shape.in_width);
        Floats<kWidth> column[kRows];
        LOCKSTEP_UNROLL()
        for (int i = 0; i < kRows; ++i) {
          column[i] = load_inside<kWidth>(shape.in + (at[i] + kx * in_channels + c),
                                          column_inside && row_inside[i]);
        }
        const Floats<kVector>* factors = table.kernel + kx * tap + c * kChannels / kVector;
        LOCKSTEP_UNROLL()
        for (int lane = 0; lane < kWidth; ++lane) {
          LOCKSTEP_UNROLL()
          for (int ky = 0; ky < kSize; ++ky) {
            const Floats<kVector>* row = factors + ky * kSize * tap + lane * kChannels / kVector;
            LOCKSTEP_UNROLL()
            for (int p = 0; p < kPixels; ++p) {
              add_products<kChannels>(column[p + ky].at[lane], row, sums[p]);
            }
          }
        }
      }
    }
    LOCKSTEP_UNROLL()
    for (int p = 0; p < kPixels; ++p) {
      const int y = tile.y + p;
      if (y < shape.out_height) {
        finish_pixel<kChannels>(shape, table.bias,
                                (tile.n * shape.out_height + y) * shape.out_width + tile.x,
                                group * kChannels, sums[p]);
      }
    }
  }
}

// Any kernel, stride and gap; a pixel a thread.
template <int kChannels, int kWidth>
__global__ void any_conv_kernel(Correlation shape) {
  __shared__ Table<0, kChannels> table;
  const int group = static_cast<int>(blockIdx.x) % shape.groups;
  fill_table<kChannels>(shape, group, table.kernel[0].at, table.bias);
  __syncthreads();
  const int blocks = static_cast<int>(gridDim.x) / shape.groups;
  const int block = static_cast<int>(blockIdx.x) / shape.groups;
  const int threads = static_cast<int>(blockDim.x);
  for (int item = block * threads + static_cast<int>(threadIdx.x); item < shape.items;
       item += blocks * threads) {
    const PixelTile tile = pixel_tile<1>(shape, item);
    float sums[kChannels] = {};
    for (int tap = 0; tap < shape.kernel_height * shape.kernel_width; ++tap) {
      const int ky = tap / shape.kernel_width, kx = tap % shape.kernel_width;
      const int wide_y = tile.y * shape.stride_height + ky - shape.pad_top;
      const int wide_x = tile.x * shape.stride_width + kx - shape.pad_left;
      const int iy = wide_y / shape.gap_height, ix = wide_x / shape.gap_width;
      if (wide_y < 0 || iy >= shape.in_height || iy * shape.gap_height != wide_y) continue;
      if (wide_x < 0 || ix >= shape.in_width || ix * shape.gap_width != wide_x) continue;
      const int in_channels = shape.in_channels;
      const float* in =
          shape.in + ((tile.n * shape.in_height + iy) * shape.in_width + ix) * in_channels;
      const Floats<kVector>* factors = table.kernel + tap * in_channels * kChannels / kVector;
      LOCKSTEP_UNROLL(2)
      for (int c = 0; c < in_channels; c += kWidth) {
        const Floats<kWidth> x = load<kWidth>(in + c);
        for (int lane = 0; lane < kWidth; ++lane) {
          add_products<kChannels>(x.at[lane], factors + (c + lane) * kChannels / kVector, sums);
        }
      }
    }
    finish_pixel<kChannels>(shape, table.bias,
                            (tile.n * shape.out_height + tile.y) * shape.out_width + tile.x,
                            group * kChannels, sums);
  }
}

using CorrelationKernel = void (*)(Correlation);

template <int kSize, int kWidth>
CorrelationKernel square_kernel(int channels, int pixels) {
  if (channels == 16) {
    return pixels == 1 ? square_conv_kernel<kSize, 16, 1, kWidth>
                       : square_conv_kernel<kSize, 16, 2, kWidth>;
  }
  if (channels == 12) {
    return pixels == 1 ? square_conv_kernel<kSize, 12, 1, kWidth>
                       : square_conv_kernel<kSize, 12, 2, kWidth>;
  }
  if (channels == 8) {
    return pixels == 1   ? square_conv_kernel<kSize, 8, 1, kWidth>
           : pixels == 2 ? square_conv_kernel<kSize, 8, 2, kWidth>
                         : square_conv_kernel<kSize, 8, 4, kWidth>;
  }
  return pixels == 1   ? square_conv_kernel<kSize, 4, 1, kWidth>
         : pixels == 2 ? square_conv_kernel<kSize, 4, 2, kWidth>
                       : square_conv_kernel<kSize, 4, 4, kWidth>;
}

template <int kWidth>
CorrelationKernel any_kernel(int channels) {
  return channels == 16   ? any_conv_kernel<16, kWidth>
         : channels == 12 ? any_conv_kernel<12, kWidth>
         : channels == 8  ? any_conv_kernel<8, kWidth>
                          : any_conv_kernel<4, kWidth>;
}

// Size of the kernel where square_conv_kernel can do it, else 0.
int square_size(const Conv2dOp& op) {
  const bool plain = op.stride_height == 1 && op.stride_width == 1;
  const int size = op.kernel_height;
  return plain && size == op.kernel_width && (size == 3 || size == 5) ? size : 0;
}

CorrelationKernel correlation_kernel(int size, const ConvTile& tile, bool vectors) {
  if (size == 3) {
    return vectors ? square_kernel<3, kVector>(tile.channels, tile.pixels)
                   : square_kernel<3, 1>(tile.channels, tile.pixels);
  }
  if (size == 5) {
    return vectors ? square_kernel<5, kVector>(tile.channels, tile.pixels)
                   : square_kernel<5, 1>(tile.channels, tile.pixels);
  }
  return vectors ? any_kernel<kVector>(tile.channels) : any_kernel<1>(tile.channels);
}

Status launch_correlation(const char* name, int size, const ConvTile& tile, int rows,
                          Correlation shape, cudaStream_t stream) {
  const int pixels = size == 0 ? 1 : tile.pixels;
  shape.row_tiles = (shape.out_height + pixels - 1) / pixels;
  shape.groups = (shape.out_channels + tile.channels - 1) / tile.channels;
  shape.items = rows * shape.row_tiles * shape.out_width;
  if (shape.items == 0 || shape.groups == 0) return {};
  LOCKSTEP_CHECK(vector_aligned({shape.in, shape.out}));
  LOCKSTEP_CHECK(shape.kernel_height * shape.kernel_width * shape.in_channels * tile.channels <=
                 table_floats(size, tile.channels));
  constexpr int kMostBlocks = 1056;  // a group: later blocks would fill their table for little
  const int blocks = std::min((shape.items + tile.threads - 1) / tile.threads, kMostBlocks);
  return launch(name, correlation_kernel(size, tile, shape.in_channels % kVector == 0),
                {static_cast<unsigned>(blocks * shape.groups), static_cast<unsigned>(tile.threads)},
                stream, shape);
}

// ---- The weight gradient ----

constexpr int kGradientThreads = 256;  // a block, at most
constexpr int kStep = 4;               // pixels whose loads are under way together

struct GradientShape {
  int in_height = 0, in_width = 0, in_channels = 0;
  int out_height = 0, out_width = 0, out_channels = 0;
  int kernel_height = 0, kernel_width = 0;
  int stride_height = 1, stride_width = 1;
  int pad_top = 0, pad_left = 0;
  int segment_width = 0;
  int units = 0;  // segments of all rows
  ConvGradientPlan plan;
  const float* x = nullptr;
  const float* dy = nullptr;
  // Of split s at s * outputs.
  float* kernel_sums = nullptr;
  float* bias_sums = nullptr;  // may be nullptr
  int outputs = 0;
};

// What one member of a set sums up: the taps (ky, kx .. kx + kColumns - 1) of the channels
// c .. c + kIn - 1 and o .. o + kOut - 1.
struct Member {
  int ky = 0, kx = 0, c = 0, o = 0;
};

template <int kColumns, int kIn, int kOut>
__device__ inline Member member_at(const GradientShape& shape, int index) {
  const int out_groups = shape.out_channels / kOut, in_groups = shape.in_channels / kIn;
  const int tap = index / out_groups / in_groups;
  const int tap_columns = shape.kernel_width / kColumns;
  return {tap / tap_columns, tap % tap_columns * kColumns, index / out_groups % in_groups * kIn,
          index % out_groups * kOut};
}

template <int kColumns, int kIn, int kOut>
struct GradientSums {
  float kernel[kColumns][kIn][kOut] = {};
  float bias[kOut] = {};
};

// One unit: a segment of a row of output pixels, kStep of them at a time. The last columns of the
// image that a step needs are the next step's first.
template <int kColumns, int kIn, int kOut>
__device__ inline void add_segment(const GradientShape& shape, const Member& member, int unit,
                                   GradientSums<kColumns, kIn, kOut>& sums) {
  const int row = unit / shape.plan.segments;  // of all output rows
  const int n = row / shape.out_height, oy = row % shape.out_height;
  const int begin = unit % shape.plan.segments * shape.segment_width;
  const int end = lesser(begin + shape.segment_width, shape.out_width);
  const int iy = oy * shape.stride_height + member.ky - shape.pad_top;
  const bool inside = static_cast<unsigned>(iy) < static_cast<unsigned>(shape.in_height);
  const unsigned in_width = inside ? static_cast<unsigned>(shape.in_width) : 0;
  const float* x = shape.x +
                   (inside ? (n * shape.in_height + iy) * shape.in_width * shape.in_channels : 0) +
                   member.c;
  const float* dy = shape.dy + row * shape.out_width * shape.out_channels + member.o;
  const int offset = member.kx - shape.pad_left;

  const int x_step = shape.stride_width * shape.in_channels, dy_step = shape.out_channels;
  Floats<kIn> columns[kColumns - 1 + kStep];
  for (int k = 0; k < kColumns - 1; ++k) {
    const int ix = begin + offset + k;  // the stride is 1 where kColumns > 1
    columns[k] = load_inside<kIn>(x + ix * shape.in_channels, static_cast<unsigned>(ix) < in_width);
  }
  LOCKSTEP_UNROLL(1)
  for (int ox = begin; ox < end; ox += kStep) {
    Floats<kOut> gradients[kStep];
    const int ix = ox * shape.stride_width + offset + kColumns - 1;
    const int last = ix + (kStep - 1) * shape.stride_width;
    const int x_at = ix * shape.in_channels, dy_at = ox * shape.out_channels;
    if (ix >= 0 && last < static_cast<int>(in_width) && ox + kStep <= end) {
      for (int i = 0; i < kStep; ++i) {
        columns[kColumns - 1 + i] = load<kIn>(x + (x_at + i * x_step));
        gradients[i] = load<kOut>(dy + (dy_at + i * dy_step));
      }
    } else {
      for (int i = 0; i < kStep; ++i) {
        const bool counts = ox + i < end;
        const unsigned column = static_cast<unsigned>(ix + i * shape.stride_width);
        columns[kColumns - 1 + i] =
            load_inside<kIn>(x + (x_at + i * x_step), counts && column < in_width);
        gradients[i] = load_inside<kOut>(dy + (dy_at + i * dy_step), counts);
      }
    }
    for (int i = 0; i < kStep; ++i) {
      for (int b = 0; b < kOut; ++b) {
        sums.bias[b] += gradients[i].at[b];
        for (int k = 0; k < kColumns; ++k) {
          for (int a = 0; a < kIn; ++a) {
            sums.kernel[k][a][b] =
                fmaf(columns[i + k].at[a], gradients[i].at[b], sums.kernel[k][a][b]);
          }
        }
      }
    }
    for (int k = 0; k < kColumns - 1; ++k) columns[k] = columns[k + kStep];
  }
}

// The sum over a block's sets, in order, of what they have put into `shared` for a member.
__device__ inline float sum_of_sets(const float* shared, const ConvGradientPlan& plan, int local) {
  float sum = shared[local];
  LOCKSTEP_UNROLL(4)
  for (int set = 1; set < plan.sets; ++set) sum += shared[set * plan.tile_members + local];
  return sum;
}

// Blocks are tiles of members by splits. All sets of all splits take the units in turn; then each
// block adds its sets, one channel in at a time, so that they fit into shared memory: the threads
// of a member share its sums out among them.
template <int kColumns, int kIn, int kOut>
__global__ void conv_gradient_kernel(GradientShape shape) {
  __shared__ float shared[kColumns * kOut][kGradientThreads];
  const ConvGradientPlan& plan = shape.plan;
  const int thread = static_cast<int>(threadIdx.x);
  const int tile = static_cast<int>(blockIdx.x) % plan.tiles;
  const int split = static_cast<int>(blockIdx.x) / plan.tiles;
  const int set = thread / plan.tile_members, local = thread % plan.tile_members;
  const int index = tile * plan.tile_members + local;
  const bool active = set < plan.sets && index < plan.members;
  const Member member = member_at<kColumns, kIn, kOut>(shape, index);
  GradientSums<kColumns, kIn, kOut> sums;
  if (active) {
    LOCKSTEP_UNROLL(1)
    for (int unit = split * plan.sets + set; unit < shape.units; unit += plan.splits * plan.sets) {
      add_segment(shape, member, unit, sums);
    }
  }
  const int tap = member.ky * shape.kernel_width + member.kx;
  const int first = split * shape.outputs;
  for (int a = 0; a < kIn; ++a) {
    if (a > 0) __syncthreads();
    for (int k = 0; k < kColumns; ++k) {
      for (int b = 0; b < kOut; ++b) shared[k * kOut + b][thread] = sums.kernel[k][a][b];
    }
    __syncthreads();
    LOCKSTEP_UNROLL(1)
    for (int i = set; active && i < kColumns * kOut; i += plan.sets) {
      const int to = ((tap + i / kOut) * shape.in_channels + member.c + a) * shape.out_channels +
                     member.o + i % kOut;
      shape.kernel_sums[first + to] = sum_of_sets(shared[i], plan, local);
    }
  }
  if (shape.bias_sums == nullptr) return;
  __syncthreads();
  for (int b = 0; b < kOut; ++b) shared[b][thread] = sums.bias[b];
  __syncthreads();
  // All taps have seen all of dy: the first one's members tell.
  if (!active || index >= shape.out_channels / kOut) return;
  LOCKSTEP_UNROLL(1)
  for (int i = set; i < kOut; i += plan.sets) {
    shape.bias_sums[first + member.o + i] = sum_of_sets(shared[i], plan, local);
  }
}

constexpr int kSumOutputs = 32;  // of a block
constexpr int kSumSlices = 16;   // that the splits are cut into

// Sums partial[split][...]: a warp a slice, then the slices in order.
__global__ void sum_splits_kernel(const float* partial, int splits, int kernel_outputs, int outputs,
                                  float* kernel_gradient, float* bias_gradient) {
  __shared__ float shared[kSumSlices][kSumOutputs];
  const int lane = static_cast<int>(threadIdx.x) % kSumOutputs;
  const int slice = static_cast<int>(threadIdx.x) / kSumOutputs;
  const int output = static_cast<int>(blockIdx.x) * kSumOutputs + lane;
  const int length = (splits + kSumSlices - 1) / kSumSlices;
  const int end = lesser((slice + 1) * length, splits);
  float sum = -0.0f;
  if (output < outputs) {
    LOCKSTEP_UNROLL(1)
    for (int split = slice * length; split < end; split += 8) {
      float values[8];
      for (int i = 0; i < 8; ++i) {
        values[i] = split + i < end ? partial[(split + i) * outputs + output] : -0.0f;
      }
      for (int i = 0; i < 8; ++i) sum += values[i];
    }
  }
  shared[slice][lane] = sum;
  __syncthreads();
  if (slice > 0 || output >= outputs) return;
  for (int i = 1; i < kSumSlices; ++i) sum += shared[i][lane];
  if (output < kernel_outputs) {
    kernel_gradient[output] = sum;
  } else {
    bias_gradient[output - kernel_outputs] = sum;
  }
}

using GradientKernel = void (*)(GradientShape);

template <int kColumns, int kIn>
GradientKernel gradient_kernel(int out) {
  return out == 4   ? conv_gradient_kernel<kColumns, kIn, 4>
         : out == 2 ? conv_gradient_kernel<kColumns, kIn, 2>
                    : conv_gradient_kernel<kColumns, kIn, 1>;
}

template <int kColumns>
GradientKernel gradient_kernel(const ConvGradientPlan& plan) {
  return plan.in == 4   ? gradient_kernel<kColumns, 4>(plan.out)
         : plan.in == 2 ? gradient_kernel<kColumns, 2>(plan.out)
                        : gradient_kernel<kColumns, 1>(plan.out);
}

int64_t kernel_size(const Conv2dOp& op) {
  return int64_t{op.kernel_height} * op.kernel_width * op.in_channels * op.out_channels;
}

int divided_up(int64_t a, int64_t b) { return static_cast<int>((a + b - 1) / b); }

}  // namespace

bool small_conv_suits(const Conv2dOp& op, int rows) {
  if (!op.is_plain()) return false;
  const int64_t in = int64_t{rows} * op.in_height * op.in_width * op.in_channels;
  const int64_t out = int64_t{rows} * op.out_height * op.out_width * op.out_channels;
  if (in == 0 || out == 0 || std::max(in, out) > kMaxIndexed) return false;
  if (std::max(op.kernel_height, op.kernel_width) > 7) return false;
  const bool few = op.in_channels <= 32 && op.out_channels <= 32;
  if (!few && (op.in_channels > 4 || op.out_channels > 64)) return false;
  if (op.pass != Pass::weight_gradient) {
    const int reduced = op.pass == Pass::forward ? op.in_channels : op.out_channels;
    const int64_t table = int64_t{op.kernel_height} * op.kernel_width * reduced * kVector;
    if (table > table_floats(square_size(op), kVector)) return false;
  }
  // With more to do, or more channels, the vendor's tiles fill up.
  const int64_t products = kernel_size(op) * rows * op.out_height * op.out_width;
  if (square_size(op) > 0 && op.in_channels * op.out_channels <= 256) return true;
  return products <= int64_t{100} * 1000 * 1000;
}

ConvTile conv_tile(const Conv2dOp& op, int rows) {
  const bool forward = op.pass == Pass::forward;
  const int channels = forward ? op.out_channels : op.in_channels;
  const int height = forward ? op.out_height : op.in_height;
  const int width = forward ? op.out_width : op.in_width;
  const int table =
      op.kernel_height * op.kernel_width * (forward ? op.in_channels : op.out_channels);
  constexpr int64_t kWanted = 24 * 1024;  // threads: fewer leave multiprocessors without work
  ConvTile best;
  int64_t best_cost = 0;
  for (const int tile : {16, 12, 8, 4}) {
    if (table * tile > table_floats(square_size(op), tile)) continue;
    const int groups = divided_up(channels, tile);
    for (const int pixels : {4, 2, 1}) {
      if (pixels > 1 && (square_size(op) == 0 || (pixels == 4 && tile > 8))) continue;
      const int64_t threads = int64_t{rows} * divided_up(height, pixels) * width * groups;
      // A thread's instructions for each product, times how often a wave of threads passes.
      const int64_t work = tile * pixels + 4 * tile / kVector + 2 * pixels;
      const int64_t cost = work * std::max(threads, kWanted);
      if (best_cost == 0 || cost < best_cost) {
        best = {tile, pixels, threads < kWanted ? 64 : 128};
        best_cost = cost;
      }
    }
  }
  return best;
}

// The geometry of an op as it is.
template <class KernelShape>
KernelShape shape_of(const Conv2dOp& op) {
  KernelShape shape;
  shape.in_height = op.in_height;
  shape.in_width = op.in_width;
  shape.in_channels = op.in_channels;
  shape.out_height = op.out_height;
  shape.out_width = op.out_width;
  shape.out_channels = op.out_channels;
  shape.kernel_height = op.kernel_height;
  shape.kernel_width = op.kernel_width;
  shape.stride_height = op.stride_height;
  shape.stride_width = op.stride_width;
  shape.pad_top = op.pad_top;
  shape.pad_left = op.pad_left;
  return shape;
}

Status launch_conv(const Conv2dOp& op, const ConvTile& tile, int rows, const float* x,
                   const float* kernel, const float* bias, float* y, cudaStream_t stream) {
  Correlation shape = shape_of<Correlation>(op);
  shape.relu = op.activation == Activation::relu;
  shape.in = x;
  shape.kernel = kernel;
  shape.bias = bias;
  shape.out = y;
  return launch_correlation("conv_kernel", square_size(op), tile, rows, shape, stream);
}

Status launch_conv_data_gradient(const Conv2dOp& op, const ConvTile& tile, int rows,
                                 const float* dy, const float* kernel, const float* mask, float* dx,
                                 cudaStream_t stream) {
  Correlation shape;
  shape.in_height = op.out_height;
  shape.in_width = op.out_width;
  shape.in_channels = op.out_channels;
  shape.out_height = op.in_height;
  shape.out_width = op.in_width;
  shape.out_channels = op.in_channels;
  shape.kernel_height = op.kernel_height;
  shape.kernel_width = op.kernel_width;
  shape.gap_height = op.stride_height;
  shape.gap_width = op.stride_width;
  shape.pad_top = op.kernel_height - 1 - op.pad_top;
  shape.pad_left = op.kernel_width - 1 - op.pad_left;
  shape.turned = true;
  shape.in = dy;
  shape.kernel = kernel;
  shape.mask = mask;
  shape.out = dx;
  return launch_correlation("conv_data_gradient_kernel", square_size(op), tile, rows, shape,
                            stream);
}

ConvGradientPlan plan_conv_gradient(const Conv2dOp& op, int rows,
                                    const ConvGradientOptions& options) {
  const auto vector_of = [](int channels) {
    return channels % 4 == 0 ? 4 : channels % 2 == 0 ? 2 : 1;
  };
  ConvGradientPlan plan;
  if (op.stride_width == 1 && (op.kernel_width == 3 || op.kernel_width == 5)) {
    plan.columns = op.kernel_width;
  }
  plan.in = vector_of(op.in_channels);
  plan.out = vector_of(op.out_channels);
  plan.members = op.kernel_height * (op.kernel_width / plan.columns) * (op.in_channels / plan.in) *
                 (op.out_channels / plan.out);
  plan.tiles = divided_up(plan.members, kGradientThreads);
  plan.tile_members = divided_up(plan.members, plan.tiles);
  const int64_t image_rows = int64_t{rows} * op.out_height;
  constexpr int64_t kWanted = 16 * 1024;  // threads
  plan.segments = options.segments;
  if (plan.segments == 0) {
    plan.segments = image_rows * plan.members < kWanted && op.out_width >= 16 ? 2 : 1;
  }
  const int64_t units = image_rows * plan.segments;
  int threads = options.threads;
  if (units * plan.members < kGradientThreads * int64_t{132}) threads = std::min(threads, 128);
  plan.sets = std::max(1, threads / plan.tile_members);
  // Partial sums that the second launch reads in a few microseconds.
  constexpr int64_t kMostPartials = 1 << 20;
  int64_t splits = options.most_blocks > 0 ? options.most_blocks : 264;
  splits = std::max<int64_t>(1, splits / plan.tiles);
  splits = std::min(splits, std::max<int64_t>(16, kMostPartials / kernel_size(op)));
  // Every set takes so many units, or one less.
  const int64_t units_a_set =
      std::max<int64_t>(1, divided_up(units, plan.sets * std::max<int64_t>(1, splits)));
  plan.splits = std::max(1, divided_up(units, plan.sets * units_a_set));
  return plan;
}

int64_t conv_gradient_scratch(const Conv2dOp& op, const ConvGradientPlan& plan) {
  if (plan.splits == 1) return 0;
  return plan.splits * (kernel_size(op) + (op.bias_offset < 0 ? 0 : op.out_channels));
}

Status launch_conv_weight_gradient(const Conv2dOp& op, const ConvGradientPlan& plan, int rows,
                                   const float* x, const float* dy, float* scratch,
                                   float* kernel_gradient, float* bias_gradient,
                                   cudaStream_t stream) {
  LOCKSTEP_CHECK(vector_aligned({x, dy}));
  const int kernel_outputs = static_cast<int>(kernel_size(op));
  GradientShape shape = shape_of<GradientShape>(op);
  shape.segment_width = divided_up(op.out_width, plan.segments);
  shape.units = rows * op.out_height * plan.segments;
  shape.plan = plan;
  shape.x = x;
  shape.dy = dy;
  shape.kernel_sums = plan.splits == 1 ? kernel_gradient : scratch;
  shape.bias_sums = bias_gradient == nullptr ? nullptr
                    : plan.splits == 1       ? bias_gradient
                                             : scratch + kernel_outputs;
  shape.outputs = kernel_outputs + (bias_gradient == nullptr ? 0 : op.out_channels);
  const GradientKernel kernel = plan.columns == 5   ? gradient_kernel<5>(plan)
                                : plan.columns == 3 ? gradient_kernel<3>(plan)
                                                    : gradient_kernel<1>(plan);
  LOCKSTEP_RETURN_IF_ERROR(launch("conv_gradient_kernel", kernel,
                                  {static_cast<unsigned>(plan.tiles * plan.splits),
                                   static_cast<unsigned>(plan.sets * plan.tile_members)},
                                  stream, shape));
  if (plan.splits == 1) return {};
  return launch("sum_splits_kernel", sum_splits_kernel,
                {static_cast<unsigned>(divided_up(shape.outputs, kSumOutputs)),
                 static_cast<unsigned>(kSumOutputs * kSumSlices)},
                stream, scratch, plan.splits, kernel_outputs, shape.outputs, kernel_gradient,
                bias_gradient);
}

}  // namespace lockstep
