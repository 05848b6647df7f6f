// Every loss and metric against Keras: values of batches, gradients of outputs.
#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "host/nn/losses.h"
#include "tests/nn/loss_golden.h"
#include "tests/nn/test_devices.h"
#include "tests/nn/training_step.h"

namespace lockstep {
namespace {

constexpr double kLossTolerance = 1e-5;  // of the largest value
// Where float32 cannot tell 1 - 1e-7 from its neighbours, logarithms of it are as coarse.
constexpr double kSaturatedTolerance = 0.02;

class LossGolden : public testing::TestWithParam<std::tuple<std::string, std::string>> {
 protected:
  void open(const char* part) {
    device_ = make_test_device(std::get<1>(GetParam()));
    if (device_ == nullptr) GTEST_SKIP() << "this machine has no " << std::get<1>(GetParam());
    golden_ = loss_golden_file().at(part).at(std::get<0>(GetParam()));
    rows_ = loss_golden_file().at("rows");
    shape_ = golden_.at("shape").get<Shape>();
    target_shape_ = golden_.at("target_shape").get<Shape>();
  }

  HostBatch batch(int number) const {
    HostBatch batch;
    batch.rows = rows_;
    batch.features = element_count(shape_);
    batch.inputs = made_up_targets(golden_.at("y_pred"), 4000 + static_cast<uint64_t>(number),
                                   rows_ * batch.features, shape_.back());
    batch.target_features = element_count(target_shape_);
    batch.targets = made_up_targets(golden_.at("y_true"), 3000 + static_cast<uint64_t>(number),
                                    rows_ * batch.target_features, target_shape_.back());
    for (int row = 0; row < rows_; ++row) {
      batch.weights.push_back(
          static_cast<float>(made_up_uniform(5000, static_cast<uint64_t>(row))));
      batch.labels.push_back(0);
      batch.positions.push_back(static_cast<uint32_t>(row));
      batch.samples.push_back(row);
    }
    return batch;
  }

  // The outputs are the inputs, with a parameter of zeros added: its gradient is that of the
  // outputs, summed over the rows.
  Result<Graph> build(const Objective& objective, LossMode mode) {
    GraphBuilder builder(GraphMode::training);
    const SymbolicTensor x = builder.add_input("x", shape_);
    builder.begin_layer("probe", 0, 0);
    ParameterSpec spec;
    spec.name = "probe";
    spec.shape = shape_;
    LayerContext layer(builder, {"probe", "Probe"});
    ExpressionBuilder e;
    const int64_t parameter = builder.add_parameter(spec);
    const SymbolicTensor y =
        layer.map("forward", e.finish({e.operand(0) + e.operand(1)}), {x},
                  {whole_operand(0, x), parameter_operand(parameter, {1, x.features()})}, x.shape);
    LOCKSTEP_ASSIGN(Graph graph, finish_with_loss(objective, mode, "'probe'", builder, {y}));
    fuse_activations(&graph);
    if (mode == LossMode::differentiate) append_gradients(&graph);
    fold_relu_gradients(&graph);
    fuse_maps(&graph);
    drop_dead_ops(&graph);
    return graph;
  }

  // The root that a batch leaves.
  std::vector<float> run(const Graph& graph, const HostBatch& rows) {
    TrainingStep step(*device_, graph);
    step.set_weights(std::vector<float>(static_cast<size_t>(graph.parameter_count)));
    return step.flat(rows, 1);
  }

  Objective objective(bool weighted) const {
    Objective objective;
    objective.outputs[0].loss =
        nlohmann::json{{"class_name", golden_.at("class_name")}, {"config", golden_.at("config")}};
    objective.outputs[0].target_shape = target_shape_;
    objective.weighted = weighted;
    return objective;
  }

  // Run row by row, the probe's gradient is that of the row's outputs.
  void compare_gradients(const Graph& graph, const HostBatch& rows) {
    const auto& expected = golden_.at("gradient");
    double largest = 0.1;
    for (const double value : expected) largest = std::max(largest, std::abs(value));
    const auto features = static_cast<size_t>(rows.features);
    for (int row = 0; row < rows_; ++row) {
      const std::vector<float> root = run(graph, slice_batch(rows, row, row + 1));
      for (size_t f = 0; f < features; ++f) {
        // As the only row of a batch; Keras divides by the rows of its own.
        ASSERT_NEAR(root[f] / static_cast<float>(rows_),
                    expected.at(static_cast<size_t>(row) * features + f).get<double>(),
                    kLossTolerance * largest)
            << "row " << row << ", element " << f;
      }
    }
  }

  void expect_value(double expected, double actual) const {
    const bool saturated = std::get<0>(GetParam()).find("saturated") != std::string::npos;
    EXPECT_NEAR(
        actual, expected,
        (saturated ? kSaturatedTolerance : kLossTolerance) * std::max(0.1, std::abs(expected)));
  }

  std::unique_ptr<Device> device_;
  nlohmann::json golden_;
  int rows_ = 0;
  Shape shape_;
  Shape target_shape_;
};

class LossesGolden : public LossGolden {
 protected:
  void SetUp() override { open("losses"); }
};
class MetricsGolden : public LossGolden {
 protected:
  void SetUp() override { open("metrics"); }

  // The metric over two batches.
  double measured(bool weighted) {
    Objective objective("mean_squared_error");
    OutputObjective& output = objective.outputs[0];
    if (target_shape_ != shape_) {
      output.loss = {{"class_name", "SparseCategoricalCrossentropy"},
                     {"config", {{"from_logits", true}}}};
    }
    (weighted ? output.weighted_metrics : output.metrics) = {golden_.at("name")};
    output.target_shape = target_shape_;
    objective.weighted = weighted;
    const Graph graph = build(objective, LossMode::measure).value();
    const PlacedMetric metric = place_metrics(objective).value().metrics.at(0);
    std::vector<double> sums(static_cast<size_t>(graph.metric_count));
    for (int number = 0; number < 2; ++number) {
      const std::vector<float> root = run(graph, batch(number));
      for (size_t i = 0; i < sums.size(); ++i) sums[i] += root[i];
    }
    const double rows = 2.0 * rows_;
    const auto values = std::span<const double>(sums).subspan(static_cast<size_t>(metric.offset),
                                                              static_cast<size_t>(metric.count));
    return metric.type.value(
        metric.config,
        {values, weighted ? sums[static_cast<size_t>(metric.total_offset)] : rows, rows});
  }
};

TEST_P(LossesGolden, computes_what_keras_computes) {
  const HostBatch rows = batch(0);
  for (const bool weighted : {false, true}) {
    const auto graph = build(objective(weighted), LossMode::differentiate);
    ASSERT_TRUE(graph.ok()) << graph.error().message;
    ASSERT_EQ(graph->metric_count, 1);
    const std::vector<float> root = run(*graph, rows);
    expect_value(golden_.at(weighted ? "weighted" : "value"), root.back() / rows_);
    if (!weighted) compare_gradients(*graph, rows);
    const auto measured = build(objective(weighted), LossMode::measure);
    ASSERT_TRUE(measured.ok()) << measured.error().message;
    const std::vector<float> alone = run(*measured, rows);
    ASSERT_EQ(alone.size(), 1u);
    // Joined expressions have no roundings in between where a device computes in double.
    const bool exact = std::get<1>(GetParam()).find("naive") == std::string::npos;
    EXPECT_NEAR(alone[0], root.back(), exact ? 0 : 1e-5 * std::abs(root.back()));
  }
}

TEST_P(MetricsGolden, compute_what_keras_computes) {
  expect_value(golden_.at("value"), measured(false));
  if (golden_.contains("weighted")) expect_value(golden_.at("weighted"), measured(true));
}

std::string loss_case_name(const testing::TestParamInfo<LossGolden::ParamType>& info) {
  std::string name = std::get<0>(info.param) + "_on_" + std::get<1>(info.param);
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

INSTANTIATE_TEST_SUITE_P(losses, LossesGolden,
                         testing::Combine(testing::ValuesIn(golden_names("losses", "losses")),
                                          testing::ValuesIn(test_device_names())),
                         loss_case_name);
INSTANTIATE_TEST_SUITE_P(metrics, MetricsGolden,
                         testing::Combine(testing::ValuesIn(golden_names("losses", "metrics")),
                                          testing::ValuesIn(test_device_names())),
                         loss_case_name);

}  // namespace
}  // namespace lockstep
