// Collects the forward ops of a model, call by call, before any rewriting.
#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "host/graph/graph.h"

namespace lockstep {

// What flows from layer to layer: a value seen with a shape. Flatten changes the shape alone.
struct SymbolicTensor {
  int value = -1;
  Shape shape;
  // Keras' mask: a value that is 1 where an entry of the first axes counts and 0 where it does
  // not; -1: all count. Its shape begins the tensor's.
  int mask = -1;
  Shape mask_shape = {};
  int64_t features() const { return element_count(shape); }
};

enum class GraphMode { inference, training };

// What a layer says of a parameter.
struct ParameterSpec {
  std::string name;
  Shape shape;
  nlohmann::json initializer;
  nlohmann::json regularizer;
  nlohmann::json constraint;
  ParameterRole role = ParameterRole::trained;
  float momentum = 0;
  int64_t fan_in = 0, fan_out = 0;  // for its initializer; 0: as its shape says
};

class GraphBuilder {
 public:
  explicit GraphBuilder(GraphMode mode) : mode_(mode) {}

  GraphMode mode() const { return mode_; }
  // The next input of the model: columns of a batch's inputs in the order of the calls.
  SymbolicTensor add_input(const std::string& name, const Shape& shape);
  // Columns [offset, offset + features of shape) of a batch's targets or weights.
  SymbolicTensor add_batch_part(BatchPart part, int64_t offset, const std::string& name,
                                const Shape& shape);

  // Parameters, values and ops that follow are this layer's. `position` orders the parameters in
  // the flat vector: by layer, then as they were added. A layer that is called again (`call` > 0)
  // gets the parameters that it has.
  void begin_layer(std::string name, int position, int call);
  const std::string& layer_name() const { return layer_name_; }
  int position() const { return position_; }

  // Stands for the parameter in ops until finish() knows its offset.
  int64_t add_parameter(const ParameterSpec& spec);
  // Appends a forward op that computes one value from `inputs`. `what` names it within the layer.
  SymbolicTensor add_op(const std::string& what, OpAttributes attributes,
                        const std::vector<SymbolicTensor>& inputs, Shape output_shape);
  // The same for ops with further outputs, which hold a row of that shape for each partition.
  SymbolicTensor add_op(const std::string& what, OpAttributes attributes,
                        const std::vector<SymbolicTensor>& inputs, Shape output_shape,
                        const std::vector<Shape>& statistics);
  // The moving average takes the mean of a value over the rows, of as many features.
  void add_average(int64_t parameter, const SymbolicTensor& value);
  // Gradients go no further than this value: what it is made of counts as constant.
  void stop_gradient(const SymbolicTensor& value) {
    graph_.values[static_cast<size_t>(value.value)].stopped = true;
  }
  // Adds a value of one feature to each row's loss, beside what the objective says.
  void add_row_loss(const SymbolicTensor& loss) { row_losses_.push_back(loss); }
  const std::vector<SymbolicTensor>& row_losses() const { return row_losses_; }
  // The forward graph that ends in `outputs`: flat_size is 0. Call once.
  Graph finish(const std::vector<SymbolicTensor>& outputs);

 private:
  int add_value(const std::string& what, const Shape& shape, bool per_partition);

  const GraphMode mode_;
  Graph graph_;
  std::string layer_name_;
  int position_ = 0;
  int call_ = 0;
  std::vector<SymbolicTensor> row_losses_;
  std::vector<int> positions_;                            // of each parameter's layer
  std::map<std::pair<int, std::string>, int64_t> known_;  // by position and name
};

}  // namespace lockstep
