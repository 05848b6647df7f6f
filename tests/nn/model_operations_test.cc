// Operations of keras.ops in a model's config: what `x * 2` and indexing leave there.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "host/nn/model_config.h"

namespace lockstep {
namespace {

using Json = nlohmann::json;

Json keras_tensor(const char* layer) {
  Json history = Json::array({layer, 0, 0});
  return {{"class_name", "__keras_tensor__"}, {"config", {{"keras_history", history}}}};
}

Json operation(const char* class_name, const char* name, const Json& args) {
  return {{"module", "keras.src.ops.numpy"},
          {"class_name", class_name},
          {"config", {{"name", name}}},
          {"name", name},
          {"inbound_nodes", Json::array({{{"args", args}, {"kwargs", Json::object()}}})}};
}

// x (4), then the operation "op" on it.
Json model_of(const Json& op) {
  const Json input = {{"class_name", "InputLayer"},
                      {"config", {{"name", "x"}, {"batch_shape", Json::array({nullptr, 4})}}},
                      {"name", "x"},
                      {"inbound_nodes", Json::array()}};
  return {{"class_name", "Functional"},
          {"config",
           {{"name", "m"},
            {"layers", Json::array({input, op})},
            {"input_layers", Json::array({"x", 0, 0})},
            {"output_layers", Json::array({"op", 0, 0})}}}};
}

TEST(ModelOperations, HaveNumbersAsOperands) {
  const Json config =
      model_of(operation("TrueDivide", "op", Json::array({255, keras_tensor("x")})));
  const auto model = model_from_config(config);
  ASSERT_TRUE(model.ok()) << model.error().message;
  EXPECT_EQ((*model)->calls()[0].arguments, (Json{{"operands", Json::array({255, nullptr})}}));
  ASSERT_TRUE((*model)->predict_graph().ok());
  // Written, it is Keras' again.
  const Json written = (*model)->config();
  const auto again = model_from_config(written);
  ASSERT_TRUE(again.ok()) << again.error().message << "\n" << written.dump(1);
  EXPECT_EQ((*again)->config(), written);
}

TEST(ModelOperations, OfTensorsAloneNeedNoOperands) {
  const Json both = Json::array({keras_tensor("x"), keras_tensor("x")});
  const auto model = model_from_config(model_of(operation("Add", "op", both)));
  ASSERT_TRUE(model.ok()) << model.error().message;
  EXPECT_EQ((*model)->calls()[0].arguments, Json::object());
  EXPECT_EQ((*model)->calls()[0].inputs.size(), 2u);
}

TEST(ModelOperations, SlicesMayStepBeyondTheEnd) {
  const auto result = [](const Json& config) {
    const Json rows{{"class_name", "__slice__"}, {"config", Json::object()}};
    const Json slice{{"class_name", "__slice__"}, {"config", config}};
    const auto model = model_from_config(model_of(
        operation("GetItem", "op", Json::array({keras_tensor("x"), Json::array({rows, slice})}))));
    return model.value()->predict_graph().value().output_shapes.at(0);
  };
  EXPECT_EQ(result({{"start", 1}, {"stop", nullptr}, {"step", 2}}), Shape{2});
  EXPECT_EQ(result({{"step", INT64_MAX}}), Shape{1});
  EXPECT_EQ(result({{"step", INT64_MIN}}), Shape{1});
}

TEST(ModelOperations, IndicesWithoutBoundsAreSurvived) {
  const Json rows{{"class_name", "__slice__"}};
  const auto model = model_from_config(
      model_of(operation("GetItem", "op", Json::array({keras_tensor("x"), Json::array({rows})}))));
  EXPECT_TRUE(model.value()->predict_graph().ok());
}

TEST(ModelOperations, OfMasksAreBooleans) {
  Json zeros = operation("ZerosLike", "op", Json::array({keras_tensor("x")}));
  zeros["config"]["dtype"] = "bool";
  const auto model = model_from_config(model_of(zeros));
  ASSERT_TRUE(model.ok()) << model.error().message;
  EXPECT_TRUE((*model)->predict_graph().ok());
}

Json cast_to(const char* type) {
  Json cast = operation("Cast", "op", Json::array({keras_tensor("x")}));
  cast["module"] = "keras.src.ops.core";
  cast["config"]["dtype"] = type;
  return model_of(cast);
}

TEST(ModelOperations, CastBetweenFloatsForNothing) {
  for (const char* type : {"float32", "float16", "bfloat16"}) {
    const auto model = model_from_config(cast_to(type));
    ASSERT_TRUE(model.ok()) << model.error().message;
    const Graph graph = (*model)->predict_graph().value();
    EXPECT_EQ(graph.ops.size(), 1u);  // the input
    // Written, it is Keras' again.
    const Json written = (*model)->config();
    EXPECT_EQ(written.at("/config/layers/1/module"_json_pointer), "keras.src.ops.core");
    EXPECT_EQ(model_from_config(written).value()->config(), written);
  }
}

TEST(ModelOperations, CastToNoTypeThatWraps) {
  const auto model = model_from_config(cast_to("uint8"));
  ASSERT_TRUE(model.ok()) << model.error().message;
  const auto graph = (*model)->predict_graph();
  ASSERT_FALSE(graph.ok());
  EXPECT_THAT(graph.error().message,
              testing::HasSubstr("layer 'op' (keras.ops.Cast): a cast to uint8 is not supported: "
                                 "cast to float32, int32 or bool"));
}

TEST(ModelOperations, ThatAreNotKnownAreNamed) {
  const auto model =
      model_from_config(model_of(operation("Fft", "op", Json::array({keras_tensor("x")}))));
  ASSERT_FALSE(model.ok());
  EXPECT_THAT(model.error().message, testing::HasSubstr("keras.ops.Fft"));
}

}  // namespace
}  // namespace lockstep
