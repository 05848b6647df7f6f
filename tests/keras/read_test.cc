// Files that Keras wrote: the same predictions, weights, optimizer state.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "host/core/digest.h"
#include "tests/keras/keras_files.h"

namespace lockstep {
namespace {

constexpr double kTolerance = 1e-5;

struct FileCase {
  const char* file;
  const char* model;
};

class ReadTest : public testing::TestWithParam<FileCase> {};

TEST_P(ReadTest, PredictsAsKeras) {
  const auto expected = keras_expected(GetParam().model);
  const ModelFile file = read_model_file(keras_path(GetParam().file)).value();
  ASSERT_TRUE(file.has_model() && file.has_weights());
  const bool pair = std::string(GetParam().model) == "pair";
  const std::vector<Shape> rows =
      pair ? std::vector<Shape>{{3}, {2}} : std::vector<Shape>{{6, 6, 1}};
  const auto model = model_from_config(file.config, rows);
  ASSERT_TRUE(model.ok()) << model.error().message;
  const Graph graph = (*model)->predict_graph().value();
  EXPECT_EQ(graph.parameter_count, expected.at("parameters"));
  const auto weights = read_weights(file, **model, graph.parameters);
  ASSERT_TRUE(weights.ok()) << weights.error().message;
  const Dataset inputs = keras_inputs(expected, rows);
  EXPECT_LE(largest_difference(predicted(graph, *weights, inputs), expected.at("outputs")),
            kTolerance);
  EXPECT_EQ(predicted(graph, *weights, inputs, 8, 1), predicted(graph, *weights, inputs, 3, 3));
  EXPECT_EQ(sha256_hex({reinterpret_cast<const char*>(weights->data()), weights->size() * 4}),
            expected.at("weights_sha256"));
}

INSTANTIATE_TEST_SUITE_P(
    Files, ReadTest,
    testing::Values(FileCase{"small.keras", "small"}, FileCase{"small_deflated.keras", "small"},
                    FileCase{"small.h5", "small"}, FileCase{"keras_2.h5", "small"},
                    FileCase{"branches.keras", "branches"}, FileCase{"branches.h5", "branches"},
                    FileCase{"pair.keras", "pair"}),
    [](const auto& test) {
      std::string name = test.param.file;
      for (char& c : name) c = c == '.' ? '_' : c;
      return name;
    });

// Pieces that reach over the array's ends, shuffled and deflated ones, and many in a tree.
TEST(ReadTest, ArraysMayBeStoredInPieces) {
  const auto model = model_from_config(read_model_file(keras_path("small.json"))->config).value();
  const Graph graph = model->predict_graph().value();
  const auto weights = [&](const char* name) {
    return read_weights(read_model_file(keras_path(name)).value(), *model, graph.parameters)
        .value();
  };
  EXPECT_EQ(weights("pieces.weights.h5"), weights("small.weights.h5"));
  const std::string path = keras_path("many_pieces.h5");
  const Field many = Hdf5File::open(map_file(path).value(), path)->array("many").value();
  EXPECT_EQ(many.row_shape, (Shape{40, 30}));
  for (int64_t i = 0; i < many.features(); ++i) ASSERT_EQ(many.value(i), static_cast<double>(i));
}

TEST(ReadTest, WeightsAloneFitTheirModel) {
  const ModelFile config = read_model_file(keras_path("small.json")).value();
  EXPECT_TRUE(config.has_model());
  EXPECT_FALSE(config.has_weights());
  const ModelFile weights = read_model_file(keras_path("small.weights.h5")).value();
  EXPECT_FALSE(weights.has_model());
  const auto model = model_from_config(config.config).value();
  const Graph graph = model->predict_graph().value();
  const auto values = read_weights(weights, *model, graph.parameters).value();
  EXPECT_EQ(sha256_hex({reinterpret_cast<const char*>(values.data()), values.size() * 4}),
            keras_expected("small").at("weights_sha256"));
}

TEST(ReadTest, WeightsOfAnotherModelAreRefused) {
  const ModelFile file = read_model_file(keras_path("pair.keras")).value();
  const auto model = model_from_config(read_model_file(keras_path("small.json"))->config).value();
  const Graph graph = model->predict_graph().value();
  EXPECT_THAT(read_weights(file, *model, graph.parameters).error().message,
              testing::HasSubstr("has weights of another model: layer 'conv2d' has 2 weights, and "
                                 "the file 0 for it"));
}

TEST(ReadTest, TakesUpTheOptimizer) {
  for (const char* name : {"small.keras", "small.h5", "branches.keras", "branches.h5"}) {
    SCOPED_TRACE(name);
    const auto expected = keras_expected(name[0] == 's' ? "small" : "branches");
    const ModelFile file = read_model_file(keras_path(name)).value();
    const auto optimizer = Optimizer::create(file.compile.at("optimizer")).value();
    const auto model = model_from_config(file.config, {{6, 6, 1}}).value();
    const Graph graph =
        model->training_graph(std::string("sparse_categorical_crossentropy")).value();
    std::string why_not;
    const auto state = read_optimizer_state(file, optimizer, graph.parameters, &why_not).value();
    ASSERT_TRUE(state.has_value()) << why_not;
    EXPECT_EQ(state->iterations, expected.at("iterations"));
    double theirs = 0;
    for (const auto& values : expected.at("slots")) {
      for (const double value : values) theirs += value;
    }
    double ours = 0;
    for (const auto& slot : state->slots) {
      EXPECT_EQ(slot.size(), static_cast<size_t>(graph.parameter_count));
      for (const float value : slot) ours += double{value};
    }
    EXPECT_NEAR(ours, theirs, 1e-6);
  }
}

TEST(ReadTest, AnotherOptimizerDoesNotTakeItUp) {
  const ModelFile file = read_model_file(keras_path("small.keras")).value();
  const auto model = model_from_config(file.config).value();
  const Graph graph = model->training_graph(std::string("sparse_categorical_crossentropy")).value();
  std::string why_not;
  const auto sgd = Optimizer::create({{"name", "sgd"}, {"momentum", 0.9}}).value();
  EXPECT_FALSE(read_optimizer_state(file, sgd, graph.parameters, &why_not).value().has_value());
  EXPECT_EQ(why_not, "it is of another optimizer");
}

TEST(ReadTest, FrozenLayersHaveNoSlots) {
  const ModelFile file = read_model_file(keras_path("small.keras")).value();
  const auto model = model_from_config(file.config).value();
  const Graph graph = model->training_graph(std::string("sparse_categorical_crossentropy")).value();
  int frozen = 0;
  for (const Parameter& parameter : graph.parameters) {
    if (parameter.layer != "dense") continue;
    EXPECT_EQ(parameter.role, ParameterRole::frozen);
    ++frozen;
  }
  EXPECT_EQ(frozen, 2);
}

}  // namespace
}  // namespace lockstep
