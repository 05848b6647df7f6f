#include "host/graph/passes.h"

#include <utility>
#include <vector>

#include "host/core/check.h"

namespace lockstep {
namespace {

constexpr int kNone = -1;

int count_readers(const Graph& graph, int value) {
  int readers = value == graph.output ? 1 : 0;
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
  return kNone;
}

bool is_relu(const OpDesc& op, Pass pass) {
  return std::holds_alternative<ReluOp>(op.attributes) && pass_of(op) == pass;
}

// The op's own activation, or nullptr where it cannot have one.
Activation* activation_of(OpDesc* op) {
  if (auto* conv = std::get_if<Conv2dOp>(&op->attributes)) return &conv->activation;
  if (auto* dense = std::get_if<DenseOp>(&op->attributes)) return &dense->activation;
  return nullptr;
}

bool has_parameters(const OpDesc& op) {
  return std::holds_alternative<Conv2dOp>(op.attributes) ||
         std::holds_alternative<DenseOp>(op.attributes);
}

// "dense/forward" -> "dense/data_gradient".
std::string gradient_name(const OpDesc& forward, const char* pass) {
  return forward.name.substr(0, forward.name.rfind('/') + 1) + pass;
}

class GradientAppender {
 public:
  explicit GradientAppender(Graph* graph)
      : graph_(*graph), gradients_(graph->values.size(), kNone), needed_(graph->values.size()) {}

  void run() {
    const std::vector<OpDesc> forward = graph_.ops;
    for (const OpDesc& op : forward) mark_needed(op);
    for (auto op = forward.rbegin(); op != forward.rend(); ++op) differentiate(*op);
  }

 private:
  // A value's gradient is needed where a parameter stands before it.
  void mark_needed(const OpDesc& op) {
    bool needed = has_parameters(op);
    for (const int input : op.inputs) needed = needed || needed_[input];
    for (const int output : op.outputs) needed_[output] = needed;
  }

  void differentiate(const OpDesc& op) {
    if (std::holds_alternative<SoftmaxCrossEntropyOp>(op.attributes)) {
      set_gradient(op.inputs[0], op.outputs[0]);
      return;
    }
    if (!needed_[op.outputs[0]]) return;
    int dy = gradients_[op.outputs[0]];
    LOCKSTEP_CHECK(dy != kNone);
    OpDesc fused = op;
    if (Activation* activation = activation_of(&fused);
        activation != nullptr && *activation == Activation::relu) {
      dy = append_relu_gradient(op, dy);
      *activation = Activation::linear;
    }
    if (has_parameters(op)) append_weight_gradient(fused, dy);
    if (needed_[op.inputs[0]]) append_data_gradient(fused, dy);
  }

  int append_relu_gradient(const OpDesc& op, int dy) {
    const int y = op.outputs[0];
    OpDesc gradient;
    gradient.name = gradient_name(op, "relu_gradient");
    gradient.attributes =
        ReluOp{.pass = Pass::data_gradient, .features = graph_.values[y].features()};
    gradient.inputs = {y, dy};
    gradient.outputs = {add_value(gradient.name, y)};
    graph_.ops.push_back(gradient);
    return gradient.outputs[0];
  }

  void append_weight_gradient(const OpDesc& op, int dy) {
    OpDesc gradient;
    gradient.name = gradient_name(op, "weight_gradient");
    gradient.attributes = with_pass(op.attributes, Pass::weight_gradient);
    gradient.inputs = {op.inputs[0], dy};
    graph_.ops.push_back(std::move(gradient));
  }

  void append_data_gradient(const OpDesc& op, int dy) {
    const int x = op.inputs[0];
    const int y = op.outputs[0];
    OpDesc gradient;
    gradient.name = gradient_name(op, "data_gradient");
    gradient.attributes = with_pass(op.attributes, Pass::data_gradient);
    gradient.inputs = {dy};
    if (std::holds_alternative<MaxPool2dOp>(op.attributes)) gradient.inputs = {x, y, dy};
    if (std::holds_alternative<ReluOp>(op.attributes)) gradient.inputs = {y, dy};
    gradient.outputs = {add_value(gradient.name, x)};
    set_gradient(x, gradient.outputs[0]);
    graph_.ops.push_back(std::move(gradient));
  }

  static OpAttributes with_pass(OpAttributes attributes, Pass pass) {
    std::visit(
        [pass](auto& any) {
          if constexpr (requires { any.pass; }) {
            any.pass = pass;
          } else {
            LOCKSTEP_CHECK(false);  // no gradient: nn refuses such models
          }
        },
        attributes);
    return attributes;
  }

  // A value that is read twice would need the sum of two gradients; sequential models have none.
  void set_gradient(int value, int gradient) {
    LOCKSTEP_CHECK(gradients_[value] == kNone);
    gradients_[value] = gradient;
  }

  int add_value(const std::string& name, int like) {
    graph_.values.push_back({name, graph_.values[like].shape});
    return static_cast<int>(graph_.values.size()) - 1;
  }

  Graph& graph_;
  std::vector<int> gradients_;  // of each forward value: the value that holds its gradient
  std::vector<bool> needed_;
};

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

void attach_softmax_cross_entropy(Graph* graph, LossMode mode) {
  LOCKSTEP_CHECK(!graph->ops.empty());
  OpDesc& last = graph->ops.back();
  LOCKSTEP_CHECK(std::holds_alternative<SoftmaxOp>(last.attributes));
  const bool differentiate = mode == LossMode::differentiate;
  const int64_t gradients = differentiate ? graph->parameter_count : 0;
  last.name = "loss";
  last.attributes = SoftmaxCrossEntropyOp{.classes = graph->classes, .metrics_offset = gradients};
  graph->output = last.inputs[0];
  graph->flat_size = gradients + graph->metric_count;
  if (differentiate) {
    graph->values[last.outputs[0]].name = "loss/data_gradient";
  } else {
    last.outputs.clear();
  }
}

void append_gradients(Graph* graph) { GradientAppender(graph).run(); }

void fold_relu_gradients(Graph* graph) {
  for (size_t i = 0; i < graph->ops.size();) {
    const OpDesc op = graph->ops[i];
    const int producer = is_relu(op, Pass::data_gradient) ? producer_of(*graph, op.inputs[1]) : -1;
    const bool folds = producer != kNone && pass_of(graph->ops[producer]) == Pass::data_gradient &&
                       graph->ops[producer].relu_mask == kNone && op.relu_mask == kNone &&
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

}  // namespace lockstep
