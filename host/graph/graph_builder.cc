#include "host/graph/graph_builder.h"

#include <algorithm>
#include <numeric>

#include "host/core/check.h"

namespace lockstep {

SymbolicTensor GraphBuilder::add_input(const std::string& name, const Shape& shape) {
  const SymbolicTensor input =
      add_batch_part(BatchPart::inputs, graph_.input_features, name, shape);
  graph_.inputs.push_back(input.value);
  graph_.input_features += input.features();
  return input;
}

SymbolicTensor GraphBuilder::add_batch_part(BatchPart part, int64_t offset, const std::string& name,
                                            const Shape& shape) {
  OpDesc op;
  op.name = name;
  op.attributes = InputOp{.features = element_count(shape), .offset = offset, .part = part};
  op.outputs = {static_cast<int>(graph_.values.size())};
  graph_.values.push_back({name, shape});
  graph_.ops.push_back(std::move(op));
  return {.value = graph_.ops.back().outputs[0], .shape = shape};
}

void GraphBuilder::begin_layer(std::string name, int position, int call) {
  layer_name_ = std::move(name);
  position_ = position;
  call_ = call;
}

int64_t GraphBuilder::add_parameter(const ParameterSpec& spec) {
  const auto number = static_cast<int64_t>(graph_.parameters.size());
  const auto [known, is_new] = known_.try_emplace({position_, spec.name}, number);
  if (!is_new) {
    LOCKSTEP_CHECK(call_ > 0);
    return known->second;
  }
  Parameter parameter;
  parameter.layer = layer_name_;
  parameter.name = spec.name;
  parameter.shape = spec.shape;
  parameter.role = spec.role;
  parameter.momentum = spec.momentum;
  parameter.initializer = spec.initializer;
  parameter.regularizer = spec.regularizer;
  parameter.constraint = spec.constraint;
  parameter.fan_in = spec.fan_in;
  parameter.fan_out = spec.fan_out;
  graph_.parameters.push_back(std::move(parameter));
  positions_.push_back(position_);
  return number;
}

int GraphBuilder::add_value(const std::string& what, const Shape& shape, bool per_partition) {
  graph_.values.push_back({layer_name_ + "/" + what, shape, per_partition});
  return static_cast<int>(graph_.values.size()) - 1;
}

SymbolicTensor GraphBuilder::add_op(const std::string& what, OpAttributes attributes,
                                    const std::vector<SymbolicTensor>& inputs, Shape output_shape) {
  return add_op(what, std::move(attributes), inputs, std::move(output_shape), {});
}

SymbolicTensor GraphBuilder::add_op(const std::string& what, OpAttributes attributes,
                                    const std::vector<SymbolicTensor>& inputs, Shape output_shape,
                                    const std::vector<Shape>& statistics) {
  OpDesc op;
  op.name = layer_name_ + "/" + what;
  op.attributes = std::move(attributes);
  for (const SymbolicTensor& input : inputs) op.inputs.push_back(input.value);
  op.outputs = {add_value(what, output_shape, false)};
  for (const Shape& shape : statistics) {
    op.outputs.push_back(add_value(what + " statistics", shape, true));
  }
  graph_.ops.push_back(std::move(op));
  return {.value = graph_.ops.back().outputs[0], .shape = std::move(output_shape)};
}

void GraphBuilder::add_average(int64_t parameter, const SymbolicTensor& value) {
  OpDesc op;
  op.name = layer_name_ + "/average";
  op.attributes = RowSumOp{value.features(), parameter, true};
  op.inputs = {value.value};
  graph_.ops.push_back(std::move(op));
}

Graph GraphBuilder::finish(const std::vector<SymbolicTensor>& outputs) {
  // Parameters in the order of the layers, which need not be that of the calls.
  std::vector<size_t> order(graph_.parameters.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [this](size_t a, size_t b) { return positions_[a] < positions_[b]; });
  std::vector<Parameter> sorted;
  std::vector<int64_t> offsets(order.size());
  for (const size_t number : order) {
    Parameter& parameter = graph_.parameters[number];
    parameter.offset = graph_.parameter_count;
    offsets[number] = parameter.offset;
    graph_.parameter_count += parameter.count();
    sorted.push_back(std::move(parameter));
  }
  graph_.parameters = std::move(sorted);
  for (OpDesc& op : graph_.ops) {
    visit_parameters(op.attributes,
                     [&](int64_t& offset) { offset = offsets[static_cast<size_t>(offset)]; });
  }
  for (const SymbolicTensor& output : outputs) {
    graph_.outputs.push_back(output.value);
    graph_.output_shapes.push_back(output.shape);
  }
  return std::move(graph_);
}

}  // namespace lockstep
