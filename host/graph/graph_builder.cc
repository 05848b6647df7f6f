#include "host/graph/graph_builder.h"

#include <utility>

namespace lockstep {

GraphBuilder::GraphBuilder(const Shape& input_shape, GraphMode mode) : mode_(mode) {
  graph_.input = 0;
  graph_.input_shape = input_shape;
  graph_.values.push_back({"input", input_shape});
  OpDesc op;
  op.name = "input";
  op.attributes = InputOp{.features = element_count(input_shape)};
  op.outputs = {graph_.input};
  graph_.ops.push_back(std::move(op));
}

void GraphBuilder::begin_layer(std::string name, int index) {
  layer_name_ = std::move(name);
  layer_index_ = index;
}

int64_t GraphBuilder::add_parameter(std::string name, Shape shape, InitializerKind initializer) {
  Parameter parameter{layer_name_, std::move(name), std::move(shape), graph_.parameter_count,
                      initializer};
  graph_.parameter_count += parameter.count();
  graph_.parameters.push_back(std::move(parameter));
  return graph_.parameters.back().offset;
}

SymbolicTensor GraphBuilder::add_op(const std::string& what, OpAttributes attributes,
                                    const SymbolicTensor& input, Shape output_shape) {
  const int value = static_cast<int>(graph_.values.size());
  graph_.values.push_back({layer_name_ + "/" + what, output_shape});
  OpDesc op;
  op.name = layer_name_ + "/" + what;
  op.attributes = std::move(attributes);
  op.inputs = {input.value};
  op.outputs = {value};
  graph_.ops.push_back(std::move(op));
  return {value, std::move(output_shape)};
}

Graph GraphBuilder::finish(const SymbolicTensor& output) {
  graph_.output = output.value;
  graph_.classes = element_count(output.shape);
  return std::move(graph_);
}

}  // namespace lockstep
