// Files that are written here, read again. Real Keras reads them in tests/interop.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "host/core/files.h"
#include "host/data/zip_archive.h"
#include "host/keras/hdf5_writer.h"
#include "host/keras/save_model.h"
#include "host/keras/summary.h"
#include "models/models.h"
#include "tests/keras/keras_files.h"
#include "tests/support/test_folder.h"

namespace lockstep {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

const char* const kLoss = "sparse_categorical_crossentropy";

std::string member_text(const std::string& path, const std::string& name) {
  const SharedBytes bytes = map_file(path).value();
  const ZipArchive archive = ZipArchive::open(bytes, path).value();
  for (const ZipMember& member : archive.members()) {
    if (member.name != name) continue;
    const SharedBytes content = archive.read(member).value();
    return {reinterpret_cast<const char*>(content.data()), content.size()};
  }
  return "";
}

std::vector<float> counted(int64_t count) {
  std::vector<float> values(static_cast<size_t>(count));
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i) / 64;
  return values;
}

// A file, its model and the state in it, changed a little.
struct Changed {
  explicit Changed(const std::string& name)
      : file(read_model_file(keras_path(name)).value()),
        model(model_from_config(file.config, {{6, 6, 1}}).value()),
        graph(model->training_graph(std::string(kLoss)).value()),
        weights(counted(graph.parameter_count)) {}

  TrainedModel trained() const {
    TrainedModel result;
    result.model = model.get();
    result.parameters = &graph.parameters;
    result.weights = weights;
    result.source = &file;
    return result;
  }

  ModelFile file;
  std::unique_ptr<Model> model;
  Graph graph;
  std::vector<float> weights;
};

TEST(WriteTest, ConfigIsKeptByteForByte) {
  const TestFolder folder;
  const Changed changed("branches.keras");
  const std::string path = folder.write("out.keras", make_keras_file(changed.trained()).value());
  for (const char* name : {"config.json", "metadata.json"}) {
    EXPECT_EQ(member_text(path, name), member_text(keras_path("branches.keras"), name));
  }
  const ModelFile again = read_model_file(path).value();
  EXPECT_EQ(read_weights(again, *changed.model, changed.graph.parameters).value(), changed.weights);
}

TEST(WriteTest, OptimizerGoesOnWhereItIsTheSame) {
  const TestFolder folder;
  const Changed changed("small.keras");
  const auto adam = Optimizer::create(changed.file.compile.at("optimizer")).value();
  // Frozen weights have no slots.
  std::vector<float> slot(changed.weights.size(), 0);
  for (const Parameter& parameter : changed.graph.parameters) {
    if (parameter.role != ParameterRole::trained) continue;
    for (int64_t i = 0; i < parameter.count(); ++i) slot[parameter.offset + i] = 3;
  }
  TrainedModel trained = changed.trained();
  trained.optimizer = {&adam, 41, {slot, changed.weights}};
  const std::string path = folder.write("out.keras", make_keras_file(trained).value());
  const ModelFile again = read_model_file(path).value();
  std::string why_not;
  const auto state = read_optimizer_state(again, adam, changed.graph.parameters, &why_not).value();
  ASSERT_TRUE(state.has_value()) << why_not;
  EXPECT_EQ(state->iterations, 41);
  EXPECT_EQ(state->slots[0], slot);
  const auto sgd = Optimizer::create({{"name", "sgd"}}).value();
  trained.optimizer = {&sgd, 41, {}};
  const std::string other = folder.write("sgd.keras", make_keras_file(trained).value());
  EXPECT_TRUE(read_model_file(other)->weights->names("optimizer/vars")->empty());
}

TEST(WriteTest, TheRateThatCallbacksSetIsTheOptimizers) {
  const TestFolder folder;
  const Changed changed("small.keras");
  const auto adam = Optimizer::create(changed.file.compile.at("optimizer")).value();
  TrainedModel trained = changed.trained();
  trained.optimizer = {&adam, 41, {changed.weights, changed.weights}};
  trained.optimizer->learning_rate = 0.0625;
  const std::string path = folder.write("out.keras", make_keras_file(trained).value());
  const ModelFile again = read_model_file(path).value();
  EXPECT_EQ(again.config_text, changed.file.config_text);
  EXPECT_EQ(again.weights->array("optimizer/vars/1")->value(0), 0.0625);
  EXPECT_EQ(again.compile.at("optimizer").at("config").at("learning_rate"), 0.0625);
}

TEST(WriteTest, LegacyFilesHoldModelAndWeights) {
  const TestFolder folder;
  for (const char* name : {"branches.keras", "small.h5"}) {
    const Changed changed(name);
    const std::string path = folder.write("out.h5", make_legacy_h5(changed.trained()).value());
    const ModelFile again = read_model_file(path).value();
    EXPECT_EQ(again.layout, WeightsLayout::legacy);
    const auto model = model_from_config(again.config, {{6, 6, 1}}).value();
    EXPECT_EQ(model->config(), changed.model->config());
    EXPECT_EQ(read_weights(again, *model, changed.graph.parameters).value(), changed.weights);
    EXPECT_EQ(again.compile.at("optimizer").at("class_name"),
              changed.file.compile.at("optimizer").at("class_name"));
  }
}

TEST(WriteTest, ModelsByNameComeBackAsTheyWere) {
  const TestFolder folder;
  for (const std::string name : {"lenet", "mlp", "resnet20"}) {
    SCOPED_TRACE(name);
    const auto built = build_model(name, {28, 28, 1}, 10).value();
    const auto model = model_from_config(built->config()).value();
    const Graph graph = model->training_graph(std::string(kLoss)).value();
    const std::vector<float> weights = counted(graph.parameter_count);
    const auto adam = Optimizer::create({{"name", "adam"}}).value();
    TrainedModel trained;
    trained.model = model.get();
    trained.parameters = &graph.parameters;
    trained.weights = weights;
    trained.optimizer = {&adam, 5, {weights, weights}};
    trained.compile = {adam.config(), kLoss, {"accuracy"}};
    const std::string path = folder.write(name, make_keras_file(trained).value());
    const ModelFile again = read_model_file(path).value();
    EXPECT_EQ(model_from_config(again.config).value()->config(), model->config());
    EXPECT_EQ(read_weights(again, *model, graph.parameters).value(), weights);
    EXPECT_EQ(again.compile.at("metrics"), nlohmann::json({"accuracy"}));
  }
}

TEST(WriteTest, LongListsOfNamesAreCut) {
  const TestFolder folder;
  std::vector<std::string> names;
  for (int i = 0; i < 3000; ++i)
    names.push_back("a/rather/long/name/of/a/weight/" + std::to_string(i));
  Hdf5Writer writer;
  writer.add_group("layer");
  writer.set_texts("layer", "weight_names", names);
  writer.set_texts("layer", "empty", {});
  writer.set_text("", "config", std::string(100'000, 'x'));
  const std::string path = folder.write("long.h5", writer.finish().value());
  const Hdf5File file = Hdf5File::open(map_file(path).value(), path).value();
  EXPECT_EQ(file.texts("layer", "weight_names").value(), names);
  EXPECT_TRUE(file.texts("layer", "weight_names1").value().has_value());
  EXPECT_EQ(file.texts("layer", "empty").value()->size(), 0u);
  EXPECT_EQ(file.text("", "config").value()->size(), 100'000u);
}

TEST(SummaryTest, IsKerasTable) {
  const auto file = read_model_file(keras_path("small.json")).value();
  const auto model = model_from_config(file.config).value();
  EXPECT_EQ(model_summary(*model).value(),
            "Model: \"small\"\n"
            " Layer (type)                              Output Shape     Param #\n"
            "--------------------------------------------------------------------\n"
            " conv2d (Conv2D)                           (None, 4, 4, 3)       30\n"
            " batch_normalization (BatchNormalization)  (None, 4, 4, 3)       12\n"
            " max_pooling2d (MaxPooling2D)              (None, 2, 2, 3)        0\n"
            " flatten (Flatten)                         (None, 12)             0\n"
            " dense (Dense)                             (None, 5)             65\n"
            " dropout (Dropout)                         (None, 5)              0\n"
            " dense_1 (Dense)                           (None, 3)             18\n"
            " Total params: 125 (500.00 B)\n"
            " Trainable params: 54 (216.00 B)\n"
            " Non-trainable params: 71 (284.00 B)\n");
}

}  // namespace
}  // namespace lockstep
