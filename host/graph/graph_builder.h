// Collects the forward ops of a model, layer by layer, before any rewriting.
#pragma once

#include <string>

#include "host/graph/graph.h"

namespace lockstep {

// What flows from layer to layer: a value seen with a shape. Flatten changes the shape alone.
struct SymbolicTensor {
  int value = -1;
  Shape shape;
};

enum class GraphMode { inference, training };

class GraphBuilder {
 public:
  GraphBuilder(const Shape& input_shape, GraphMode mode);

  bool training() const { return mode_ == GraphMode::training; }
  SymbolicTensor input() const { return {graph_.input, graph_.input_shape}; }

  // Parameters, values and ops that follow are this layer's. `index` counts the layers as Keras'
  // model.layers does (without the InputLayer): it keys the layer's randomness.
  void begin_layer(std::string name, int index);
  const std::string& layer_name() const { return layer_name_; }
  int layer_index() const { return layer_index_; }

  // Returns the parameter's offset in the flat vector.
  int64_t add_parameter(std::string name, Shape shape, InitializerKind initializer);
  // Appends a forward op that computes one value from `input`. `what` names it within the layer.
  SymbolicTensor add_op(const std::string& what, OpAttributes attributes,
                        const SymbolicTensor& input, Shape output_shape);

  int64_t parameter_count() const { return graph_.parameter_count; }
  // The forward graph that ends in `output`: flat_size is 0. Call once.
  Graph finish(const SymbolicTensor& output);

 private:
  GraphMode mode_;
  Graph graph_;
  std::string layer_name_;
  int layer_index_ = -1;
};

}  // namespace lockstep
