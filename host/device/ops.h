// Descriptors of the ops that a device can prepare. They are also the graph's instructions.
//
// Values are activations, one row a sample; a value is named by its index in the graph. Parameters
// and their gradients live in one flat float32 vector each (Keras' get_weights() order, C order
// within a tensor) and are named by their offset there.
#pragma once

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "host/core/partitions.h"

namespace lockstep {

enum class Activation { linear, relu };

// Which of an op's three computations: y = f(x, w), dx from dy, or dw from (x, dy).
enum class Pass { forward, data_gradient, weight_gradient };

// Copies a host batch to the device. Outputs: x.
struct InputOp {
  int64_t features = 0;
};

// Cross-correlation, kernel HWIO, padding with zeros (Keras' Conv2D). The bias is added and the
// activation applied in the same pass.
//   forward: x -> y.   data_gradient: dy -> dx.   weight_gradient: x, dy -> kernel and bias
struct Conv2dOp {
  Pass pass = Pass::forward;
  int in_height = 0, in_width = 0, in_channels = 0;
  int out_height = 0, out_width = 0, out_channels = 0;
  int kernel_height = 0, kernel_width = 0;
  int stride_height = 1, stride_width = 1;
  int pad_top = 0, pad_left = 0;
  Activation activation = Activation::linear;
  int64_t kernel_offset = 0;
  int64_t bias_offset = -1;  // -1: no bias
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

using OpAttributes = std::variant<InputOp, Conv2dOp, DenseOp, MaxPool2dOp, DropoutOp, ReluOp,
                                  SoftmaxOp, SoftmaxCrossEntropyOp>;

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
using UpdateDesc = std::variant<AdamUpdate, SgdUpdate>;

}  // namespace lockstep
