// The structure of graphs: what is fused, and what gets a gradient, in which order.
#include "host/graph/passes.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "host/nn/model.h"
#include "models/models.h"
#include "tests/support/loss.h"

namespace lockstep {
namespace {

std::vector<std::string> op_names(const Graph& graph) {
  std::vector<std::string> names;
  for (const OpDesc& op : graph.ops) names.push_back(op.name);
  return names;
}

const OpDesc& op_named(const Graph& graph, const std::string& name) {
  for (const OpDesc& op : graph.ops) {
    if (op.name == name) return op;
  }
  ADD_FAILURE() << "no op " << name;
  return graph.ops.front();
}

// Every op reads what an earlier op computed, and no value is computed twice.
void expect_valid(const Graph& graph) {
  std::set<int> computed;
  for (const OpDesc& op : graph.ops) {
    for (const int input : op.inputs) EXPECT_TRUE(computed.contains(input)) << op.name;
    if (op.relu_mask >= 0) {
      EXPECT_TRUE(computed.contains(op.relu_mask)) << op.name;
      EXPECT_EQ(graph.values[op.relu_mask].features(), graph.values[op.outputs[0]].features());
    }
    for (const int output : op.outputs) EXPECT_TRUE(computed.insert(output).second) << op.name;
  }
  EXPECT_TRUE(computed.contains(graph.outputs[0]));
}

TEST(TrainingGraph, of_the_seed_cnn) {
  const auto model = build_model("seed-cnn", {28, 28, 1}, 10).value();
  const Graph graph = model->training_graph(kLoss).value();
  expect_valid(graph);
  EXPECT_EQ(op_names(graph),
            (std::vector<std::string>{
                "input", "conv2d/forward", "conv2d_1/forward", "conv2d_2/forward", "dense/forward",
                "dense_1/forward", "loss", "dense_1/weight_gradient", "dense_1/data_gradient",
                "dense/weight_gradient", "dense/data_gradient", "conv2d_2/weight_gradient",
                "conv2d_2/data_gradient", "conv2d_1/weight_gradient", "conv2d_1/data_gradient",
                "conv2d/weight_gradient"}));
  for (const char* name : {"dense_1", "dense", "conv2d_2", "conv2d_1"}) {
    const OpDesc& forward = op_named(graph, std::string(name) + "/forward");
    const OpDesc& gradient = op_named(graph, std::string(name) + "/data_gradient");
    EXPECT_EQ(gradient.relu_mask, forward.inputs[0]) << name;
  }
  EXPECT_EQ(std::get<DenseOp>(op_named(graph, "dense/forward").attributes).activation,
            Activation::relu);
  EXPECT_EQ(std::get<DenseOp>(op_named(graph, "dense_1/forward").attributes).activation,
            Activation::linear);
  EXPECT_EQ(graph.outputs[0], op_named(graph, "dense_1/forward").outputs[0]);
}

TEST(TrainingGraph, of_lenet_masks_through_pooling_and_dropout) {
  const auto model = build_model("lenet", {28, 28, 1}, 10).value();
  const Graph graph = model->training_graph(kLoss).value();
  expect_valid(graph);
  const DropoutOp dropout = std::get<DropoutOp>(op_named(graph, "dropout/forward").attributes);
  EXPECT_EQ(dropout.layer, 7u);
  EXPECT_EQ(dropout.call, 0u);
  EXPECT_EQ(dropout.rate, 0.5f);
  EXPECT_EQ(op_named(graph, "dropout/data_gradient").relu_mask,
            op_named(graph, "dense_1/forward").outputs[0]);
  EXPECT_EQ(op_named(graph, "dense_2/data_gradient").relu_mask, -1);
  const OpDesc& pool = op_named(graph, "max_pooling2d/forward");
  const OpDesc& pool_gradient = op_named(graph, "max_pooling2d/data_gradient");
  EXPECT_EQ(pool_gradient.inputs[0], pool.inputs[0]);
  EXPECT_EQ(pool_gradient.inputs[1], pool.outputs[0]);
  EXPECT_EQ(pool_gradient.relu_mask, op_named(graph, "conv2d/forward").outputs[0]);
  EXPECT_EQ(op_named(graph, "conv2d_1/data_gradient").relu_mask, -1);
  for (const OpDesc& op : graph.ops) EXPECT_FALSE(std::holds_alternative<ReluOp>(op.attributes));
}

TEST(TrainingGraph, written_ranges_cover_the_flat_vector_once) {
  for (const std::string& name : model_names()) {
    const Graph graph = build_model(name, {28, 28, 1}, 10).value()->training_graph(kLoss).value();
    std::vector<std::pair<int64_t, int64_t>> ranges;
    for (const OpDesc& op : graph.ops) {
      const FlatRange range = written_range(op);
      if (!range.empty()) ranges.emplace_back(range.begin, range.end);
    }
    // Metrics, then the last layer, then those before it, where one layer follows the other.
    const bool is_chain = graph.is_plain();
    EXPECT_TRUE(!is_chain || std::is_sorted(ranges.rbegin(), ranges.rend())) << name;
    std::sort(ranges.begin(), ranges.end());
    int64_t end = 0;
    for (const auto& [begin, range_end] : ranges) {
      EXPECT_EQ(begin, end) << name;
      end = range_end;
    }
    EXPECT_EQ(end, graph.flat_size) << name;
  }
}

TEST(TrainingGraph, nothing_before_the_first_parameter_gets_a_gradient) {
  Model model("m", {8, 8, 1});
  model.add("MaxPooling2D")
      .add("Dropout", {{"rate", 0.25}})
      .add("Flatten")
      .add("Dense", {{"units", 3}, {"activation", "softmax"}});
  const Graph graph = model.training_graph(kLoss).value();
  expect_valid(graph);
  EXPECT_EQ(op_names(graph),
            (std::vector<std::string>{"input", "max_pooling2d/forward", "dropout/forward",
                                      "dense/forward", "loss", "dense/weight_gradient"}));
}

TEST(TrainingGraph, relu_stands_alone_where_nothing_can_take_it) {
  Model model("m", {8, 8, 1});
  model.add("Conv2D", {{"filters", 2}, {"kernel_size", 3}})
      .add("MaxPooling2D")
      .add("Activation", {{"activation", "relu"}})
      .add("Flatten")
      .add("Dense", {{"units", 3}, {"activation", "relu"}})
      .add("Activation", {{"activation", "softmax"}});
  const Graph graph = model.training_graph(kLoss).value();
  expect_valid(graph);
  // The pool's relu is folded into the dense op's gradient; the loss cannot mask its own.
  EXPECT_EQ(op_named(graph, "dense/data_gradient").relu_mask,
            op_named(graph, "activation/relu").outputs[0]);
  EXPECT_EQ(op_named(graph, "dense/relu_gradient").inputs[0],
            op_named(graph, "dense/forward").outputs[0]);
  EXPECT_EQ(op_named(graph, "dense/weight_gradient").inputs[1],
            op_named(graph, "dense/relu_gradient").outputs[0]);
}

TEST(TrainingGraph, relus_join_the_sums_before_them_and_so_do_their_gradients) {
  Model model("m");
  using Ref = Model::TensorRef;
  const auto conv = [&](const Ref& x) {
    return model.call("Conv2D", {{"filters", 2}, {"kernel_size", 3}, {"padding", "same"}}, {x});
  };
  const auto relu_of_sum = [&](const Ref& x, const Ref& y) {
    return model.call("Activation", {{"activation", "relu"}},
                      {model.call("Add", nlohmann::json::object(), {x, y})});
  };
  const Ref x = model.input({4, 4, 2});
  const Ref first = relu_of_sum(conv(x), conv(x));
  const Ref second = relu_of_sum(first, conv(first));
  const Ref flat = model.call("Flatten", nlohmann::json::object(), {second});
  model.set_outputs({model.call("Dense", {{"units", 3}, {"activation", "softmax"}}, {flat})});
  const Graph graph = model.training_graph(kLoss).value();
  expect_valid(graph);
  for (const char* name : {"activation/relu", "activation_1/relu"}) {
    const OpDesc& relu = op_named(graph, name);
    EXPECT_TRUE(std::holds_alternative<MapOp>(relu.attributes)) << name;
    EXPECT_EQ(relu.inputs.size(), 2u) << name;
  }
  // Of the output that gates it, and of both gradients of the first sum.
  const OpDesc& gradient = op_named(graph, "activation/data_gradient");
  EXPECT_TRUE(std::holds_alternative<MapOp>(gradient.attributes));
  EXPECT_EQ(gradient.inputs.size(), 3u);
}

TEST(TrainingGraph, dropout_of_rate_0_disappears) {
  const Graph graph = lenet({28, 28, 1}, 10, 0.0)->training_graph(kLoss).value();
  for (const OpDesc& op : graph.ops) EXPECT_FALSE(std::holds_alternative<DropoutOp>(op.attributes));
}

TEST(EvaluateGraph, measures_only) {
  const auto model = build_model("lenet", {28, 28, 1}, 10).value();
  const Graph graph = model->evaluate_graph(kLoss).value();
  expect_valid(graph);
  EXPECT_EQ(op_names(graph), (std::vector<std::string>{
                                 "input", "conv2d/forward", "max_pooling2d/forward",
                                 "conv2d_1/forward", "max_pooling2d_1/forward", "dense/forward",
                                 "dense_1/forward", "dense_2/forward", "loss"}));
  EXPECT_EQ(graph.flat_size, kMetricCount);
  EXPECT_TRUE(graph.ops.back().outputs.empty());
  EXPECT_EQ(written_range(graph.ops.back()), (FlatRange{0, kMetricCount}));
}

TEST(PredictGraph, ends_in_probabilities_without_dropout) {
  const auto model = build_model("lenet", {28, 28, 1}, 10).value();
  const Graph graph = model->predict_graph().value();
  expect_valid(graph);
  EXPECT_EQ(graph.ops.back().name, "dense_2/softmax");
  EXPECT_EQ(graph.outputs[0], graph.ops.back().outputs[0]);
  EXPECT_EQ(graph.flat_size, 0);
  for (const OpDesc& op : graph.ops) EXPECT_FALSE(std::holds_alternative<DropoutOp>(op.attributes));
}

}  // namespace
}  // namespace lockstep
