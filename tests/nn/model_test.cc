// Names, shapes, counts, configs and initial weights.
#include "host/nn/model.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "host/nn/model.h"
#include "models/models.h"
#include "tests/support/loss.h"

namespace lockstep {
namespace {

Graph training_graph_of(const std::string& name) {
  return build_model(name, {28, 28, 1}, 10).value()->training_graph(kLoss).value();
}

std::vector<std::string> parameter_lines(const Graph& graph) {
  std::vector<std::string> lines;
  for (const Parameter& parameter : graph.parameters) {
    lines.push_back(parameter.layer + "/" + parameter.name + " " + to_string(parameter.shape));
  }
  return lines;
}

// The numbers are those of Keras' model.summary().
TEST(Models, have_the_parameters_of_keras) {
  const Graph cnn = training_graph_of("seed-cnn");
  EXPECT_EQ(cnn.parameter_count, 1490886);
  EXPECT_EQ(parameter_lines(cnn),
            (std::vector<std::string>{"conv2d/kernel (3, 3, 1, 4)", "conv2d/bias (4,)",
                                      "conv2d_1/kernel (3, 3, 4, 8)", "conv2d_1/bias (8,)",
                                      "conv2d_2/kernel (3, 3, 8, 12)", "conv2d_2/bias (12,)",
                                      "dense/kernel (5808, 256)", "dense/bias (256,)",
                                      "dense_1/kernel (256, 10)", "dense_1/bias (10,)"}));
  EXPECT_EQ(training_graph_of("mlp").parameter_count, 235146);
  const Graph lenet_graph = training_graph_of("lenet");
  EXPECT_EQ(lenet_graph.parameter_count, 61706);
  EXPECT_EQ(parameter_lines(lenet_graph)[4], "dense/kernel (400, 120)");
}

TEST(Models, lay_parameters_end_to_end_and_metrics_behind) {
  for (const std::string name : {"seed-cnn", "mlp", "lenet"}) {
    const Graph graph = training_graph_of(name);
    int64_t offset = 0;
    for (const Parameter& parameter : graph.parameters) {
      EXPECT_EQ(parameter.offset, offset);
      offset += parameter.count();
    }
    EXPECT_EQ(graph.parameter_count, offset);
    EXPECT_EQ(graph.flat_size, offset + kMetricCount);
    EXPECT_TRUE(graph.is_plain());
    EXPECT_EQ(graph.values[graph.outputs[0]].features(), 10);
  }
}

TEST(Models, refuse_unknown_names_and_shapes_without_room) {
  EXPECT_EQ(build_model("lenett", {28, 28, 1}, 10).error().message,
            "unknown model 'lenett'; did you mean 'lenet'? Known: seed-cnn, mlp, lenet, "
            "resnet20, resnet50");
  EXPECT_EQ(
      build_model("lenet", {6, 6, 1}, 10).error().message,
      "model 'lenet' for inputs of shape (6, 6, 1) and 10 classes: layer 'conv2d_1' (Conv2D): "
      "kernel_size (5, 5) is larger than the input of shape (3, 3, 6) with padding 'valid'; "
      "use padding 'same', a smaller window or larger inputs");
  EXPECT_FALSE(build_model("mlp", {28, 28, 1}, 0).ok());
}

TEST(Model, names_layers_as_keras_does) {
  Model model("m", {4});
  model.add("Dense", {{"units", 3}})
      .add("Dense", {{"units", 3}, {"name", "mine"}})
      .add("Dense", {{"units", 3}})
      .add("Dropout", {{"rate", 0.5}})
      .add("Activation", {{"activation", "softmax"}});
  std::vector<std::string> names;
  for (const auto& layer : model.layers()) names.push_back(layer.name);
  EXPECT_EQ(names, (std::vector<std::string>{"dense", "mine", "dense_1", "dropout", "activation"}));
}

TEST(Model, config_is_that_of_keras) {
  Model model("m", {8, 8, 1});
  model.add("Conv2D", {{"filters", 2}, {"kernel_size", {3, 5}}, {"padding", "same"}})
      .add("Dense", {{"units", 3}, {"use_bias", false}, {"trainable", false}});
  const nlohmann::json config = model.config();
  EXPECT_EQ(config["class_name"], "Sequential");
  const nlohmann::json& layers = config["config"]["layers"];
  EXPECT_EQ(layers[0], nlohmann::json::parse(R"({"class_name": "InputLayer",
    "config": {"batch_shape": [null, 8, 8, 1], "dtype": "float32"}})"));
  const nlohmann::json& conv = layers[1]["config"];
  EXPECT_EQ(layers[1]["class_name"], "Conv2D");
  EXPECT_EQ(conv["name"], "conv2d");
  EXPECT_EQ(conv["kernel_size"], nlohmann::json({3, 5}));
  EXPECT_EQ(conv["strides"], nlohmann::json({1, 1}));
  EXPECT_EQ(conv["activation"], "linear");
  EXPECT_EQ(conv["kernel_initializer"]["class_name"], "GlorotUniform");
  EXPECT_EQ(layers[2]["config"]["use_bias"], false);
  EXPECT_EQ(layers[2]["config"]["trainable"], false);
}

Conv2dOp conv_op(const nlohmann::json& config, const Shape& input) {
  Model model("m", input);
  model.add("Conv2D", config);
  const Graph graph = model.predict_graph().value();
  return std::get<Conv2dOp>(graph.ops[1].attributes);
}

// Keras' "same": ceil(in / stride) windows, the odd row of padding last.
TEST(Conv2D, pads_as_keras_does) {
  const Conv2dOp even = conv_op(
      {{"filters", 1}, {"kernel_size", {4, 3}}, {"strides", 1}, {"padding", "same"}}, {7, 8, 1});
  EXPECT_EQ(even.out_height, 7);
  EXPECT_EQ(even.out_width, 8);
  EXPECT_EQ(even.pad_top, 1);
  EXPECT_EQ(even.pad_left, 1);
  const Conv2dOp strided = conv_op(
      {{"filters", 1}, {"kernel_size", 3}, {"strides", {2, 3}}, {"padding", "same"}}, {8, 8, 1});
  EXPECT_EQ(strided.out_height, 4);
  EXPECT_EQ(strided.out_width, 3);
  EXPECT_EQ(strided.pad_top, 0);
  EXPECT_EQ(strided.pad_left, 0);
  const Conv2dOp valid = conv_op({{"filters", 1}, {"kernel_size", 3}, {"strides", 2}}, {8, 9, 1});
  EXPECT_EQ(valid.out_height, 3);
  EXPECT_EQ(valid.out_width, 4);
  const Conv2dOp wide_stride = conv_op(
      {{"filters", 1}, {"kernel_size", 1}, {"strides", 5}, {"padding", "same"}}, {11, 10, 1});
  EXPECT_EQ(wide_stride.out_height, 3);
  EXPECT_EQ(wide_stride.out_width, 2);
  EXPECT_EQ(wide_stride.pad_top, 0);
}

TEST(InitialWeights, are_glorot_uniform_and_zero_biases) {
  const Graph graph = training_graph_of("seed-cnn");
  const std::vector<float> weights = initial_weights(graph, 1);
  ASSERT_EQ(static_cast<int64_t>(weights.size()), graph.parameter_count);
  for (const Parameter& parameter : graph.parameters) {
    const float* begin = weights.data() + parameter.offset;
    const auto [low, high] = std::minmax_element(begin, begin + parameter.count());
    if (parameter.name == "bias") {
      EXPECT_EQ(*low, 0);
      EXPECT_EQ(*high, 0);
      continue;
    }
    const Shape& shape = parameter.shape;
    const int64_t field = shape.size() == 4 ? shape[0] * shape[1] : 1;
    const int64_t fans = field * (shape[shape.size() - 2] + shape.back());
    const float limit = static_cast<float>(std::sqrt(6.0 / static_cast<double>(fans)));
    EXPECT_GE(*low, -limit) << parameter.layer;
    EXPECT_LE(*low, -0.8f * limit) << parameter.layer;
    EXPECT_LE(*high, limit) << parameter.layer;
    EXPECT_GE(*high, 0.8f * limit) << parameter.layer;
  }
}

TEST(InitialWeights, depend_on_the_seed_and_the_tensor_alone) {
  const Graph graph = training_graph_of("mlp");
  const std::vector<float> weights = initial_weights(graph, 1);
  EXPECT_EQ(weights, initial_weights(graph, 1));
  EXPECT_NE(weights, initial_weights(graph, 2));
  Model shorter("other", {28, 28, 1});
  shorter.add("Flatten").add("Dense", {{"units", 256}, {"activation", "softmax"}});
  const std::vector<float> first = initial_weights(shorter.training_graph(kLoss).value(), 1);
  EXPECT_TRUE(std::equal(first.begin(), first.end(), weights.begin()));
}

}  // namespace
}  // namespace lockstep
