// A model as a list of ops over values and flat parameters; what Programs are made from.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "host/device/ops.h"
#include "host/tensor/shape.h"

namespace lockstep {

// An activation or its gradient; one row a sample, or one a partition (its statistics): then
// partition i of the group has features [i * features, (i + 1) * features) of plain memory.
struct Value {
  std::string name;
  Shape shape;  // of one row
  bool per_partition = false;
  bool stopped = false;  // gradients do not go through it
  int64_t features() const { return element_count(shape); }
};

// How an update changes a parameter.
enum class ParameterRole {
  trained,         // by the optimizer
  frozen,          // not at all
  moving_average,  // to old * momentum + (1 - momentum) * the row-weighted mean over the partitions
};

struct Parameter {
  std::string layer;   // the layer's name in the model
  std::string name;    // "kernel", "bias", …
  Shape shape;         // as Keras stores it
  int64_t offset = 0;  // in the flat parameters, which lie end to end in get_weights() order
  ParameterRole role = ParameterRole::trained;
  float momentum = 0;            // of a moving average
  int64_t gradient_offset = -1;  // in a root: of its gradient, or its sum of rows * mean; -1: none
  nlohmann::json initializer;    // {"class_name", "config"}, as Keras writes it
  nlohmann::json regularizer;    // the same, or null
  nlohmann::json constraint;
  int64_t fan_in = 0, fan_out = 0;  // for the initializer; 0: as the shape says
  int64_t count() const { return element_count(shape); }
  std::string path() const { return layer + "/" + name; }
};

// root[to + i] += root[from + i] once the tree has been summed: a parameter that several ops use
// has a gradient of each.
struct GradientSum {
  int64_t to = 0, from = 0, count = 0;
};

struct Graph {
  std::vector<Value> values;
  std::vector<OpDesc> ops;  // in the order of execution
  std::vector<Parameter> parameters;
  int64_t parameter_count = 0;
  // A root holds gradients and moving averages' sums, end to end in the order of the parameters
  // that have them, but for averages of values (RowSumOp), which are the last; then the further
  // gradients of parameters used twice; then metrics.
  int64_t gradient_count = 0;
  std::vector<GradientSum> gradient_sums;
  int64_t metric_count = kMetricCount;
  int64_t flat_size = 0;     // of a root
  std::vector<int> inputs;   // values
  std::vector<int> outputs;  // values: the model's, or where a loss reads them, its logits
  int loss = -1;  // value: each row's loss, to be differentiated; -1: the loss op does it
  int64_t input_features = 0;  // of a batch's row: all inputs side by side
  std::vector<Shape> output_shapes;

  int64_t metrics_offset() const { return flat_size - metric_count; }
  // Whether parameter i has gradient i, and nothing but the optimizer changes it: no regularizer,
  // no constraint.
  bool is_plain() const;
};

// The part [begin, end) of each root that an op writes; empty where it writes none.
struct FlatRange {
  int64_t begin = 0;
  int64_t end = 0;
  bool empty() const { return begin == end; }
  bool operator==(const FlatRange&) const = default;
};
FlatRange written_range(const OpDesc& op);

// The pass of an op; ops that have no gradient run forward.
Pass pass_of(const OpDesc& op);

// Calls visit(int64_t& offset) for each place where an op names parameters that it reads.
template <class Visit>
void visit_parameters(OpAttributes& attributes, const Visit& visit) {
  const auto optional = [&](int64_t& offset) {
    if (offset >= 0) visit(offset);
  };
  if (auto* conv = std::get_if<Conv2dOp>(&attributes)) {
    optional(conv->kernel_offset);
    optional(conv->bias_offset);
  } else if (auto* dense = std::get_if<DenseOp>(&attributes)) {
    optional(dense->kernel_offset);
    optional(dense->bias_offset);
  } else if (auto* embedding = std::get_if<EmbeddingOp>(&attributes)) {
    optional(embedding->offset);
  } else if (auto* norm = std::get_if<BatchNormOp>(&attributes)) {
    optional(norm->gamma_offset);
    optional(norm->beta_offset);
    if (norm->pass == Pass::forward) optional(norm->mean_offset);  // until gradients have places
  } else if (auto* sum = std::get_if<RowSumOp>(&attributes)) {
    if (sum->of_average) visit(sum->offset);
  } else if (auto* map = std::get_if<MapOp>(&attributes)) {
    for (MapOperand& operand : map->operands) {
      if (operand.input < 0) visit(operand.offset);
    }
  }
}

}  // namespace lockstep
