#include <numeric>

#include "tests/cpu/cpu_test_support.h"

namespace lockstep::cpu_test {

OpCase map_case(const MapOp& op, const std::string& name, bool relu_mask) {
  OpCase c{.name = name, .attributes = op, .output = op.features, .relu_mask = relu_mask};
  for (const MapOperand& operand : op.operands) {
    if (operand.input >= 0) {
      c.inputs.resize(std::max(c.inputs.size(), static_cast<size_t>(operand.input) + 1));
      c.inputs[static_cast<size_t>(operand.input)] = operand.broadcast.modulus;
    } else {
      c.parameters = std::max(c.parameters, operand.offset + operand.broadcast.modulus);
    }
  }
  return c;
}

std::vector<OpCase> joined(std::vector<OpCase> a, const std::vector<OpCase>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

namespace {

using Lists = std::vector<std::vector<int32_t>>;

std::shared_ptr<const IndexLists> index_lists(const Lists& lists, int64_t inputs,
                                              bool factors = false) {
  IndexLists result{.begin = {0}, .inputs = inputs};
  for (const std::vector<int32_t>& list : lists) {
    for (const int32_t index : list) {
      result.index.push_back(index);
      if (factors) {
        result.factor.push_back(list.size() == 1 ? 1.0f : 1.0f / static_cast<float>(list.size()));
      }
    }
    result.begin.push_back(static_cast<int64_t>(result.index.size()));
  }
  return std::make_shared<const IndexLists>(std::move(result));
}

// Windows over a square image with `channels`; `pad` empty entries before and behind.
Lists windows(int size, int channels, int window, int stride, int pad) {
  Lists lists;
  const int outs = (size + 2 * pad - window) / stride + 1;
  for (int o = 0; o < outs * outs * channels; ++o) {
    lists.emplace_back();
    for (int i = 0; i < window * window; ++i) {
      const int y = o / channels / outs * stride + i / window - pad;
      const int x = o / channels % outs * stride + i % window - pad;
      if (y < 0 || y >= size || x < 0 || x >= size) continue;
      lists.back().push_back((y * size + x) * channels + o % channels);
    }
  }
  return lists;
}

// Each output takes one element in an order that has no runs, and some none.
Lists shuffled(int64_t inputs, int64_t outputs) {
  Lists lists(static_cast<size_t>(outputs));
  for (int64_t o = 0; o < outputs; ++o) {
    if (o % 7 != 3) lists[static_cast<size_t>(o)] = {static_cast<int32_t>(o * 17 % inputs)};
  }
  return lists;
}

// Lists of all lengths.
Lists ragged(int64_t inputs, int64_t outputs) {
  Lists lists(static_cast<size_t>(outputs));
  for (int64_t o = 0; o < outputs; ++o) {
    for (int64_t i = 0; i < o % 5; ++i) {
      lists[static_cast<size_t>(o)].push_back(static_cast<int32_t>((o * 11 + i * 3) % inputs));
    }
  }
  return lists;
}

MapOp map_of(int64_t features, const Expression& expression,
             const std::vector<MapOperand>& operands) {
  MapOp op;
  op.features = features;
  op.expression = expression;
  op.operands = operands;
  op.noise = {1, features};
  op.layer = 3;
  op.call = 1;
  return op;
}

Expression gelu() {
  ExpressionBuilder e;
  const Term x = e.operand(0);
  return e.finish({x * 0.5 * (e.erf(x * 0.70710678) + 1.0)});
}

Expression weighted_sum() {
  ExpressionBuilder e;
  const Term sum = e.operand(0) * e.operand(1) + e.operand(2) * e.scalar(0);
  return e.finish({sum - e.operand(3) / (e.absolute(e.operand(0)) + 1.0)});
}

Expression noisy() {
  ExpressionBuilder e;
  const Term kept = e.greater_equal(e.uniform(1), e.constant(0.25));
  return e.finish({e.select(kept, e.operand(0) + e.normal(0) * 0.5, e.uniform(0))});
}

void add_maps(std::vector<OpCase>* cases) {
  ExpressionBuilder e;
  const Expression sum = e.finish({e.operand(0) + e.operand(1)});
  const Expression relu6 =
      e.finish({e.minimum(e.maximum(e.operand(0), e.constant(0)), e.constant(0.5))});
  const Term zero = e.constant(0);
  const Expression relu_of_sum = e.finish({e.maximum(zero, e.operand(0) + e.operand(1))});
  const Expression gated_sum =
      e.finish({e.select(e.greater(e.operand(2), zero), e.operand(0) + e.operand(1), zero)});
  for (const int64_t features : {1, 10, 64, 150}) {
    const MapOperand x{.input = 0, .broadcast = {1, features}};
    const MapOperand z{.input = 1, .broadcast = {1, features}};
    const MapOperand y{.input = 2, .broadcast = {1, features}};
    cases->push_back(map_case(map_of(features, relu_of_sum, {x, z}), "relu of a sum"));
    cases->push_back(map_case(map_of(features, gated_sum, {x, z, y}), "gated sum"));
    cases->push_back(map_case(map_of(features, sum, {x, z}), "sum", features == 10));
    cases->push_back(map_case(map_of(features, relu6, {x}), "relu6"));
    cases->push_back(map_case(map_of(features, gelu(), {x}), "gelu"));
    const MapOperand scale{.input = -1, .offset = 3, .broadcast = {1, features}};
    cases->push_back(map_case(map_of(features, sum, {scale, x}), "parameters"));
    MapOp noise = map_of(features, noisy(), {x});
    cases->push_back(map_case(noise, "noise"));
    noise.noise = {1, 1};
    cases->push_back(map_case(noise, "noise of a row"));
  }
  // Channels last, channels first, one a row, and a scalar of the parameters.
  for (const int64_t channels : {1, 3, 16, 40}) {
    const int64_t features = channels * 12;
    const std::vector<MapOperand> operands = {{.input = 0, .broadcast = {1, features}},
                                              {.input = 1, .broadcast = {1, channels}},
                                              {.input = -1, .broadcast = {12, channels}},
                                              {.input = 2, .broadcast = {1, 1}}};
    cases->push_back(map_case(map_of(features, weighted_sum(), operands), "channels", true));
    MapOp op = map_of(features, weighted_sum(), operands);
    op.operands[1] = {.input = -1, .offset = 1, .broadcast = {1, channels}};
    op.operands[2] = {.input = 1, .broadcast = {12, channels}};
    op.operands[3] = {.input = -1, .broadcast = {1, 1}};
    cases->push_back(map_case(op, "channels of parameters"));
    op.expression = noisy();
    op.noise = {12, channels};
    cases->push_back(map_case(op, "noise of channels"));
    op.noise = {1, channels};
    cases->push_back(map_case(op, "noise of last channels"));
  }
}

void add_gather(const std::string& name, const Lists& lists, const std::vector<int64_t>& inputs,
                std::vector<OpCase>* cases) {
  const int64_t total = std::accumulate(inputs.begin(), inputs.end(), int64_t{0});
  for (const Gathering gathering : {Gathering::sum, Gathering::maximum}) {
    for (const bool factors : {false, true}) {
      GatherOp op;
      op.lists = index_lists(lists, total, factors);
      op.input_features = inputs;
      op.gathering = gathering;
      op.fill = 0.25f;
      cases->push_back({name, op, inputs, op.lists->outputs(), factors});
    }
  }
  if (inputs.size() > 1) return;
  for (const bool split : {false, true}) {
    GatherMaximumGradientOp op;
    op.lists = index_lists(lists, total);
    op.split_ties = split;
    const int64_t outputs = op.lists->outputs();
    cases->push_back({name + " gradient", op, {total, outputs, outputs}, total, split});
  }
  GatherOp readers;
  readers.lists = std::make_shared<const IndexLists>(transposed(*index_lists(lists, total, true)));
  readers.input_features = {readers.lists->inputs};
  cases->push_back(
      {name + " transposed", readers, readers.input_features, readers.lists->outputs()});
}

void add_gathers(std::vector<OpCase>* cases) {
  for (const int channels : {1, 5, 16}) {
    const std::vector<int64_t> image = {36 * channels};
    add_gather("padding", windows(6, channels, 1, 1, 1), image, cases);
    add_gather("pooling", windows(6, channels, 2, 2, 0), image, cases);
    add_gather("overlapping windows", windows(6, channels, 3, 1, 1), image, cases);
  }
  add_gather("shuffled", shuffled(50, 61), {50}, cases);
  add_gather("ragged", ragged(50, 61), {50}, cases);
  add_gather("one", {{0}}, {1}, cases);
  add_gather("nothing", {{}, {}}, {1}, cases);
  // Inputs side by side.
  Lists all(29);
  for (int32_t o = 0; o < 29; ++o) all[static_cast<size_t>(o)] = {o};
  add_gather("side by side", all, {10, 1, 18}, cases);
  add_gather("shuffled inputs", shuffled(29, 40), {10, 1, 18}, cases);
  add_gather("ragged inputs", ragged(29, 40), {10, 1, 18}, cases);
}

// x (batches, rows, inner), z (batches, inner, columns) and the product, some transposed.
void add_matmul(int64_t batches, int64_t rows, int64_t inner, int64_t columns, bool transposed,
                std::vector<OpCase>* cases) {
  MatmulOp op{.batches = batches, .rows = rows, .inner = inner, .columns = columns};
  op.x = {rows * inner, inner, 1};
  op.z = {inner * columns, columns, 1};
  op.out = {rows * columns, columns, 1};
  if (transposed) {
    op.x = {rows * inner, 1, rows};
    op.z = {columns, batches * columns, 1};  // heads side by side
    op.out = {rows * columns, 1, rows};
  }
  op.x_features = batches * rows * inner;
  op.z_features = batches * inner * columns;
  op.features = batches * rows * columns;
  cases->push_back({"matmul", op, {op.x_features, op.z_features}, op.features, transposed});
}

EmbeddingOp embedding(Pass pass, int64_t length, int64_t vocabulary, int64_t units) {
  return {.pass = pass, .length = length, .vocabulary = vocabulary, .units = units, .offset = 3};
}

}  // namespace

std::vector<OpCase> general_cases() {
  std::vector<OpCase> cases;
  add_maps(&cases);
  add_gathers(&cases);
  for (const bool transposed : {false, true}) {
    add_matmul(1, 1, 1, 1, transposed, &cases);
    add_matmul(2, 9, 7, 8, transposed, &cases);
    add_matmul(3, 4, 20, 3, transposed, &cases);
  }
  for (const int64_t units : {1, 8, 21}) {
    OpCase c{"embedding", embedding(Pass::forward, 5, 7, units), {5}, 5 * units};
    c.parameters = 3 + 7 * units;
    c.words = 8;  // some are unknown
    cases.push_back(c);
  }
  return cases;
}

std::vector<OpCase> general_gradient_cases() {
  std::vector<OpCase> cases;
  for (const int64_t units : {1, 8, 21}) {
    OpCase c{"embedding gradient", embedding(Pass::weight_gradient, 5, 17, units), {5, 5 * units}};
    c.parameters = 3 + 17 * units;
    c.words = 17;
    cases.push_back(c);
  }
  for (const Broadcast& broadcast : {Broadcast{1, 1}, {1, 5}, {1, 16}, {7, 3}, {40, 9}, {1, 720}}) {
    for (const int64_t repeats : {1, 2, 45}) {
      ParameterSumOp op{.features = broadcast.divisor * broadcast.modulus * repeats,
                        .broadcast = broadcast,
                        .offset = 2};
      cases.push_back({"parameter sum", op, {op.features}, 0, false, 2 + broadcast.modulus});
    }
  }
  cases.push_back({"row sum", RowSumOp{3, 1}, {3}, 0, false, 4});
  return cases;
}

}  // namespace lockstep::cpu_test
