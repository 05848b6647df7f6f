// Losses, loss weights and metrics of several outputs against Keras: what compile() makes of them.
#include <gtest/gtest.h>

#include <cmath>

#include "host/job/data_job.h"
#include "host/job/metric_table.h"
#include "host/job/output_options.h"
#include "host/nn/layer.h"
#include "tests/nn/loss_golden.h"
#include "tests/nn/test_devices.h"

namespace lockstep {
namespace {

constexpr double kOutputsTolerance = 1e-5;  // of the largest value

class OutputsGolden : public testing::TestWithParam<std::tuple<std::string, std::string>> {
 protected:
  void SetUp() override {
    device_ = make_test_device(std::get<1>(GetParam()));
    if (device_ == nullptr) GTEST_SKIP() << "this machine has no " << std::get<1>(GetParam());
    golden_ = loss_golden_file().at("objectives").at(std::get<0>(GetParam()));
    rows_ = loss_golden_file().at("rows");
    std::vector<std::string> names;
    for (const auto& output : golden_.at("outputs")) names.push_back(output.at("name"));
    job_.outputs = output_objectives(golden_.at("options"), names).value();
    for (size_t i = 0; i < names.size(); ++i) {
      job_.outputs[i].target_shape = golden_.at("outputs")[i].at("target_shape").get<Shape>();
    }
  }

  // Tensors of the outputs side by side, row by row.
  std::vector<float> side_by_side(const char* kind, const char* shape, uint64_t first,
                                  bool only_asked, int64_t* features) const {
    std::vector<std::vector<float>> tensors;
    for (size_t i = 0; i < job_.outputs.size(); ++i) {
      if (only_asked && !job_.outputs[i].is_asked()) continue;
      const auto& output = golden_.at("outputs")[i];
      const auto row = output.at(shape).get<Shape>();
      tensors.push_back(
          made_up_targets(output.at(kind), first + i, rows_ * element_count(row), row.back()));
      *features += element_count(row);
    }
    std::vector<float> values;
    for (int row = 0; row < rows_; ++row) {
      for (const auto& tensor : tensors) {
        const auto count = std::ssize(tensor) / rows_;
        values.insert(values.end(), tensor.begin() + row * count,
                      tensor.begin() + (row + 1) * count);
      }
    }
    return values;
  }

  HostBatch batch() const {
    HostBatch batch;
    batch.rows = rows_;
    batch.inputs = side_by_side("y_pred", "shape", 4000, false, &batch.features);
    batch.targets = side_by_side("y_true", "target_shape", 3000, true, &batch.target_features);
    batch.weight_columns =
        std::max<int64_t>(1, std::ssize(place_weights(objective_of(job_)).columns));
    for (int row = 0; row < rows_; ++row) {
      batch.weights.insert(batch.weights.end(), static_cast<size_t>(batch.weight_columns),
                           static_cast<float>(made_up_uniform(5000, static_cast<uint64_t>(row))));
      batch.labels.push_back(0);
      batch.positions.push_back(static_cast<uint32_t>(row));
      batch.samples.push_back(row);
    }
    return batch;
  }

  // Each output is an input with a parameter of zeros added: its gradient is the output's.
  Graph build(LossMode mode) {
    GraphBuilder builder(GraphMode::training);
    Tensors outputs;
    for (const auto& output : golden_.at("outputs")) {
      const std::string name = output.at("name");
      const SymbolicTensor x = builder.add_input(name, output.at("shape").get<Shape>());
      builder.begin_layer(name, static_cast<int>(outputs.size()), 0);
      ParameterSpec spec;
      spec.name = "probe";
      spec.shape = x.shape;
      LayerContext layer(builder, {name, "Probe"});
      ExpressionBuilder e;
      const int64_t parameter = builder.add_parameter(spec);
      outputs.push_back(layer.map(
          "forward", e.finish({e.operand(0) + e.operand(1)}), {x},
          {whole_operand(0, x), parameter_operand(parameter, {1, x.features()})}, x.shape));
    }
    Graph graph = finish_with_loss(objective_of(job_), mode, "'probe'", builder, outputs).value();
    if (mode == LossMode::differentiate) {
      finish_training_graph(&graph);
    } else {
      drop_dead_ops(&graph);
    }
    return graph;
  }

  std::vector<float> run(const Graph& graph, const HostBatch& rows) {
    TrainingStep step(*device_, graph);
    step.set_weights(std::vector<float>(static_cast<size_t>(graph.parameter_count)));
    return step.flat(rows, 1);
  }

  void compare_values(const Graph& graph, const nlohmann::json& expected) {
    const std::vector<float> root = run(graph, batch());
    const MetricTable table(job_);
    const std::span<const float> measured(root.data() + graph.metrics_offset(),
                                          static_cast<size_t>(graph.metric_count));
    const std::vector<double> values = table.values(table.sums(measured, rows_));
    for (const auto& [name, value] : expected.items()) {
      const auto at = std::find(table.names().begin(), table.names().end(), name);
      ASSERT_NE(at, table.names().end()) << name;
      EXPECT_NEAR(values[static_cast<size_t>(at - table.names().begin())], value.get<double>(),
                  kOutputsTolerance * std::max(0.1, std::abs(value.get<double>())))
          << name;
    }
  }

  void compare_gradients(const Graph& graph) {
    const HostBatch rows = batch();
    for (size_t i = 0; i < graph.parameters.size(); ++i) {
      const Parameter& probe = graph.parameters[i];
      const auto& expected = golden_.at("gradients")[i];
      double largest = 0.1;
      for (const double value : expected) largest = std::max(largest, std::abs(value));
      for (int row = 0; row < rows_; ++row) {
        const std::vector<float> root = run(graph, slice_batch(rows, row, row + 1));
        for (int64_t f = 0; f < probe.count(); ++f) {
          const float ours =
              probe.gradient_offset < 0 ? 0 : root[static_cast<size_t>(probe.gradient_offset + f)];
          ASSERT_NEAR(ours / static_cast<float>(rows_),
                      expected[static_cast<size_t>(row * probe.count() + f)].get<double>(),
                      kOutputsTolerance * largest)
              << probe.layer << ", row " << row << ", element " << f;
        }
      }
    }
  }

  std::unique_ptr<Device> device_;
  nlohmann::json golden_;
  int rows_ = 0;
  Job job_;
};

TEST_P(OutputsGolden, names_and_values_are_keras) {
  const auto& expected = golden_.at("values");
  for (const LossMode mode : {LossMode::differentiate, LossMode::measure}) {
    compare_values(build(mode), expected);
  }
  EXPECT_EQ(MetricTable(job_).names().size(), expected.size());
  EXPECT_EQ(MetricTable(job_).names()[0], "loss");
}

TEST_P(OutputsGolden, rows_have_weights) {
  job_.weighted = true;
  compare_values(build(LossMode::differentiate), golden_.at("weighted"));
}

TEST_P(OutputsGolden, gradients_are_keras) { compare_gradients(build(LossMode::differentiate)); }

// What a job file holds is read back to the same.
TEST_P(OutputsGolden, job_files_say_the_same) {
  job_.model_config = nlohmann::json::object();
  job_.optimizer = {{"name", "sgd"}, {"learning_rate", 0.1}};
  job_.strategy = "synchronous";
  const auto again = job_from_json(to_json(job_));
  ASSERT_TRUE(again.ok()) << again.error().message;
  EXPECT_EQ(recipe_sha256(*again), recipe_sha256(job_));
}

std::string outputs_case_name(const testing::TestParamInfo<OutputsGolden::ParamType>& info) {
  std::string name = std::get<0>(info.param) + "_on_" + std::get<1>(info.param);
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

INSTANTIATE_TEST_SUITE_P(objectives, OutputsGolden,
                         testing::Combine(testing::ValuesIn(golden_names("losses", "objectives")),
                                          testing::ValuesIn(test_device_names())),
                         outputs_case_name);

Result<std::vector<OutputObjective>> two(const nlohmann::json& options) {
  return output_objectives(options, {"left", "right"});
}

TEST(OutputOptions, AreRefusedWithTheRemedy) {
  const auto message = [](const nlohmann::json& options) { return two(options).error().message; };
  EXPECT_EQ(message({{"loss", {{"lefd", "mse"}}}}),
            "--loss: unknown output 'lefd'; did you mean 'left'? Known: left, right");
  EXPECT_EQ(message({{"loss", {"mse"}}}),
            "--loss: 1 entries for the model's 2 outputs (left, right): give one each");
  EXPECT_EQ(message({{"loss", nlohmann::json::array({nullptr, nullptr})}}),
            "--loss: no output has one; name what is to be minimized");
  EXPECT_EQ(message({{"loss", "mse"}, {"metrics", "mae"}}),
            "--metrics mae: the model has several outputs: say of which, as in '{\"left\": "
            "[\"mae\"]}'");
  EXPECT_EQ(message({{"loss", "mse"}, {"loss_weights", 0.5}}),
            "--loss-weights 0.5: the model has 2 outputs (left, right): give a list");
  EXPECT_EQ(message({{"loss", "mse"}, {"loss_weights", {{"left", "x"}}}}),
            "--loss-weights: \"x\" is no number");
  EXPECT_EQ(
      output_objectives({{"loss", "mse"}}, {"a", "a"}).error().message,
      "two outputs of the model have one name (a, a): let them come from layers of their own");
}

TEST(OutputOptions, OneOutputNeedsNoName) {
  for (const nlohmann::json& loss :
       {nlohmann::json("mse"), nlohmann::json::array({"mse"}), nlohmann::json{{"only", "mse"}}}) {
    const auto outputs = output_objectives(
        {{"loss", loss}, {"metrics", "mae,mse"}, {"loss_weights", 0.5}}, {"only"});
    ASSERT_TRUE(outputs.ok()) << outputs.error().message;
    EXPECT_EQ(outputs->at(0).name, "");
    EXPECT_EQ(loss_name(outputs->at(0).loss), "mean_squared_error");
    EXPECT_EQ(metrics_json(*outputs), nlohmann::json({"mae", "mse"}));
    EXPECT_EQ(outputs->at(0).loss_weight, 0.5);
  }
}

nlohmann::json metric(const char* class_name, const nlohmann::json& config) {
  return {{"class_name", class_name}, {"config", config}};
}

TEST(OutputOptions, MetricsHaveArgumentsAndNamesOfTheirOwn) {
  const nlohmann::json top = metric("TopKCategoricalAccuracy", {{"k", 3}, {"name", "top3"}});
  const nlohmann::json wide = metric("TopKCategoricalAccuracy", {{"name", "top3"}});
  Job job;
  job.outputs = output_objectives({{"loss", "mse"}, {"metrics", {top, wide, "mae"}}}, {}).value();
  const MetricTable table(job);
  EXPECT_EQ(table.names(), (std::vector<std::string>{"loss", "top3", "top3_1", "mae"}));
  EXPECT_EQ(table.rising(), (std::vector<std::string>{"top3", "top3_1"}));
  EXPECT_EQ(job.outputs[0].metrics[1].at("config"), (nlohmann::json{{"k", 5}, {"name", "top3"}}));
}

TEST(OutputOptions, MetricsThatAreNotHereAreRefused) {
  const auto message = [](const nlohmann::json& one) {
    return output_objectives({{"loss", "mse"}, {"metrics", nlohmann::json::array({one})}}, {})
        .error()
        .message;
  };
  EXPECT_EQ(message(metric("Precision", {{"thresholds", {0.3, 0.6}}})),
            "metric Precision: thresholds [0.3,0.6] are not supported: give one number, and a "
            "metric for each");
  EXPECT_EQ(message(metric("Recall", {{"class_id", -2}})),
            "metric Recall: class_id -2 must be a whole number of at least 0");
  EXPECT_EQ(message(metric("BinaryAccuracy", {{"treshold", 0.7}})),
            "metric BinaryAccuracy: unknown key 'treshold'; did you mean 'threshold'? Known: "
            "threshold");
  EXPECT_EQ(message(metric("AUC", {{"curve", "ROK"}})),
            "metric AUC: curve 'rok' is none of ROC, PR, PRGAIN");
  EXPECT_EQ(message(metric("F1Score", nlohmann::json::object())),
            "metric F1Score: average null gives a value for each class, and a metric here is one "
            "number: use 'micro', 'macro' or 'weighted'");
  EXPECT_EQ(message(metric("MeanIoU", {{"num_classes", 3}})),
            "metric 'MeanIoU' cannot be used: it counts classes by classes, which is not supported "
            "yet");
  EXPECT_EQ(
      message("mean"),
      "metric 'mean' cannot be used: it is of values, and knows no targets: name what is to be "
      "measured of the outputs");
  EXPECT_NE(message(metric("AUK", nlohmann::json::object())).find("unknown metric 'AUK'"),
            std::string::npos);
}

TEST(OutputOptions, MetricsHaveAtMostSoManySums) {
  Job job;
  job.outputs = output_objectives(
                    {{"loss", "mse"}, {"metrics", {metric("AUC", {{"multi_label", true}})}}}, {})
                    .value();
  job.outputs[0].target_shape = {30};
  EXPECT_EQ(place_metrics(objective_of(job)).error().message,
            "the metrics need 12061 sums, of at most 4095: leave some out, or give AUC fewer "
            "num_thresholds");
}

}  // namespace
}  // namespace lockstep
