// Gradients as a rewriting of the graph: one rule an op.
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "host/core/check.h"
#include "host/graph/passes.h"

namespace lockstep {
namespace {

constexpr int kNone = -1;

// "dense/forward" -> "dense/data_gradient".
std::string gradient_name(const OpDesc& forward, const std::string& pass) {
  return forward.name.substr(0, forward.name.rfind('/') + 1) + pass;
}

template <class Attributes>
Attributes with_pass(Attributes attributes, Pass pass) {
  attributes.pass = pass;
  return attributes;
}

class GradientAppender {
 public:
  explicit GradientAppender(Graph* graph)
      : graph_(*graph), gradients_(graph->values.size(), kNone), needed_(graph->values.size()) {
    for (const Parameter& parameter : graph_.parameters) uses_[parameter.offset] = 0;
  }

  void run() {
    const std::vector<OpDesc> forward = graph_.ops;
    for (const OpDesc& op : forward) mark_needed(op);
    place_moving_averages();
    if (graph_.loss != kNone) seed();
    for (auto op = forward.rbegin(); op != forward.rend(); ++op) {
      std::visit([&](const auto& attributes) { differentiate_op(*op, attributes); },
                 op->attributes);
    }
  }

 private:
  // --- what is needed ---

  const Parameter* parameter_at(int64_t offset) const {
    for (const Parameter& parameter : graph_.parameters) {
      if (parameter.offset == offset) return &parameter;
    }
    return nullptr;
  }
  bool is_trained(int64_t offset) const {
    const Parameter* parameter = offset < 0 ? nullptr : parameter_at(offset);
    return parameter != nullptr && parameter->role == ParameterRole::trained &&
           parameter->gradient_offset >= 0;
  }

  // A value's gradient is needed where a trained parameter stands before it, and it is not stopped.
  void mark_needed(const OpDesc& op) {
    bool needed = false;
    OpAttributes attributes = op.attributes;
    visit_parameters(attributes, [&](int64_t& offset) { needed = needed || is_trained(offset); });
    for (const int input : op.inputs) needed = needed || needed_[input];
    for (const int output : op.outputs) {
      needed_[output] = needed && !graph_.values[static_cast<size_t>(output)].stopped;
    }
  }
  bool needs(int value) const { return needed_[static_cast<size_t>(value)]; }

  // Where the next gradient of a parameter goes: the first to its own place, each further one to
  // the next of its extra places.
  int64_t gradient_place(int64_t offset) {
    const Parameter* parameter = parameter_at(offset);
    const int use = uses_[offset]++;
    if (use == 0) return parameter->gradient_offset;
    int extra = 0;
    for (const GradientSum& sum : graph_.gradient_sums) {
      if (sum.to == parameter->gradient_offset && ++extra == use) return sum.from;
    }
    LOCKSTEP_CHECK(false);
    return kNone;
  }

  void place_moving_averages() {
    for (OpDesc& op : graph_.ops) {
      if (auto* sum = std::get_if<RowSumOp>(&op.attributes); sum != nullptr && sum->of_average) {
        *sum = {sum->count, parameter_at(sum->offset)->gradient_offset};
      }
      auto* norm = std::get_if<BatchNormOp>(&op.attributes);
      if (norm == nullptr || norm->pass != Pass::forward || norm->mean_offset < 0) continue;
      norm->mean_offset = parameter_at(norm->mean_offset)->gradient_offset;
    }
  }

  // --- adding ops ---

  int add_value(const std::string& name, const Shape& shape) {
    graph_.values.push_back({name, shape});
    return static_cast<int>(graph_.values.size()) - 1;
  }
  const Shape& shape_of(int value) const { return graph_.values[static_cast<size_t>(value)].shape; }
  int64_t features_of(int value) const {
    return graph_.values[static_cast<size_t>(value)].features();
  }

  int append(const std::string& name, OpAttributes attributes, std::vector<int> inputs,
             const Shape& shape) {
    const int value = add_value(name, shape);
    graph_.ops.push_back({name, std::move(attributes), std::move(inputs), {value}});
    return value;
  }
  void append_sink(const std::string& name, OpAttributes attributes, std::vector<int> inputs) {
    graph_.ops.push_back({name, std::move(attributes), std::move(inputs), {}});
  }

  static MapOperand whole(int input, int64_t features) { return {input, 0, {1, features}}; }

  // The gradient of a value; a second one is added to the first.
  void add_gradient(int value, int gradient) {
    int& known = gradients_[static_cast<size_t>(value)];
    if (known == kNone) {
      known = gradient;
      return;
    }
    ExpressionBuilder e;
    MapOp sum;
    sum.features = features_of(value);
    sum.expression = e.finish({e.operand(0) + e.operand(1)});
    sum.operands = {whole(0, sum.features), whole(1, sum.features)};
    known = append(graph_.values[static_cast<size_t>(value)].name + "/gradient_sum", sum,
                   {known, gradient}, shape_of(value));
  }
  int gradient_of(const OpDesc& op) const {
    return needs(op.outputs[0]) ? gradients_[static_cast<size_t>(op.outputs[0])] : kNone;
  }

  // The gradient of the sum of the rows' losses, scaled.
  void seed() {
    ExpressionBuilder e;
    MapOp map;
    map.features = 1;
    map.expression = e.finish({e.scalar(0)});
    add_gradient(graph_.loss, append("loss/data_gradient", map, {}, {1}));
  }

  // --- a rule an op; those without one are leaves or end the graph ---

  template <class Attributes>
  void differentiate_op(const OpDesc&, const Attributes&) {}

  void differentiate_op(const OpDesc& op, const SoftmaxCrossEntropyOp&) {
    if (!op.outputs.empty()) add_gradient(op.inputs[0], op.outputs[0]);
  }

  int relu_gradient(const OpDesc& op, int dy) {
    const int y = op.outputs[0];
    return append(gradient_name(op, "relu_gradient"),
                  ReluOp{.pass = Pass::data_gradient, .features = features_of(y)}, {y, dy},
                  shape_of(y));
  }

  // Convolution and dense: a kernel, perhaps a bias, perhaps a relu.
  template <class Kernel>
  void differentiate_kernel(const OpDesc& op, Kernel kernel) {
    int dy = gradient_of(op);
    if (dy == kNone) return;
    if (kernel.activation == Activation::relu) dy = relu_gradient(op, dy);
    kernel.activation = Activation::linear;
    const int x = op.inputs[0];
    // A transposed convolution runs a data gradient forward: its own gradients change places.
    const bool backwards = kernel.pass == Pass::data_gradient;
    if (is_trained(kernel.kernel_offset)) {
      Kernel gradient = with_pass(kernel, Pass::weight_gradient);
      gradient.kernel_offset = gradient_place(kernel.kernel_offset);
      if (kernel.bias_offset >= 0) gradient.bias_offset = gradient_place(kernel.bias_offset);
      append_sink(gradient_name(op, "weight_gradient"), gradient,
                  backwards ? std::vector<int>{dy, x} : std::vector<int>{x, dy});
    }
    if (!needs(x)) return;
    const Pass pass = backwards ? Pass::forward : Pass::data_gradient;
    add_gradient(
        x, append(gradient_name(op, "data_gradient"), with_pass(kernel, pass), {dy}, shape_of(x)));
  }
  void differentiate_op(const OpDesc& op, const Conv2dOp& conv) { differentiate_kernel(op, conv); }
  void differentiate_op(const OpDesc& op, const DenseOp& dense) { differentiate_kernel(op, dense); }

  template <class Attributes>
  void differentiate_simple(const OpDesc& op, const Attributes& attributes,
                            std::vector<int> inputs) {
    const int dy = gradient_of(op);
    if (dy == kNone || !needs(op.inputs[0])) return;
    inputs.push_back(dy);
    add_gradient(op.inputs[0], append(gradient_name(op, "data_gradient"),
                                      with_pass(attributes, Pass::data_gradient), std::move(inputs),
                                      shape_of(op.inputs[0])));
  }
  void differentiate_op(const OpDesc& op, const MaxPool2dOp& pool) {
    differentiate_simple(op, pool, {op.inputs[0], op.outputs[0]});
  }
  void differentiate_op(const OpDesc& op, const DropoutOp& dropout) {
    differentiate_simple(op, dropout, {});
  }
  void differentiate_op(const OpDesc& op, const ReluOp& relu) {
    differentiate_simple(op, relu, {op.outputs[0]});
  }

  // dx = (dy - sum(dy * y)) * y
  void differentiate_op(const OpDesc& op, const SoftmaxOp& softmax) {
    const int dy = gradient_of(op);
    if (dy == kNone) return;
    const int y = op.outputs[0];
    ExpressionBuilder e;
    MapOp product;
    product.features = softmax.features;
    product.expression = e.finish({e.operand(0) * e.operand(1)});
    product.operands = {whole(0, softmax.features), whole(1, softmax.features)};
    const int products = append(gradient_name(op, "products"), product, {dy, y}, shape_of(y));
    const int total = sum_to(op, products, {1, 1}, {1});
    ExpressionBuilder d;
    MapOp map;
    map.features = softmax.features;
    map.expression = d.finish({(d.operand(0) - d.operand(1)) * d.operand(2)});
    map.operands = {whole(0, softmax.features), {1, 0, {1, 1}}, whole(2, softmax.features)};
    add_gradient(op.inputs[0], append(gradient_name(op, "data_gradient"), map, {dy, total, y},
                                      shape_of(op.inputs[0])));
  }

  // Sums a value over the elements that a broadcast joins.
  int sum_to(const OpDesc& op, int value, const Broadcast& broadcast, const Shape& shape) {
    const int64_t features = features_of(value);
    std::vector<std::vector<int32_t>> readers(static_cast<size_t>(broadcast.modulus));
    for (int64_t f = 0; f < features; ++f) {
      readers[static_cast<size_t>(broadcast.at(f))].push_back(static_cast<int32_t>(f));
    }
    GatherOp gather;
    gather.input_features = {features};
    gather.lists = std::make_shared<IndexLists>(index_lists(readers, features));
    return append(gradient_name(op, "sum"), gather, {value}, shape);
  }

  void differentiate_op(const OpDesc& op, const MapOp& map) {
    const int dy = gradient_of(op);
    if (dy == kNone) return;
    const int operands = static_cast<int>(map.operands.size());
    for (int k = 0; k < operands; ++k) {
      const MapOperand& operand = map.operands[static_cast<size_t>(k)];
      const bool parameter = operand.input < 0;
      if (parameter ? !is_trained(operand.offset)
                    : !needs(op.inputs[static_cast<size_t>(operand.input)])) {
        continue;
      }
      MapOp gradient = map;
      gradient.expression = differentiate(map.expression, operands, {k});
      std::vector<int> inputs = op.inputs;
      gradient.operands.push_back(whole(static_cast<int>(inputs.size()), map.features));
      inputs.push_back(dy);
      drop_unread(&gradient, &inputs);
      const Shape& shape = shape_of(op.outputs[0]);
      const int of_elements =
          append(gradient_name(op, "data_gradient"), gradient, std::move(inputs), shape);
      if (parameter) {
        append_sink(gradient_name(op, "weight_gradient"),
                    ParameterSumOp{map.features, operand.broadcast, gradient_place(operand.offset)},
                    {of_elements});
        continue;
      }
      const int x = op.inputs[static_cast<size_t>(operand.input)];
      const bool same = operand.broadcast.divisor == 1 && operand.broadcast.modulus == map.features;
      add_gradient(x, same ? of_elements : sum_to(op, of_elements, operand.broadcast, shape_of(x)));
    }
  }

  // Operands and inputs that an expression does not read.
  static void drop_unread(MapOp* map, std::vector<int>* inputs) {
    std::vector<int> operand_at(map->operands.size(), kNone);
    std::vector<int> input_at(inputs->size(), kNone);
    std::vector<MapOperand> operands;
    std::vector<int> kept;
    for (Instruction& instruction : map->expression.code) {
      if (instruction.operation != Operation::operand) continue;
      int& place = operand_at[static_cast<size_t>(instruction.a)];
      if (place == kNone) {
        MapOperand operand = map->operands[static_cast<size_t>(instruction.a)];
        if (operand.input >= 0) {
          int& input = input_at[static_cast<size_t>(operand.input)];
          if (input == kNone) {
            input = static_cast<int>(kept.size());
            kept.push_back((*inputs)[static_cast<size_t>(operand.input)]);
          }
          operand.input = input;
        }
        place = static_cast<int>(operands.size());
        operands.push_back(operand);
      }
      instruction.a = place;
    }
    map->operands = std::move(operands);
    *inputs = std::move(kept);
  }

  void differentiate_op(const OpDesc& op, const GatherOp& gather) {
    const int dy = gradient_of(op);
    if (dy == kNone) return;
    if (gather.gathering == Gathering::maximum) {
      const int x = op.inputs[0];
      LOCKSTEP_CHECK(op.inputs.size() == 1);
      GatherMaximumGradientOp gradient;
      gradient.lists = gather.lists;
      gradient.readers = std::make_shared<IndexLists>(transposed(*gather.lists));
      gradient.split_ties = gather.split_ties;
      if (!needs(x)) return;
      add_gradient(x, append(gradient_name(op, "data_gradient"), gradient, {x, op.outputs[0], dy},
                             shape_of(x)));
      return;
    }
    const IndexLists readers = transposed(*gather.lists);
    int64_t begin = 0;
    for (size_t i = 0; i < op.inputs.size(); ++i) {
      const int64_t end = begin + gather.input_features[i];
      if (needs(op.inputs[i])) {
        GatherOp gradient;
        gradient.lists = std::make_shared<IndexLists>(part_of(readers, begin, end));
        gradient.input_features = {readers.inputs};
        add_gradient(op.inputs[i], append(gradient_name(op, "data_gradient"), gradient, {dy},
                                          shape_of(op.inputs[i])));
      }
      begin = end;
    }
  }

  static IndexLists part_of(const IndexLists& lists, int64_t begin, int64_t end) {
    IndexLists part;
    part.inputs = lists.inputs;
    const int64_t first = lists.begin[static_cast<size_t>(begin)];
    const int64_t last = lists.begin[static_cast<size_t>(end)];
    for (int64_t o = begin; o <= end; ++o) {
      part.begin.push_back(lists.begin[static_cast<size_t>(o)] - first);
    }
    part.index.assign(lists.index.begin() + first, lists.index.begin() + last);
    if (!lists.factor.empty()) {
      part.factor.assign(lists.factor.begin() + first, lists.factor.begin() + last);
    }
    return part;
  }

  void differentiate_op(const OpDesc& op, const MatmulOp& product) {
    const int dy = gradient_of(op);
    if (dy == kNone) return;
    const auto flipped = [](const MatrixStrides& strides) {
      return MatrixStrides{strides.batch, strides.column, strides.row};
    };
    if (needs(op.inputs[0])) {  // dx[m, k] = the sum over n of dy[m, n] z[k, n]
      MatmulOp dx{product.batches,    product.rows,       product.columns, product.inner,
                  product.out,        flipped(product.z), product.x,       product.features,
                  product.z_features, product.x_features};
      add_gradient(op.inputs[0], append(gradient_name(op, "data_gradient"), dx, {dy, op.inputs[1]},
                                        shape_of(op.inputs[0])));
    }
    if (needs(op.inputs[1])) {  // dz[k, n] = the sum over m of x[m, k] dy[m, n]
      MatmulOp dz{product.batches,    product.inner,     product.rows, product.columns,
                  flipped(product.x), product.out,       product.z,    product.x_features,
                  product.features,   product.z_features};
      add_gradient(op.inputs[1], append(gradient_name(op, "data_gradient"), dz, {op.inputs[0], dy},
                                        shape_of(op.inputs[1])));
    }
  }

  void differentiate_op(const OpDesc& op, const EmbeddingOp& embedding) {
    const int dy = gradient_of(op);
    if (dy == kNone || !is_trained(embedding.offset)) return;
    EmbeddingOp gradient = with_pass(embedding, Pass::weight_gradient);
    gradient.offset = gradient_place(embedding.offset);
    append_sink(gradient_name(op, "weight_gradient"), gradient, {op.inputs[0], dy});
  }

  void differentiate_op(const OpDesc& op, const BatchNormOp& norm) {
    const int dy = gradient_of(op);
    if (dy == kNone) return;
    BatchNormOp gradient = with_pass(norm, Pass::data_gradient);
    gradient.mean_offset = kNone;
    if (is_trained(norm.gamma_offset)) gradient.gamma_gradient = gradient_place(norm.gamma_offset);
    if (is_trained(norm.beta_offset)) gradient.beta_gradient = gradient_place(norm.beta_offset);
    const int x = op.inputs[0];
    const int dx = append(gradient_name(op, "data_gradient"), gradient,
                          {x, dy, op.outputs[1], op.outputs[2]}, shape_of(x));
    if (needs(x)) add_gradient(x, dx);
  }

  Graph& graph_;
  std::vector<int> gradients_;  // of each forward value: the value that holds its gradient
  std::vector<bool> needed_;
  std::map<int64_t, int> uses_;  // gradients placed so far, by the parameter's offset
};

}  // namespace

void append_gradients(Graph* graph) { GradientAppender(graph).run(); }

}  // namespace lockstep
