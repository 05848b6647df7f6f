// Descriptors of the ops that a device can prepare. They are also the graph's instructions.
//
// Values are activations, one row a sample; a value is named by its index in the graph. Parameters
// and their gradients live in one flat float32 vector each (Keras' get_weights() order, C order
// within a tensor) and are named by their offset there.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "host/core/partitions.h"
#include "host/device/expression.h"
#include "host/device/state_digest.h"

namespace lockstep {

enum class Activation { linear, relu };

// Which of an op's three computations: y = f(x, w), dx from dy, or dw from (x, dy).
enum class Pass { forward, data_gradient, weight_gradient };

// What a row of a host batch holds.
enum class BatchPart { inputs, targets, weights };

// Copies columns [offset, offset + features) of a host batch to the device. Outputs: x.
struct InputOp {
  int64_t features = 0;
  int64_t offset = 0;
  BatchPart part = BatchPart::inputs;
};

// Cross-correlation, kernel HWIO, padding with zeros (Keras' Conv2D). The bias is added and the
// activation applied in the same pass. Group g of the output channels sees group g of the inputs:
// the kernel's I is in_channels / groups. Transposed convolutions are data gradients.
//   forward: x -> y.   data_gradient: dy -> dx.   weight_gradient: x, dy -> kernel and bias
struct Conv2dOp {
  Pass pass = Pass::forward;
  int in_height = 0, in_width = 0, in_channels = 0;
  int out_height = 0, out_width = 0, out_channels = 0;
  int kernel_height = 0, kernel_width = 0;
  int stride_height = 1, stride_width = 1;
  int pad_top = 0, pad_left = 0;
  int dilation_height = 1, dilation_width = 1;
  int groups = 1;
  Activation activation = Activation::linear;
  int64_t kernel_offset = 0;
  int64_t bias_offset = -1;  // -1: no bias; of the forward pass and the weight gradient

  bool is_plain() const { return dilation_height == 1 && dilation_width == 1 && groups == 1; }
  int group_inputs() const { return in_channels / groups; }
  int group_outputs() const { return out_channels / groups; }
  int64_t kernel_size() const {
    return int64_t{kernel_height} * kernel_width * group_inputs() * out_channels;
  }
};

// y = x kernel + bias, kernel (in, out).
struct DenseOp {
  Pass pass = Pass::forward;
  int64_t in_features = 0, out_features = 0;
  Activation activation = Activation::linear;
  int64_t kernel_offset = 0;
  int64_t bias_offset = -1;
};

// forward: x -> y.   data_gradient: x, y, dy -> dx; the first of equal maxima (in the window's
// row-major order) takes the gradient.
struct MaxPool2dOp {
  Pass pass = Pass::forward;
  int in_height = 0, in_width = 0, channels = 0;
  int out_height = 0, out_width = 0;
  int pool_height = 0, pool_width = 0;
  int stride_height = 1, stride_width = 1;
  int pad_top = 0, pad_left = 0;
};

// Keeps each entry with probability 1 - rate and scales it by 1 / (1 - rate). Feature f of the
// row at position `pos` of epoch e is kept where uniform_from_bits(word f % 4 of
// philox4x32({f / 4, pos, e, layer}, key)) >= rate, with key = derive_key(seed, 'drop', call).
// forward: x -> y.   data_gradient: dy -> dx.
struct DropoutOp {
  Pass pass = Pass::forward;
  int64_t features = 0;
  float rate = 0;
  uint32_t layer = 0;  // index of the layer in the user's config
  uint32_t call = 0;   // and of its call there
};
inline constexpr uint64_t kDropoutPurpose = 0x64726f70;  // 'drop'

// forward: x -> y = max(x, 0).   data_gradient: y, dy -> dx.
struct ReluOp {
  Pass pass = Pass::forward;
  int64_t features = 0;
};

// Where element f of an op finds its element of a smaller operand: (f / divisor) % modulus.
// Channels last: {1, channels}; first: {height * width, channels}; one for a whole row: {1, 1}.
struct Broadcast {
  int64_t divisor = 1;
  int64_t modulus = 0;  // the operand's features
  int64_t at(int64_t f) const { return f / divisor % modulus; }
  bool operator==(const Broadcast&) const = default;
};

struct MapOperand {
  // The operand is op.inputs[input], or where `input` is -1 the parameters at `offset`.
  int input = -1;
  int64_t offset = 0;
  Broadcast broadcast;
};

// y[f] = expression(operands at f), elementwise. Scalar 0 is RunContext::loss_scale. Stream s of
// feature f of the row at position `pos` of epoch e: words of
//   philox4x32({n, pos, e, layer + (s << 20)}, derive_key(seed, 'nois', call)),  n = noise.at(f):
// a uniform number takes the first, a normal one the first two.
// Outputs: y. Inputs as the operands say.
struct MapOp {
  int64_t features = 0;
  Expression expression;
  std::vector<MapOperand> operands;
  Broadcast noise;
  uint32_t layer = 0;
  uint32_t call = 0;
};
inline constexpr uint64_t kNoisePurpose = 0x6e6f6973;  // 'nois'

// roots[offset + c] = the sum over rows and over f with broadcast.at(f) == c of x[f]: in a row by
// rising f, in blocks of a fixed number of terms where the device says so, then rows in order. A
// row holds whole periods of the broadcast. Inputs: x.
struct ParameterSumOp {
  int64_t features = 0;
  Broadcast broadcast;
  int64_t offset = 0;
};

// For each output element a list of input elements, end to end: those of element o are
// [begin[o], begin[o + 1]).
struct IndexLists {
  std::vector<int64_t> begin;  // outputs + 1
  std::vector<int32_t> index;  // of the inputs, laid side by side
  std::vector<float> factor;   // one an index, or empty: all 1
  int64_t inputs = 0;          // input elements
  int64_t outputs() const { return static_cast<int64_t>(begin.size()) - 1; }
};
// The lists of each output, without factors.
IndexLists index_lists(const std::vector<std::vector<int32_t>>& of_outputs, int64_t inputs);
// The lists of the elements that read each input element, by rising output.
IndexLists transposed(const IndexLists& lists);

enum class Gathering { sum, maximum };

// y[o] = the sum of factor * x, or the largest x, over the list of o, in the list's order, the
// first copied (or multiplied); an element with an empty list is `fill`. All that pads, crops,
// permutes, repeats, concatenates, averages or resizes. Inputs: one or more x, side by side.
struct GatherOp {
  std::shared_ptr<const IndexLists> lists;
  std::vector<int64_t> input_features;  // of each input
  Gathering gathering = Gathering::sum;
  float fill = 0;
  bool split_ties = false;  // of a maximum's gradient, see below
};

// The gradient of a GatherOp by maximum. dy[o] goes to the first of the list's elements that equals
// y[o]; with split_ties in equal parts to all of them. dx[i] adds up by rising o. Inputs: x, y, dy.
struct GatherMaximumGradientOp {
  std::shared_ptr<const IndexLists> lists;
  std::shared_ptr<const IndexLists> readers;  // transposed(*lists)
  bool split_ties = false;
};

// For each b and row: out[m, n] = the sum over k of x[m, k] * z[k, n], by rising k. Element [m, k]
// of matrix b of x is x[b * x_strides.batch + m * x_strides.row + k * x_strides.column], and so on.
// Inputs: x, z. Outputs: out, of `features` features.
struct MatrixStrides {
  int64_t batch = 0, row = 0, column = 0;
};
struct MatmulOp {
  int64_t batches = 1, rows = 0, inner = 0, columns = 0;
  MatrixStrides x, z, out;
  int64_t x_features = 0, z_features = 0, features = 0;
};

// y[t * units + u] = parameters[offset + x[t] * units + u]: x holds whole numbers in
// [0, vocabulary); others give NaN. weight_gradient: x, dy -> roots, rows and t in order.
struct EmbeddingOp {
  Pass pass = Pass::forward;
  int64_t length = 0;  // features of x
  int64_t vocabulary = 0, units = 0;
  int64_t offset = 0;
};

// Batch normalization over the rows of each partition (and all features of a channel).
//   forward: x -> y = (x - mean) * deviation * gamma + beta, mean, deviation = 1 / sqrt(variance +
//     epsilon); mean and deviation are partition values of `channel.modulus` features. Also
//     roots[mean_offset + c] = rows * mean, and behind that rows * variance (biased), for the
//     moving averages: summed over the partitions.
//   data_gradient: x, dy, mean, deviation -> dx, and the gradients of gamma and beta in roots.
// Sums run as in ParameterSumOp, for each partition by itself; squared deviations are joined from
// blocks and rows, so that the variance is as accurate as the values.
struct BatchNormOp {
  Pass pass = Pass::forward;
  int64_t features = 0;
  Broadcast channel;
  float epsilon = 0;
  int64_t gamma_offset = -1, beta_offset = -1;      // -1: none, as 1 and 0
  int64_t gamma_gradient = -1, beta_gradient = -1;  // in roots; -1: not wanted
  int64_t mean_offset = -1;                         // in roots; -1: no moving averages
};

// roots[offset + i] = the sum over rows of x[i], rows in order. Inputs: x of `count` features.
struct RowSumOp {
  int64_t count = 0;
  int64_t offset = 0;
  bool of_average = false;  // `offset` names a moving average, until gradients have places
};

// logits -> probabilities, one softmax a row.
struct SoftmaxOp {
  int64_t features = 0;
};

// logits -> dlogits. Sparse categorical crossentropy of softmax(logits); dlogits is
// (softmax - onehot) * loss_scale. Adds two metrics for each root: the sum of the rows' losses at
// metrics_offset and the number of rows whose (first) largest logit is the label at
// metrics_offset + 1, rows summed in order, partitions in the order of the tree. Without
// outputs it only measures.
struct SoftmaxCrossEntropyOp {
  int64_t classes = 0;
  int64_t metrics_offset = 0;
};
inline constexpr int64_t kMetricCount = 2;

using OpAttributes =
    std::variant<InputOp, Conv2dOp, DenseOp, MaxPool2dOp, DropoutOp, ReluOp, SoftmaxOp,
                 SoftmaxCrossEntropyOp, MapOp, ParameterSumOp, GatherOp, GatherMaximumGradientOp,
                 MatmulOp, EmbeddingOp, BatchNormOp, RowSumOp>;

struct OpDesc {
  std::string name;  // layer and pass, for messages and the canary
  OpAttributes attributes;
  std::vector<int> inputs;   // values
  std::vector<int> outputs;  // values
  // A data gradient's result is zeroed where this value (the output of a relu, of the same shape)
  // is not positive; -1: none.
  int relu_mask = -1;
};

// The partitions that one device runs together. Row r of a value belongs to the partition that
// contains it when `rows` are laid end to end.
struct PartitionGroup {
  int first = 0;          // the first partition
  std::vector<int> rows;  // rows of partition first + i; may be 0
  std::vector<Subtree>
      roots;  // gradients and metrics are produced for each of these, in this order
  int total_rows() const {
    int total = 0;
    for (const int count : rows) total += count;
    return total;
  }
  bool operator==(const PartitionGroup&) const = default;
};

// The optimizer's step over a flat piece of memory; scalars are resolved for the step.
struct AdamUpdate {  // m += (g - m) a; v += (g^2 - v) b; w -= m alpha / (sqrt(v) + epsilon)
  float one_minus_beta_1 = 0, one_minus_beta_2 = 0, alpha = 0, epsilon = 0;
};
struct SgdUpdate {  // m = momentum m - lr g; w += m (nesterov: w += momentum m - lr g)
  float learning_rate = 0, momentum = 0;
  bool nesterov = false;
};
// A moving average of what the gradient holds as a sum: w = w momentum + (g scale) (1 - momentum).
struct MovingAverageUpdate {
  float momentum = 0, one_minus_momentum = 0, scale = 0;
};
// Any other formula. Operands: 0 the gradient, 1 the weight, 2… the slots; outputs: the new slots
// in order, then the new weight.
struct ExpressionUpdate {
  std::shared_ptr<const Expression> expression;  // the same object step after step
  std::array<float, 8> scalars = {};
  int scalar_count = 0;
  std::span<const float> used_scalars() const {
    return std::span(scalars).first(static_cast<size_t>(scalar_count));
  }
};
using UpdateDesc = std::variant<AdamUpdate, SgdUpdate, MovingAverageUpdate, ExpressionUpdate>;

// The operands and outputs of an ExpressionUpdate.
struct ExpressionMemory {
  std::array<const float*, 2 + kMaxSlots> operands = {};
  std::array<float*, kMaxSlots + 1> outputs = {};
  size_t slots = 0;

  ExpressionMemory(const float* gradient, float* weights, std::span<float* const> slot_memory)
      : slots(slot_memory.size()) {
    operands[0] = gradient;
    operands[1] = weights;
    for (size_t i = 0; i < slots; ++i) operands[2 + i] = outputs[i] = slot_memory[i];
    outputs[slots] = weights;
  }
  std::span<const float* const> inputs() const { return std::span(operands).first(2 + slots); }
  std::span<float* const> results() const { return std::span(outputs).first(slots + 1); }
};

}  // namespace lockstep
