// Models from Keras' configs: forms of both versions, order of layers, what is refused.
#include "host/nn/model_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace lockstep {
namespace {

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
             {node(keras_tensor("own"), {{"mask", keras_tensor("x")}})})},
      {"x", 0, 0}, {"late", 0, 0});
  EXPECT_THAT(error_of(config),
              AllOf(HasSubstr("model 'm' cannot be run here:"),
                    HasSubstr("layer 'twice': layer Lambda is refused"),
                    HasSubstr("layer 'fold': unknown layer 'Folding'"),
                    HasSubstr("layer 'blur' (Blur) is code of 'my_layers', which never runs"),
                    HasSubstr("layer 'own' (Dense) is code of 'Custom>Dense'"),
                    HasSubstr("layer 'late' (Dense): unknown key 'colour'"),
                    HasSubstr("layer 'late': its call has the argument 'mask'")));
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
