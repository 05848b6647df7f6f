// A model as a list of ops over values and flat parameters; what Programs are made from.
#pragma once

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
  int64_t features() const { return element_count(shape); }
};

enum class InitializerKind { zeros, ones, glorot_uniform };

struct Parameter {
  std::string layer;   // the layer's name in the model
  std::string name;    // "kernel", "bias", …
  Shape shape;         // as Keras stores it
  int64_t offset = 0;  // in the flat vector; parameters lie end to end in get_weights() order
  InitializerKind initializer = InitializerKind::zeros;
  int64_t count() const { return element_count(shape); }
};

struct Graph {
  std::vector<Value> values;
  std::vector<OpDesc> ops;  // in the order of execution
  std::vector<Parameter> parameters;
  int64_t parameter_count = 0;
  int64_t metric_count = kMetricCount;  // floats behind the gradients of a root
  int64_t flat_size = 0;                // of a root: gradients, then metrics; 0 where it has none
  int input = -1;                       // value
  int output = -1;  // value: the probabilities (predict) or logits (training, evaluate)
  Shape input_shape;
  int64_t classes = 0;  // features of the output

  int64_t metrics_offset() const { return flat_size - metric_count; }  // in a root
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

}  // namespace lockstep
