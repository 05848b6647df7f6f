// Models from Keras' configs: forms of both versions, order of layers, what is refused.
#include "host/nn/model_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "host/nn/layer.h"

namespace lockstep {
namespace {

TEST(ModelConfig, MixedLayersAreKnown) {
  const nlohmann::json policy = {
      {"module", "keras"}, {"class_name", "DTypePolicy"}, {"config", {{"name", "mixed_bfloat16"}}}};
  for (const nlohmann::json& dtype : {nlohmann::json("mixed_bfloat16"), policy}) {
    Model model("m", {8});
    model.add("Dense", {{"units", 3}}).add("Dense", {{"units", 2}, {"dtype", dtype}});
    const auto graph = model.predict_graph();
    ASSERT_TRUE(graph.ok()) << graph.error().message;
    EXPECT_TRUE(asks_for_bf16({{"layers", {{{"config", {{"dtype", dtype}}}}}}}));
  }
  EXPECT_FALSE(asks_for_bf16({{"name", "mixed_bfloat16"}, {"config", {{"dtype", "float32"}}}}));
  EXPECT_FALSE(asks_for_bf16(nullptr));
}

using Json = nlohmann::json;
using testing::AllOf;
using testing::HasSubstr;

Json input_layer(const std::string& name, const Json& shape) {
  return {{"class_name", "InputLayer"},
          {"config", {{"name", name}, {"batch_shape", shape}}},
          {"name", name},
          {"inbound_nodes", Json::array()}};
}

Json keras_tensor(const std::string& layer, int node = 0) {
  return {{"class_name", "__keras_tensor__"},
          {"config", {{"keras_history", {layer, node, 0}}, {"shape", {nullptr}}}}};
}

Json node(const Json& args, const Json& kwargs = Json::object()) {
  return {{"args", Json::array({args})}, {"kwargs", kwargs}};
}

Json layer(const std::string& class_name, const std::string& name, const Json& config,
           const Json& nodes) {
  Json entry = {{"class_name", class_name}, {"config", config}, {"name", name}};
  entry["config"]["name"] = name;
  // Braces around one node are that node.
  entry["inbound_nodes"] = nodes.is_object() ? Json::array({nodes}) : nodes;
  return entry;
}

Json functional(const Json& layers, const Json& inputs, const Json& outputs) {
  return {
      {"class_name", "Functional"},
      {"config",
       {{"name", "m"}, {"layers", layers}, {"input_layers", inputs}, {"output_layers", outputs}}}};
}

std::string error_of(const Json& config, const std::vector<Shape>& rows = {}) {
  const auto model = model_from_config(config, rows);
  return model.ok() ? "" : model.error().message;
}

std::vector<std::string> layer_names(const Model& model) {
  std::vector<std::string> names;
  for (const auto& each : model.layers()) names.push_back(each.name);
  return names;
}

// Two branches of different depth, as a file may list them in any order.
Json branches(bool turned) {
  Json layers = {
      input_layer("x", {nullptr, 4}),
      layer("Dense", "a", {{"units", 4}}, {node(keras_tensor("x"))}),
      layer("Dense", "b", {{"units", 4}}, {node(keras_tensor("a"))}),
      layer("Dense", "c", {{"units", 4}}, {node(keras_tensor("x"))}),
      layer("Add", "sum", Json::object(), {node({keras_tensor("b"), keras_tensor("c")})})};
  if (turned) std::reverse(layers.begin(), layers.end());
  return functional(layers, {"x", 0, 0}, {"sum", 0, 0});
}

TEST(ModelConfigTest, LayersStandInKerasOrderWhateverTheFileSays) {
  for (const bool turned : {false, true}) {
    const auto model = model_from_config(branches(turned));
    ASSERT_TRUE(model.ok()) << model.error().message;
    EXPECT_EQ(layer_names(**model), (std::vector<std::string>{"a", "b", "c", "sum"}));
  }
}

TEST(ModelConfigTest, KerasTwoSaysTheSame) {
  Json old = branches(false);
  const auto nodes = [](const Json& list) { return Json::array({list}); };
  Json& layers = old["config"]["layers"];
  layers[0]["config"] = {{"name", "x"}, {"batch_input_shape", {nullptr, 4}}};
  layers[1]["inbound_nodes"] = nodes({{"x", 0, 0, Json::object()}});
  layers[2]["inbound_nodes"] = nodes({{"a", 0, 0, Json::object()}});
  layers[3]["inbound_nodes"] = nodes({{"x", 0, 0, {{"training", false}}}});
  layers[4]["inbound_nodes"] = nodes({{"b", 0, 0, Json::object()}, {"c", 0, 0, Json::object()}});
  old["class_name"] = "Model";
  old["config"]["input_layers"] = {{"x", 0, 0}};
  const auto model = model_from_config(old);
  ASSERT_TRUE(model.ok()) << model.error().message;
  EXPECT_EQ(layer_names(**model), (std::vector<std::string>{"a", "b", "c", "sum"}));
  EXPECT_TRUE((*model)->predict_graph().ok());
  EXPECT_EQ((*model)->calls()[2].arguments, (Json{{"training", false}}));
}

TEST(ModelConfigTest, IsTheInverseOfConfig) {
  const auto model = model_from_config(branches(false)).value();
  EXPECT_EQ(model_from_config(model->config()).value()->config(), model->config());
}

TEST(ModelConfigTest, TrainableIsInherited) {
  const Json inner = {
      {"class_name", "Sequential"},
      {"config",
       {{"name", "inner"},
        {"trainable", false},
        {"layers",
         {{{"class_name", "InputLayer"}, {"config", {{"batch_shape", {nullptr, 4}}}}},
          {{"class_name", "Dense"}, {"config", {{"units", 2}, {"name", "d"}}}}}}}}};
  Json entry = inner;
  entry["name"] = "inner";
  entry["inbound_nodes"] = Json::array({node(keras_tensor("x"))});
  const auto model = model_from_config(
      functional({input_layer("x", {nullptr, 4}), entry}, {"x", 0, 0}, {"inner", 0, 0}));
  ASSERT_TRUE(model.ok()) << model.error().message;
  EXPECT_FALSE((*model)->layers()[0].model->layers()[0].trainable);
}

TEST(ModelConfigTest, OpenDimensionsComeFromTheData) {
  const Json config = functional(
      {input_layer("x", {nullptr, nullptr, nullptr, 3}),
       layer("Conv2D", "c", {{"filters", 2}, {"kernel_size", 3}}, {node(keras_tensor("x"))})},
      {"x", 0, 0}, {"c", 0, 0});
  const auto model = model_from_config(config, {{8, 9, 3}});
  ASSERT_TRUE(model.ok()) << model.error().message;
  EXPECT_EQ((*model)->inputs()[0].shape, (Shape{8, 9, 3}));
  EXPECT_THAT(error_of(config), AllOf(HasSubstr("input 'x' of shape (None, None, None, 3)"),
                                      HasSubstr("say --data")));
  EXPECT_THAT(error_of(config, {{5}}), HasSubstr("feed rows of 3 dimensions"));
}

TEST(ModelConfigTest, AllThatIsNotSupportedIsInOneMessage) {
  Json foreign = layer("Blur", "blur", Json::object(), {node(keras_tensor("fold"))});
  foreign["module"] = "my_layers";
  Json registered = layer("Dense", "own", {{"units", 1}}, {node(keras_tensor("blur"))});
  registered["registered_name"] = "Custom>Dense";
  const Json config = functional(
      {input_layer("x", {nullptr, 4}),
       layer("Lambda", "twice", {{"function", "x"}}, {node(keras_tensor("x"))}),
       layer("Folding", "fold", Json::object(), {node(keras_tensor("twice"))}), foreign, registered,
       layer("Dense", "late", {{"units", 1}, {"colour", "red"}},
             {node(keras_tensor("own"), {{"initial_state", keras_tensor("x")}})})},
      {"x", 0, 0}, {"late", 0, 0});
  EXPECT_THAT(error_of(config),
              AllOf(HasSubstr("model 'm' cannot be run here:"),
                    HasSubstr("layer 'twice': layer Lambda is refused"),
                    HasSubstr("layer 'fold': unknown layer 'Folding'"),
                    HasSubstr("layer 'blur' (Blur) is code of 'my_layers', which never runs"),
                    HasSubstr("layer 'own' (Dense) is code of 'Custom>Dense'"),
                    HasSubstr("layer 'late' (Dense): unknown key 'colour'"),
                    HasSubstr("layer 'late': its call has the argument 'initial_state'")));
}

TEST(ModelConfigTest, CodeWithinALayerIsRefused) {
  const auto with = [](const char* class_name, const Json& config) {
    return functional({input_layer("x", {nullptr, 3, 4}),
                       layer(class_name, "a", config, {node(keras_tensor("x"))})},
                      {"x", 0, 0}, {"a", 0, 0});
  };
  const Json own = {{"module", "mine"}, {"class_name", "L2"}, {"config", Json::object()}};
  EXPECT_THAT(error_of(with("Dense", {{"units", 4}, {"kernel_regularizer", own}})),
              HasSubstr("kernel_regularizer is code of 'mine', which never runs here"));
  const Json function = {{"module", "builtins"}, {"class_name", "function"}, {"config", "bend"}};
  const auto bent = model_from_config(with("Dense", {{"units", 4}, {"activation", function}}));
  ASSERT_TRUE(bent.ok()) << bent.error().message;
  EXPECT_THAT((*bent)->predict_graph().error().message, HasSubstr("unknown activation 'bend'"));
  const Json dense = {
      {"class_name", "Dense"}, {"registered_name", "my>Dense"}, {"config", {{"units", 4}}}};
  EXPECT_THAT(error_of(with("TimeDistributed", {{"layer", dense}})),
              HasSubstr("layer is code of 'my>Dense', which never runs here"));
}

// What no kind of key checks is read where it is used.
TEST(ModelConfigTest, ValuesOfAnotherFormAreErrors) {
  const auto error = [](const char* class_name, const Json& config) {
    Model model("m", {3, 4});
    model.add(class_name, config);
    const auto graph = model.predict_graph();
    return graph.ok() ? "" : graph.error().message;
  };
  EXPECT_THAT(error("ReLU", {{"max_value", "six"}}), HasSubstr("not as Keras writes it"));
  EXPECT_THAT(error("PReLU", {{"shared_axes", {"a"}}}), HasSubstr("not as Keras writes it"));
  EXPECT_THAT(error("Cropping1D", {{"data_format", 1}}), HasSubstr("not as Keras writes it"));
  EXPECT_THAT(error("Activation", {{"activation", {{"class_name", 1}}}}),
              HasSubstr("activation must be the name of a class"));
  EXPECT_THAT(error("Dense", {{"units", 1}, {"kernel_initializer", {{"class_name", 1}}}}),
              HasSubstr("unknown initializer"));
}

// In Keras 2 a BatchNormalization that was built has its axis as a list.
TEST(ModelConfigTest, OneAxisMayBeAList) {
  const auto with = [](const Json& axis) {
    return functional(
        {input_layer("x", {nullptr, 3, 4}),
         layer("BatchNormalization", "n", {{"axis", axis}}, {node(keras_tensor("x"))})},
        {"x", 0, 0}, {"n", 0, 0});
  };
  const auto model = model_from_config(with(Json::array({2})));
  ASSERT_TRUE(model.ok()) << model.error().message;
  EXPECT_EQ((*model)->layers()[0].config.at("axis"), 2);
  EXPECT_THAT(error_of(with(Json::array({1, 2}))), HasSubstr("axis must be a whole number"));
}

// Keras writes a mask that reaches a layer as an argument, with what computes it.
TEST(ModelConfigTest, MasksAreArgumentsOfCalls) {
  Json differs = layer("NotEqual", "differs", Json::object(), Json::array());
  differs["module"] = "keras.src.ops.numpy";
  differs["inbound_nodes"] =
      Json::array({{{"args", Json::array({keras_tensor("x"), 0})}, {"kwargs", Json::object()}}});
  const Json config = functional(
      {input_layer("x", {nullptr, 5}),
       layer("Embedding", "e", {{"input_dim", 7}, {"output_dim", 3}}, {node(keras_tensor("x"))}),
       differs,
       layer("GlobalAveragePooling1D", "mean", Json::object(),
             {node(keras_tensor("e"), {{"mask", keras_tensor("differs")}})}),
       layer("Dense", "d", {{"units", 1}}, {node(keras_tensor("mean"))})},
      {"x", 0, 0}, {"d", 0, 0});
  const auto model = model_from_config(config);
  ASSERT_TRUE(model.ok()) << model.error().message;
  const auto graph = (*model)->training_graph("mse");
  ASSERT_TRUE(graph.ok()) << graph.error().message;
  // Without it the mean would be one gather.
  const bool is_masked =
      std::any_of(graph->values.begin(), graph->values.end(),
                  [](const Value& value) { return value.name.find("count") != std::string::npos; });
  EXPECT_TRUE(is_masked);
  const auto again = model_from_config((*model)->config());
  ASSERT_TRUE(again.ok()) << again.error().message;
  EXPECT_EQ((*again)->config(), (*model)->config());
}

TEST(ModelConfigTest, AWrappedLayerMayBeFrozen) {
  const auto role_of = [](bool trainable) {
    Model model("m", {3, 4});
    model.add("TimeDistributed",
              {{"layer",
                {{"class_name", "Dense"}, {"config", {{"units", 2}, {"trainable", trainable}}}}}});
    return model.predict_graph().value().parameters[0].role;
  };
  EXPECT_EQ(role_of(true), ParameterRole::trained);
  EXPECT_EQ(role_of(false), ParameterRole::frozen);
}

TEST(ModelConfigTest, WhatSpectralNormalizationTakes) {
  const auto error = [](const Json& inner, const Json& more, GraphMode mode) {
    Model model("m", {3, 4});
    Json config = {{"layer", inner}};
    config.update(more);
    model.add("SpectralNormalization", config);
    model.add("Flatten");
    model.add("Dense", {{"units", 2}, {"activation", "softmax"}});
    const auto graph = mode == GraphMode::inference
                           ? model.predict_graph()
                           : model.training_graph("sparse_categorical_crossentropy");
    return graph.ok() ? "" : graph.error().message;
  };
  const Json none = Json::object(), frozen = {{"trainable", false}};
  const Json dense = {{"class_name", "Dense"}, {"config", {{"units", 2}}}};
  EXPECT_EQ(error(dense, none, GraphMode::training), "");
  EXPECT_EQ(error(dense, frozen, GraphMode::inference), "");
  EXPECT_THAT(error(dense, frozen, GraphMode::training), HasSubstr("is frozen"));
  EXPECT_THAT(error(dense, {{"power_iterations", 0}}, GraphMode::training),
              HasSubstr("power_iterations must be at least 1"));
  EXPECT_THAT(error(dense, {{"power_iterations", 1 << 30}}, GraphMode::training),
              HasSubstr("at most 100"));
  for (const Json& inner : {Json{{"class_name", "Flatten"}, {"config", none}},
                            Json{{"class_name", "TimeDistributed"}, {"config", {{"layer", dense}}}},
                            Json{{"class_name", "LayerNormalization"}, {"config", none}}}) {
    EXPECT_THAT(error(inner, none, GraphMode::inference), HasSubstr("has no kernel to normalize"));
  }
  EXPECT_THAT(
      error({{"class_name", "Embedding"}, {"config", {{"input_dim", 3}, {"output_dim", 2}}}}, none,
            GraphMode::inference),
      HasSubstr("around an Embedding it is not supported"));
}

TEST(ModelConfigTest, GraphsThatAreNoneAreErrors) {
  const auto with = [](const Json& nodes) {
    return functional({input_layer("x", {nullptr, 4}), layer("Dense", "a", {{"units", 4}}, nodes),
                       layer("Dense", "b", {{"units", 4}}, {node(keras_tensor("a"))})},
                      {"x", 0, 0}, {"b", 0, 0});
  };
  EXPECT_EQ(error_of(with({node(keras_tensor("x"))})), "");
  EXPECT_THAT(error_of(with({node(keras_tensor("b"))})), HasSubstr("reads its own result"));
  EXPECT_THAT(error_of(with({node(keras_tensor("z"))})), HasSubstr("that it does not have"));
  EXPECT_THAT(error_of(with(Json::array())), HasSubstr("call 0 of layer 'a', which is not there"));
  EXPECT_THAT(error_of(with({node(keras_tensor("x", 7))})), HasSubstr("which is not there"));
  EXPECT_THAT(error_of(with({node(Json::array())})), HasSubstr("layer 'a' reads nothing"));
  Json ends = with({node(keras_tensor("x"))});
  ends["config"]["output_layers"] = "b";
  EXPECT_THAT(error_of(ends), HasSubstr("model 'm': \"b\" is no input or output of a layer"));
  EXPECT_THAT(error_of({{"class_name", "Sequential"}, {"config", 5}}),
              HasSubstr("not as Keras writes it"));
  EXPECT_THAT(error_of({{"class_name", "Net"}, {"config", Json::object()}}),
              HasSubstr("a model of class 'Net' is not supported"));
}

TEST(ModelConfigTest, OutputsThatALayerDoesNotHaveAreErrors) {
  Json config = branches(false);
  config["config"]["output_layers"] = {"sum", 0, 3};
  const auto model = model_from_config(config).value();
  EXPECT_THAT(model->predict_graph().error().message, HasSubstr("reads output 3 of a layer"));
}

TEST(ModelConfigTest, NestingHasALimit) {
  Json config = {{"class_name", "Dense"}, {"config", {{"units", 1}, {"name", "d"}}}};
  for (int depth = 0; depth < 20; ++depth) {
    const Json layers = Json::array({config});
    config = {{"class_name", "Sequential"},
              {"config", {{"name", "s" + std::to_string(depth)}, {"layers", layers}}}};
  }
  EXPECT_THAT(error_of(config, {{3}}), HasSubstr("models are nested more than 16 deep"));
}

}  // namespace
}  // namespace lockstep
