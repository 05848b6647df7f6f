// The kernels of one instruction set as a table of plain functions.
//
// A value (activation) of R rows and F features lies as [ceil(R / V) row blocks][F][V lanes]: lane
// l of block b is row b * V + l. Lanes beyond R hold anything finite. This header is seen by code
// for every instruction set, so it has data only: nothing inline that the linker could merge.
#pragma once

#include <cstdint>

#include "host/cpu/conv_args.h"
#include "host/device/expression.h"
#include "host/device/flat_sums.h"
#include "host/device/state_digest.h"

namespace lockstep::cpu {

// What a partition's sum (leaf) does once its rows are summed: it is added to `merges` sums on
// the stack, then is root `root`, or is pushed (-1).
struct LeafStep {
  int partition = 0;  // of the group
  int first_row = 0;
  int rows = 0;
  int depth = 0;  // of the stack before
  int merges = 0;
  int root = -1;
};

// The same row by row.
struct RowStep {
  bool first = false;  // of its partition: copied, not added
  bool last = false;   // then as LeafStep
  int depth = 0;
  int merges = 0;
  int root = -1;
};

struct TreeSteps {
  const LeafStep* leaves = nullptr;
  int leaf_count = 0;
  const RowStep* rows = nullptr;
  int row_count = 0;
  int stack_depth = 0;  // the greatest
  int root_count = 0;
};

struct DenseForwardArgs {
  const float* x = nullptr;        // value, `in` features
  const float* weights = nullptr;  // (in, out)
  const float* bias = nullptr;     // or none
  float* y = nullptr;              // value, `out` features
  float* workspace = nullptr;      // dense_forward_workspace(out) floats
  int64_t in = 0, out = 0, row_blocks = 0;
  bool relu = false;
};

struct DenseDataGradientArgs {
  const float* dy = nullptr;
  const float* weights = nullptr;
  const float* mask = nullptr;  // or none
  float* dx = nullptr;
  int64_t in = 0, out = 0, row_blocks = 0;
};

struct DenseWeightGradientArgs {
  const float* x = nullptr;
  const float* dy = nullptr;
  float* workspace = nullptr;  // dense_gradient_workspace(...) floats
  TreeSteps tree;
  float* const* kernel_roots = nullptr;
  float* const* bias_roots = nullptr;  // or none
  int64_t in = 0, out = 0, rows = 0;
};

// Adds the lanes of `count` sums (a multiple of 8) to their partitions' leaves and up the tree.
struct LaneReduceArgs {
  const float* sums = nullptr;     // [count][V]
  const RowStep* steps = nullptr;  // of the block's rows
  int rows = 0;
  int64_t count = 0;
  float* leaf = nullptr;   // [count], kept from row block to row block
  float* stack = nullptr;  // [depth][count]
  float* roots = nullptr;  // [root][count]
};

struct PoolArgs {
  const float* x = nullptr;
  const float* y = nullptr;   // backward
  const float* dy = nullptr;  // backward
  float* out = nullptr;       // y or dx
  const float* mask = nullptr;
  int64_t in_height = 0, in_width = 0, channels = 0, out_height = 0, out_width = 0;
  int64_t pool_height = 0, pool_width = 0, stride_height = 0, stride_width = 0;
  int64_t pad_top = 0, pad_left = 0;
  int64_t row_blocks = 0;
};

struct DropoutArgs {
  const float* x = nullptr;
  const float* mask = nullptr;
  float* y = nullptr;
  const uint32_t* positions = nullptr;  // one a lane, row_blocks * V of them
  int64_t features = 0, row_blocks = 0;
  uint64_t key = 0;
  uint32_t epoch = 0, layer = 0;
  float rate = 0, scale = 0;
};

struct CrossEntropyArgs {
  const float* logits = nullptr;
  float* dlogits = nullptr;         // or none
  const int32_t* labels = nullptr;  // one a lane
  float* losses = nullptr;          // one a lane
  float* hits = nullptr;            // one a lane: 1 or 0
  int64_t classes = 0, rows = 0;
  float scale = 0;
};

// A piece of the state. `lanes`: of its digest (host/device/state_digest.h), or none.
struct StateArgs {
  float* weights = nullptr;
  float* slots[kMaxSlots] = {};
  int64_t count = 0;
  uint32_t* lanes = nullptr;
};

struct AdamArgs {
  StateArgs state;  // slots: m, v
  const float* gradient = nullptr;
  float one_minus_beta_1 = 0, one_minus_beta_2 = 0, alpha = 0, epsilon = 0;
};

struct SgdArgs {
  StateArgs state;  // slots: m, or none: no momentum
  const float* gradient = nullptr;
  float learning_rate = 0, momentum = 0;
  bool nesterov = false;
};

struct DigestArgs {
  const float* weights = nullptr;
  const float* slots[kMaxSlots] = {};
  size_t slot_count = 0;
  int64_t count = 0;
  uint32_t* lanes = nullptr;
};

// An expression is evaluated in chunks of at most so many floats, instruction by instruction.
// Intermediate results lie in slots a little longer than a chunk, or they would meet in L1.
inline constexpr int64_t kChunkFloats = 512;
inline constexpr int64_t kSlotFloats = kChunkFloats + 16;

// One instruction, or two where `then` is one: the first one's result t goes nowhere else.
//   then = operand:             result = operation(a, b, c)
//   then = select:              result = select(operation(a, b), c, d)
//   then = add, … (fusible()):  result = then(t, c), or then(c, t) where `flipped`
// result, a, b, c and d are places. `operand` copies a; for a random number a is the stream.
struct ExpressionStep {
  Operation operation = Operation::operand;
  Operation then = Operation::operand;
  bool flipped = false;
  int result = 0, a = 0, b = 0, c = 0, d = 0;
};

// Where a chunk of vectors lies; `step`: floats from one to the next, V, or 0 where all are one.
struct Place {
  float* data = nullptr;
  int64_t step = 0;
};

// Steps over places: operands, scalars, constants, slots, outputs.
struct StepsArgs {
  const ExpressionStep* steps = nullptr;
  int step_count = 0;
  Place* places = nullptr;  // those of scalars, constants and slots are set
  int operand_count = 0, output_count = 0;
  int first_output = 0;  // place
};

enum class OperandKind {
  periodic,  // element f is at f % period
  runs,      // at f / divisor % modulus, with a large divisor: read where it is
  filled,    // likewise, with a small one: copied chunk by chunk
};

struct MapOperandArgs {
  OperandKind kind = OperandKind::periodic;
  const float* data = nullptr;
  bool parameters = false;  // plain memory, the same for all rows; else a value
  int64_t divisor = 1, modulus = 0;
  int64_t period = 0;      // elements of the table, or else of the value
  float* table = nullptr;  // room for vectors of the elements, period after period, or none
  float* chunk = nullptr;  // room for one, where it is filled
};

struct MapArgs {
  StepsArgs steps;
  const MapOperandArgs* operands = nullptr;
  float* y = nullptr;
  int64_t features = 0, row_blocks = 0;
  const uint32_t* positions = nullptr;  // one a lane; for random numbers
  int64_t noise_divisor = 1, noise_modulus = 0;
  uint64_t key = 0;
  uint32_t epoch = 0, layer = 0;
};

// The same over flat memory; outputs may be operands.
struct EvaluateArgs {
  StepsArgs steps;
  const float* const* operands = nullptr;
  float* const* outputs = nullptr;
  float* tails = nullptr;  // V floats for each operand and output
  int64_t count = 0;
};

enum class GatherKind {
  fill,
  copy,      // of `count` features that lie side by side
  parallel,  // the lists are those of the first output, shifted
  single,    // one element each, without a factor
  lists,
};

// Outputs [output, output + count).
struct GatherSegment {
  GatherKind kind = GatherKind::fill;
  int64_t output = 0, count = 0;
};

struct GatherArgs {
  const GatherSegment* segments = nullptr;
  int64_t segment_count = 0;
  const int64_t* begin = nullptr;   // of each output's list
  const int32_t* input = nullptr;   // of each element, or none: there is one
  const int32_t* index = nullptr;   // within the input
  const float* factor = nullptr;    // or none
  const float* const* x = nullptr;  // one an input
  const int64_t* input_features = nullptr;
  const float** bases = nullptr;  // room for a pointer an input
  int input_count = 0;
  float* y = nullptr;
  int64_t outputs = 0, row_blocks = 0;
  bool maximum = false;
  float fill = 0;
};

struct GatherMaximumGradientArgs {
  const int64_t* begin = nullptr;
  const int32_t* index = nullptr;
  const float* x = nullptr;
  const float* y = nullptr;
  const float* dy = nullptr;
  float* dx = nullptr;
  const float* mask = nullptr;
  int64_t inputs = 0, outputs = 0, row_blocks = 0;
  bool split_ties = false;
};

// The channel of feature f is f / divisor % channels; a row holds whole periods of all channels.
struct ChannelShape {
  int64_t features = 0, divisor = 1, channels = 0;
  int64_t terms = 0;  // of a channel in a row
};

// One row block; sums are [channels][V].
struct ChannelSumArgs {
  const float* x = nullptr;
  const float* dy = nullptr;    // for the sums of a gradient
  const float* mean = nullptr;  // likewise, [channels][V]
  ChannelShape shape;
  float* sums = nullptr;  // room for 8 channels more than there are
  // Moments: of (x - the row's mean)^2. Gradient: of dy (x - mean); `sums` is of dy then.
  float* second = nullptr;
};

// One row block. Tables are [channels][V].
struct NormalizeArgs {  // y = (x - mean) scale + shift
  const float* x = nullptr;
  float* y = nullptr;
  const float* mean = nullptr;
  const float* scale = nullptr;
  const float* shift = nullptr;
  ChannelShape shape;
};
struct NormalizeGradientArgs {  // dx = scale (dy - a - (x - mean) b)
  const float* x = nullptr;
  const float* dy = nullptr;
  const float* mask = nullptr;  // or none
  float* dx = nullptr;
  const float* mean = nullptr;
  const float* scale = nullptr;
  const float* a = nullptr;
  const float* b = nullptr;
  ChannelShape shape;
};

struct MatmulArgs {
  const float* x = nullptr;
  const float* z = nullptr;
  float* out = nullptr;
  int64_t batches = 0, rows = 0, inner = 0, columns = 0;
  // Features from one element to the next along batch, row, column.
  int64_t x_strides[3] = {}, z_strides[3] = {}, out_strides[3] = {};
  int64_t x_features = 0, z_features = 0, features = 0, row_blocks = 0;
};

// Over flat memory. Strides in floats.
struct ProductArgs {
  const float* x = nullptr;
  const float* z = nullptr;
  float* out = nullptr;
  int64_t rows = 0, inner = 0, columns = 0;
  int64_t x_row = 0, x_column = 0, z_row = 0, z_column = 0, out_row = 0;
};

struct EmbeddingArgs {
  const float* x = nullptr;
  const float* table = nullptr;    // [vocabulary][units]
  const float* unknown = nullptr;  // [units]: NaN
  const float* nothing = nullptr;  // [units]: zeros, for lanes without a row
  float* y = nullptr;
  int64_t length = 0, vocabulary = 0, units = 0, rows = 0;
};

struct KernelTable {
  int lanes;  // V
  int64_t (*dense_forward_workspace)(int64_t out);
  void (*dense_forward)(const DenseForwardArgs& args);
  void (*dense_data_gradient)(const DenseDataGradientArgs& args);
  int64_t (*dense_gradient_workspace)(int64_t in, int64_t out, int64_t rows, const TreeSteps& tree);
  void (*dense_weight_gradient)(const DenseWeightGradientArgs& args);
  void (*correlate)(const CorrelationArgs& args);
  void (*conv_weight_gradient)(const ConvGradientArgs& args);
  void (*correlate_taps)(const TapCorrelationArgs& args);
  void (*tap_weight_gradient)(const TapGradientArgs& args);
  void (*conv_bias_gradient)(const ConvBiasArgs& args);
  void (*lane_reduce)(const LaneReduceArgs& args);
  void (*pool_forward)(const PoolArgs& args);
  void (*pool_backward)(const PoolArgs& args);
  void (*dropout)(const DropoutArgs& args);
  // y: x, or the output of the relu where x is a gradient.
  void (*relu)(const float* x, float* out, int64_t count);
  void (*relu_gradient)(const float* y, const float* dy, const float* mask, float* dx,
                        int64_t count);
  void (*softmax)(const float* logits, float* out, int64_t classes, int64_t row_blocks);
  void (*cross_entropy)(const CrossEntropyArgs& args);
  // Rows of `features` floats, `stride` apart, to a value; padding lanes get zeros.
  void (*rows_to_lanes)(const float* rows, int64_t row_count, int64_t stride, int64_t features,
                        float* value);
  // And back.
  void (*lanes_to_rows)(const float* value, int64_t row_count, int64_t features, float* rows);
  // out[i][l] = rows[l][i] for i < count rounded up to 8: V rows, a multiple of 8 floats long.
  void (*spread)(const float* const* rows, int64_t count, float* out);
  void (*map)(const MapArgs& args);
  void (*evaluate)(const EvaluateArgs& args);
  void (*gather)(const GatherArgs& args);
  void (*gather_maximum_gradient)(const GatherMaximumGradientArgs& args);
  void (*channel_sums)(const ChannelSumArgs& args);
  void (*channel_moments)(const ChannelSumArgs& args);
  void (*channel_gradients)(const ChannelSumArgs& args);
  // second += terms (sums / terms - mean)^2: deviations from another mean than the row's.
  void (*move_moments)(const ChannelSumArgs& args);
  void (*normalize)(const NormalizeArgs& args);
  void (*normalize_gradient)(const NormalizeGradientArgs& args);
  void (*matmul)(const MatmulArgs& args);
  void (*embedding)(const EmbeddingArgs& args);
  void (*add)(const float* a, const float* b, float* out, int64_t count);
  void (*adam)(const AdamArgs& args);
  void (*sgd)(const SgdArgs& args);
  void (*digest)(const DigestArgs& args);
  // The sum of the squares of at most kSquaresBlock elements.
  double (*squares)(const float* x, int64_t count);
  // As Device::sum_axis.
  void (*sum_axis)(const float* x, const AxisSum& sum, int64_t first, int64_t count, float* out);
  // As Device::multiply, of one product.
  void (*product)(const ProductArgs& args);
  void (*exp)(const float* x, float* out, int64_t count);
  void (*log)(const float* x, float* out, int64_t count);
  // Runs independent FMAs; returns the floating-point operations done.
  int64_t (*fma_loop)(int64_t iterations);
};

const KernelTable& avx2_kernels();
const KernelTable& avx512_kernels();

}  // namespace lockstep::cpu
