#include "host/graph/passes.h"

#include <algorithm>
#include <map>
#include <utility>
#include <vector>

#include "host/core/check.h"

namespace lockstep {
namespace {

constexpr int kNoValue = -1;

int count_readers(const Graph& graph, int value) {
  int readers = static_cast<int>(std::count(graph.outputs.begin(), graph.outputs.end(), value));
  readers += value == graph.loss ? 1 : 0;
  for (const OpDesc& op : graph.ops) {
    for (const int input : op.inputs) readers += input == value ? 1 : 0;
    readers += op.relu_mask == value ? 1 : 0;
  }
  return readers;
}

// Index of the op that computes `value`.
int producer_of(const Graph& graph, int value) {
  for (size_t i = 0; i < graph.ops.size(); ++i) {
    for (const int output : graph.ops[i].outputs) {
      if (output == value) return static_cast<int>(i);
    }
  }
  return kNoValue;
}

bool is_relu(const OpDesc& op, Pass pass) {
  return std::holds_alternative<ReluOp>(op.attributes) && pass_of(op) == pass;
}

// The op's own activation, or nullptr where it cannot have one.
Activation* activation_of(OpDesc* op) {
  auto* conv = std::get_if<Conv2dOp>(&op->attributes);
  if (conv != nullptr && conv->pass == Pass::forward) return &conv->activation;
  if (auto* dense = std::get_if<DenseOp>(&op->attributes)) return &dense->activation;
  return nullptr;
}

}  // namespace

void fuse_activations(Graph* graph) {
  std::vector<OpDesc> kept;
  for (OpDesc& op : graph->ops) {
    const bool candidate = is_relu(op, Pass::forward) && !kept.empty() &&
                           kept.back().outputs == op.inputs &&
                           count_readers(*graph, op.inputs[0]) == 1;
    Activation* activation = candidate ? activation_of(&kept.back()) : nullptr;
    if (activation != nullptr && *activation == Activation::linear) {
      *activation = Activation::relu;
      kept.back().outputs = op.outputs;
    } else {
      kept.push_back(op);
    }
  }
  graph->ops = std::move(kept);
}

namespace {

// Whether each value is read, however far, by the loss or an output, in a way that gradients go.
std::vector<bool> read_values(const Graph& graph) {
  std::vector<bool> read(graph.values.size());
  if (graph.loss != kNoValue) {
    read[static_cast<size_t>(graph.loss)] = true;
  } else {
    for (const int output : graph.outputs) read[static_cast<size_t>(output)] = true;
  }
  for (auto op = graph.ops.rbegin(); op != graph.ops.rend(); ++op) {
    const bool is_read = std::any_of(op->outputs.begin(), op->outputs.end(),
                                     [&](int output) { return read[static_cast<size_t>(output)]; });
    for (const int input : op->inputs) {
      const auto value = static_cast<size_t>(input);
      if (is_read && !graph.values[value].stopped) read[value] = true;
    }
  }
  return read;
}

// How often gradients of each trained parameter are computed, by offset, in the order in which
// append_gradients computes them.
std::vector<int64_t> gradient_uses(Graph* graph) {
  const std::vector<bool> read = read_values(*graph);
  std::vector<int64_t> uses;
  for (auto op = graph->ops.rbegin(); op != graph->ops.rend(); ++op) {
    if (op->outputs.empty() || !read[static_cast<size_t>(op->outputs[0])]) continue;
    visit_parameters(op->attributes, [&](int64_t& offset) { uses.push_back(offset); });
  }
  return uses;
}

// Whether a moving average takes what a RowSumOp sums.
bool is_row_average(const Graph& graph, const Parameter& parameter) {
  return std::any_of(graph.ops.begin(), graph.ops.end(), [&](const OpDesc& op) {
    const auto* sum = std::get_if<RowSumOp>(&op.attributes);
    return sum != nullptr && sum->of_average && sum->offset == parameter.offset;
  });
}

bool is_norm_average(const Graph& graph, const Parameter& parameter) {
  return std::any_of(graph.ops.begin(), graph.ops.end(), [&](const OpDesc& op) {
    const auto* norm = std::get_if<BatchNormOp>(&op.attributes);
    if (norm == nullptr || norm->mean_offset < 0) return false;
    return parameter.offset == norm->mean_offset ||
           parameter.offset == norm->mean_offset + norm->channel.modulus;
  });
}

}  // namespace

void place_gradients(Graph* graph, LossMode mode) {
  if (mode == LossMode::measure) {
    graph->flat_size = graph->metric_count;
    return;
  }
  const std::vector<int64_t> uses = gradient_uses(graph);
  std::map<int64_t, Parameter*> by_offset;
  const auto place = [&](Parameter* parameter) {
    parameter->gradient_offset = graph->gradient_count;
    graph->gradient_count += parameter->count();
  };
  for (Parameter& parameter : graph->parameters) {
    by_offset[parameter.offset] = &parameter;
    const bool used = std::find(uses.begin(), uses.end(), parameter.offset) != uses.end();
    const bool has_place = parameter.role == ParameterRole::trained ? used
                           : parameter.role == ParameterRole::moving_average
                               ? is_norm_average(*graph, parameter)
                               : false;
    if (has_place) place(&parameter);
  }
  // They may stand between a kernel and its bias, whose gradients lie end to end.
  for (Parameter& parameter : graph->parameters) {
    if (is_row_average(*graph, parameter)) place(&parameter);
  }
  int64_t end = graph->gradient_count;
  std::map<int64_t, int> seen;
  for (const int64_t offset : uses) {
    const Parameter& parameter = *by_offset.at(offset);
    if (parameter.role != ParameterRole::trained || seen[offset]++ == 0) continue;
    graph->gradient_sums.push_back({parameter.gradient_offset, end, parameter.count()});
    end += parameter.count();
  }
  graph->flat_size = end + graph->metric_count;
}

void attach_softmax_cross_entropy(Graph* graph, LossMode mode) {
  LOCKSTEP_CHECK(!graph->ops.empty());
  OpDesc& last = graph->ops.back();
  LOCKSTEP_CHECK(std::holds_alternative<SoftmaxOp>(last.attributes));
  last.name = "loss";
  last.attributes =
      SoftmaxCrossEntropyOp{.classes = element_count(graph->values[last.inputs[0]].shape),
                            .metrics_offset = graph->metrics_offset()};
  graph->outputs = {last.inputs[0]};
  if (mode == LossMode::differentiate) {
    graph->values[last.outputs[0]].name = "loss/data_gradient";
  } else {
    last.outputs.clear();
  }
}

void fold_relu_gradients(Graph* graph) {
  for (size_t i = 0; i < graph->ops.size();) {
    const OpDesc op = graph->ops[i];
    const int producer = is_relu(op, Pass::data_gradient) ? producer_of(*graph, op.inputs[1]) : -1;
    const bool folds = producer != kNoValue &&
                       pass_of(graph->ops[producer]) == Pass::data_gradient &&
                       graph->ops[producer].relu_mask == kNoValue && op.relu_mask == kNoValue &&
                       count_readers(*graph, op.inputs[1]) == 1;
    if (!folds) {
      ++i;
      continue;
    }
    graph->ops[producer].relu_mask = op.inputs[0];
    graph->ops[producer].outputs = op.outputs;
    graph->ops.erase(graph->ops.begin() + static_cast<std::ptrdiff_t>(i));
  }
}

void drop_dead_ops(Graph* graph) {
  std::vector<bool> read(graph->values.size());
  for (const int output : graph->outputs) read[static_cast<size_t>(output)] = true;
  std::vector<OpDesc> kept;
  for (auto op = graph->ops.rbegin(); op != graph->ops.rend(); ++op) {
    const bool is_read = std::any_of(op->outputs.begin(), op->outputs.end(),
                                     [&](int output) { return read[static_cast<size_t>(output)]; });
    if (!is_read && written_range(*op).empty()) continue;
    for (const int input : op->inputs) read[static_cast<size_t>(input)] = true;
    if (op->relu_mask != kNoValue) read[static_cast<size_t>(op->relu_mask)] = true;
    kept.push_back(std::move(*op));
  }
  std::reverse(kept.begin(), kept.end());
  graph->ops = std::move(kept);
}

namespace {

constexpr size_t kLargestExpression = 48;  // instructions
constexpr size_t kMostOperands = 8;

// Whether `map` reads the whole of input number `input`, each element at its own place.
bool reads_elementwise(const MapOp& map, int input) {
  return std::all_of(map.operands.begin(), map.operands.end(), [&](const MapOperand& operand) {
    return operand.input != input ||
           (operand.broadcast.divisor == 1 && operand.broadcast.modulus == map.features);
  });
}

// `reader` with the expression of `inner`, its input number `input`, in the place of that input.
void join_maps(const OpDesc& inner, int input, OpDesc* reader) {
  const MapOp& from = std::get<MapOp>(inner.attributes);
  MapOp& into = std::get<MapOp>(reader->attributes);
  std::vector<MapOperand> operands;
  std::vector<int> inputs;
  const auto add_operand = [&](MapOperand operand, const std::vector<int>& its_inputs) {
    if (operand.input >= 0) {
      const int value = its_inputs[static_cast<size_t>(operand.input)];
      const auto known = std::find(inputs.begin(), inputs.end(), value);
      operand.input = static_cast<int>(known - inputs.begin());
      if (known == inputs.end()) inputs.push_back(value);
    }
    const auto same = std::find_if(operands.begin(), operands.end(), [&](const MapOperand& other) {
      return other.input == operand.input && other.offset == operand.offset &&
             other.broadcast == operand.broadcast;
    });
    const auto at = static_cast<int>(same - operands.begin());
    if (same == operands.end()) operands.push_back(operand);
    return at;
  };
  ExpressionBuilder e;
  std::vector<Term> inner_terms;
  for (const MapOperand& operand : from.operands) {
    inner_terms.push_back(e.operand(add_operand(operand, inner.inputs)));
  }
  const Term result = e.inlined(from.expression, inner_terms)[0];
  std::vector<Term> terms;
  for (const MapOperand& operand : into.operands) {
    terms.push_back(operand.input == input ? result
                                           : e.operand(add_operand(operand, reader->inputs)));
  }
  into.expression = e.finish(e.inlined(into.expression, terms));
  into.operands = std::move(operands);
  reader->inputs = std::move(inputs);
}

// The MapOp before `at` that can become part of the MapOp `at`: its index, and its input there.
std::pair<int, int> joinable(const Graph& graph, size_t at) {
  const auto* map = std::get_if<MapOp>(&graph.ops[at].attributes);
  if (map == nullptr || map->expression.is_random()) return {kNoValue, kNoValue};
  for (size_t i = 0; i < graph.ops[at].inputs.size(); ++i) {
    const int value = graph.ops[at].inputs[i];
    const int producer = producer_of(graph, value);
    if (producer == kNoValue || count_readers(graph, value) != 1) continue;
    const auto* inner = std::get_if<MapOp>(&graph.ops[static_cast<size_t>(producer)].attributes);
    if (inner == nullptr || inner->expression.is_random() || inner->features != map->features ||
        !reads_elementwise(*map, static_cast<int>(i)) ||
        inner->expression.code.size() + map->expression.code.size() > kLargestExpression ||
        inner->operands.size() + map->operands.size() > kMostOperands) {
      continue;
    }
    return {producer, static_cast<int>(i)};
  }
  return {kNoValue, kNoValue};
}

// A relu or its gradient as an expression of the same bits.
MapOp relu_map(const ReluOp& relu) {
  ExpressionBuilder e;
  const Term zero = e.constant(0);
  const Term x = e.operand(0);
  const bool forward = relu.pass == Pass::forward;
  MapOp map;
  map.features = relu.features;
  map.expression =
      e.finish({forward ? e.maximum(zero, x) : e.select(e.greater(x, zero), e.operand(1), zero)});
  for (int input = 0; input < (forward ? 1 : 2); ++input) {
    map.operands.push_back({input, 0, {1, relu.features}});
  }
  return map;
}

// Makes expressions of the relus (and their gradients) that alone read one, so that they join it.
void write_relus_as_maps(Graph* graph) {
  for (OpDesc& op : graph->ops) {
    const auto* relu = std::get_if<ReluOp>(&op.attributes);
    if (relu == nullptr || count_readers(*graph, op.inputs.back()) != 1) continue;
    const int producer = producer_of(*graph, op.inputs.back());  // of x, or dy
    if (producer == kNoValue) continue;
    const OpDesc& inner = graph->ops[static_cast<size_t>(producer)];
    if (std::holds_alternative<MapOp>(inner.attributes)) op.attributes = relu_map(*relu);
  }
}

}  // namespace

void finish_training_graph(Graph* graph) {
  fuse_activations(graph);
  append_gradients(graph);
  fold_relu_gradients(graph);
  write_relus_as_maps(graph);
  fuse_maps(graph);
  drop_dead_ops(graph);
}

void fuse_maps(Graph* graph) {
  for (size_t at = 0; at < graph->ops.size();) {
    const auto [producer, input] = joinable(*graph, at);
    if (producer == kNoValue) {
      ++at;
      continue;
    }
    join_maps(graph->ops[static_cast<size_t>(producer)], input, &graph->ops[at]);
    graph->ops.erase(graph->ops.begin() + producer);
    --at;
  }
}

}  // namespace lockstep
