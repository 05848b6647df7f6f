// A golden case of a layer on a device: forward, the gradients of inputs and weights, averages.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "host/graph/passes.h"
#include "host/nn/layer.h"
#include "tests/nn/training_step.h"
#include "tests/support/golden_json.h"

namespace lockstep::golden {

inline constexpr double kTolerance = 1e-5;  // of the largest value

inline const nlohmann::json& golden_file() { return golden_json("layers"); }

inline std::vector<std::string> case_names() { return golden_names("layers", "cases"); }

inline void expect_close(const nlohmann::json& expected, const float* actual,
                         const std::string& what) {
  double largest = 0;
  for (const double value : expected) largest = std::max(largest, std::abs(value));
  for (size_t i = 0; i < expected.size(); ++i) {
    ASSERT_NEAR(actual[i], expected[i].get<double>(), kTolerance * std::max(largest, 0.1))
        << what << ", element " << i;
  }
}

// The layer alone: probes of zeros are added to its inputs, whose gradients are those of the inputs
// summed over the rows; the loss is the sum of y * c.
class LayerCase {
 public:
  LayerCase(const std::string& name, Device& device)
      : device_(&device), golden_(golden_file().at("cases").at(name)) {
    rows_ = golden_file().at("rows");
  }

  // Fails the test where anything differs.
  void check() {
    const auto built = build();
    ASSERT_TRUE(built.ok()) << built.error().message;
    const Graph& graph = *built;
    const std::vector<float> weights = weights_of(graph);
    const auto memory = allocate_floats(*device_, graph.parameter_count);
    upload(*device_, weights, memory->data());
    const HostBatch rows = batch();
    ProgramSet programs(*device_, graph);
    const auto program = programs.program_for(group_of(rows_, 1, {0, 1}));
    ASSERT_TRUE(program.ok()) << program.error().message;
    const auto root = allocate_floats(*device_, graph.flat_size);
    float* roots[] = {root->data()};
    RunContext context;
    context.weights = memory->data();
    context.roots = roots;
    context.batch = &rows;
    context.loss_scale = 1;
    for (int run = 0; run < 3; ++run) {  // a GPU plays the later ones from a recording
      ASSERT_TRUE((*program)->run(context, {}).ok());
      std::vector<float> y(golden_.at("y").size());
      ASSERT_TRUE((*program)->download_output(y.data()).ok());
      expect_close(golden_.at("y"), y.data(), "output");
      std::vector<float> flat = fetch(*device_, root->data(), graph.flat_size);
      for (const GradientSum& sum : graph.gradient_sums) {
        for (int64_t i = 0; i < sum.count; ++i) {
          flat[static_cast<size_t>(sum.to + i)] += flat[static_cast<size_t>(sum.from + i)];
        }
      }
      compare(graph, weights, flat);
    }
  }

 private:
  Result<Graph> build() {
    const bool training = golden_.at("training");
    GraphBuilder builder(training ? GraphMode::training : GraphMode::inference);
    Tensors inputs;
    for (const auto& shape : golden_.at("input_shapes")) {
      inputs.push_back(builder.add_input("x", shape.get<Shape>()));
    }
    for (size_t i = 0; i < golden_.at("input_gradients").size(); ++i) {
      inputs[i] = probed(builder, inputs[i], i);
    }
    LOCKSTEP_ASSIGN(const SymbolicTensor y, call_chain(builder, inputs));
    EXPECT_EQ(y.shape, golden_.at("output_shape").get<Shape>());
    const SymbolicTensor loss = inner_product(builder, y);
    Graph graph = builder.finish({y});
    graph.loss = loss.value;
    graph.metric_count = 0;
    place_gradients(&graph, LossMode::differentiate);
    finish_training_graph(&graph);
    return graph;
  }

  // One layer with all inputs, or several that take the result before, or the last two.
  Result<SymbolicTensor> call_chain(GraphBuilder& builder, Tensors inputs) {
    const nlohmann::json& chain = golden_.at("layers");
    SymbolicTensor before;
    for (size_t i = 0; i < chain.size(); ++i) {
      const std::string class_name = chain[i].at("class_name");
      LOCKSTEP_ASSIGN(const LayerType type, layer_type(class_name));
      LOCKSTEP_ASSIGN(config_, resolve_config(type, "layer", chain[i].at("config")));
      builder.begin_layer("layer", static_cast<int>(i), 0);
      nlohmann::json arguments = nlohmann::json::object();
      if (chain[i].contains("operands")) arguments["operands"] = chain[i]["operands"];
      LayerContext layer(builder, {"layer", class_name, &config_, std::move(arguments)});
      const bool merges = chain.size() > 1 && (class_name == "Add" || class_name == "Concatenate");
      if (merges) inputs.push_back(before);
      before = inputs[0];
      LOCKSTEP_ASSIGN(SymbolicTensor y, call_layer(type, layer, inputs));
      inputs = {std::move(y)};
    }
    return inputs[0];
  }

  static SymbolicTensor probed(GraphBuilder& builder, const SymbolicTensor& x, size_t number) {
    builder.begin_layer("probe", 1000 + static_cast<int>(number), 0);
    ParameterSpec spec;
    spec.name = "probe";
    spec.shape = x.shape;
    LayerContext layer(builder, {"probe", "Probe"});
    ExpressionBuilder e;
    const int64_t parameter = builder.add_parameter(spec);
    return layer.map("forward", e.finish({e.operand(0) + e.operand(1)}), {x},
                     {whole_operand(0, x), parameter_operand(parameter, {1, x.features()})},
                     x.shape);
  }

  static SymbolicTensor inner_product(GraphBuilder& builder, const SymbolicTensor& y) {
    const SymbolicTensor c = builder.add_batch_part(BatchPart::targets, 0, "c", {y.features()});
    builder.begin_layer("loss", 2000, 0);
    LayerContext layer(builder, {"loss", "InnerProduct"});
    const SymbolicTensor flat{y.value, {y.features()}};
    ExpressionBuilder e;
    const SymbolicTensor products =
        layer.map("products", e.finish({e.operand(0) * e.operand(1)}), {flat, c});
    return layer.reduce("sum", products, {0}, LayerContext::Reduction::sum, true);
  }

  HostBatch batch() const {
    HostBatch batch;
    batch.rows = rows_;
    std::vector<int64_t> sizes;
    for (const auto& shape : golden_.at("input_shapes")) {
      sizes.push_back(element_count(shape.get<Shape>()));
      batch.features += sizes.back();
    }
    batch.target_features = element_count(golden_.at("output_shape").get<Shape>());
    for (int row = 0; row < rows_; ++row) {
      for (size_t k = 0; k < sizes.size(); ++k) {
        for (int64_t f = 0; f < sizes[k]; ++f) {
          const auto i = static_cast<uint64_t>(row * sizes[k] + f);
          batch.inputs.push_back(static_cast<float>(2 * made_up_uniform(1000 + k, i) - 1));
        }
      }
      for (int64_t f = 0; f < batch.target_features; ++f) {
        const auto i = static_cast<uint64_t>(row * batch.target_features + f);
        batch.targets.push_back(static_cast<float>(made_up_uniform(2000, i) - 0.5));
      }
      batch.labels.push_back(0);
      batch.positions.push_back(static_cast<uint32_t>(row));
      batch.samples.push_back(row);
    }
    return batch;
  }

  // The layer's by the formula of the script, the probes' 0.
  static std::vector<float> weights_of(const Graph& graph) {
    std::vector<float> weights(static_cast<size_t>(graph.parameter_count));
    for (size_t k = 0; k < graph.parameters.size(); ++k) {
      const Parameter& parameter = graph.parameters[k];
      if (parameter.layer != "layer") continue;
      const bool is_variance = parameter.name.find("variance") != std::string::npos;
      for (int64_t i = 0; i < parameter.count(); ++i) {
        const double value = made_up_uniform(500 + k, static_cast<uint64_t>(i));
        weights[static_cast<size_t>(parameter.offset + i)] =
            parameter.name == "count"
                ? 0
                : static_cast<float>(is_variance ? value + 0.5 : 2 * value - 1);
      }
    }
    return weights;
  }

  void compare(const Graph& graph, const std::vector<float>& weights,
               const std::vector<float>& flat) const {
    size_t probe = 0;
    for (size_t k = 0; k < graph.parameters.size(); ++k) {
      const Parameter& parameter = graph.parameters[k];
      if (parameter.layer != "layer") {
        ASSERT_GE(parameter.gradient_offset, 0);
        expect_close(golden_.at("input_gradients")[probe++],
                     flat.data() + parameter.gradient_offset, "gradient of an input");
        continue;
      }
      const nlohmann::json& expected = golden_.at("weights").at(k);
      EXPECT_EQ(parameter.shape, expected.at("shape").get<Shape>()) << parameter.name;
      EXPECT_EQ(parameter.role == ParameterRole::trained, expected.at("trained").get<bool>());
      std::vector<float> result(weights.begin() + parameter.offset,
                                weights.begin() + parameter.offset + parameter.count());
      if (parameter.gradient_offset >= 0) {
        const float* gradient = flat.data() + parameter.gradient_offset;
        if (parameter.role == ParameterRole::trained) {
          result.assign(gradient, gradient + parameter.count());
        } else {
          for (size_t i = 0; i < result.size(); ++i) {
            result[i] = result[i] * parameter.momentum +
                        gradient[i] / static_cast<float>(rows_) * (1 - parameter.momentum);
          }
        }
      }
      expect_close(expected.at("result"), result.data(), parameter.name);
    }
    EXPECT_EQ(probe, golden_.at("input_gradients").size());
  }

  Device* device_;
  nlohmann::json golden_;
  nlohmann::json config_;
  int rows_ = 0;
};

}  // namespace lockstep::golden
