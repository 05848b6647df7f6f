// Random models: however the partitions of a batch are grouped, the bits are the same.
#include <gtest/gtest.h>

#include <cstring>

#include "host/nn/model.h"
#include "tests/nn/test_devices.h"
#include "tests/nn/training_step.h"

namespace lockstep {
namespace {

using Json = nlohmann::json;
using Ref = Model::TensorRef;

constexpr int kModels = 200;
constexpr int kPartitions = 8;

class RandomNumbers {
 public:
  explicit RandomNumbers(uint64_t seed) : key_(mix64(seed + 1)) {}
  int below(int bound) {
    return static_cast<int>(uniform_at(key_, next_++) * static_cast<float>(bound));
  }
  template <class Item>
  const Item& one_of(const std::vector<Item>& items) {
    return items[static_cast<size_t>(below(static_cast<int>(items.size())))];
  }

 private:
  uint64_t key_;
  uint64_t next_ = 0;
};

struct LayerChoice {
  const char* class_name;
  Json config;
};

// Layers that take any image of a few pixels.
const std::vector<LayerChoice>& image_layers() {
  static const auto* layers = new std::vector<LayerChoice>{
      {"Conv2D", {{"filters", 4}, {"kernel_size", 3}, {"padding", "same"}}},
      {"Conv2D", {{"filters", 3}, {"kernel_size", 2}, {"strides", 1}, {"activation", "relu"}}},
      {"BatchNormalization", Json::object()},
      {"LayerNormalization", Json::object()},
      {"RMSNormalization", Json::object()},
      {"Activation", {{"activation", "gelu"}}},
      {"Activation", {{"activation", "silu"}}},
      {"Activation", {{"activation", "softmax"}}},
      {"PReLU", {{"shared_axes", {1, 2}}}},
      {"LeakyReLU", Json::object()},
      {"Dropout", {{"rate", 0.25}}},
      {"SpatialDropout2D", {{"rate", 0.5}}},
      {"GaussianNoise", {{"stddev", 0.1}}},
      {"AlphaDropout", {{"rate", 0.2}}},
      {"ZeroPadding2D", {{"padding", 1}}},
      {"UpSampling2D", {{"size", 2}, {"interpolation", "bilinear"}}},
      {"AveragePooling2D", {{"pool_size", 2}, {"strides", 1}, {"padding", "same"}}},
      {"MaxPooling2D", {{"pool_size", 2}, {"strides", 1}, {"padding", "same"}}},
      {"Permute", {{"dims", {2, 1, 3}}}},
      {"Dense", {{"units", 3}, {"activation", "tanh"}}},
      {"Rescaling", {{"scale", 0.5}, {"offset", 0.25}}},
      {"GroupNormalization", {{"groups", -1}}},
      {"UnitNormalization", {{"axis", {1, 3}}}},
      {"Normalization", Json::object()},
      {"EinsumDense",
       {{"equation", "abcd,de->abce"},
        {"output_shape", {nullptr, nullptr, 3}},
        {"bias_axes", "e"}}},
      {"TimeDistributed",
       {{"layer",
         {{"class_name", "Conv1D"},
          {"config", {{"filters", 3}, {"kernel_size", 2}, {"padding", "same"}}}}}}},
      {"SpectralNormalization",
       {{"layer",
         {{"class_name", "Conv2D"},
          {"config", {{"filters", 3}, {"kernel_size", 2}, {"padding", "same"}}}}},
        {"power_iterations", 2}}},
      {"ActivityRegularization", {{"l1", 0.01}, {"l2", 0.02}}},
      {"Conv2D", {{"filters", 3}, {"kernel_size", 1}, {"activity_regularizer", "l2"}}},
      {"StochasticDepth", {{"drop_path_rate", 0.3}}},
      {"Dropout", {{"rate", 0.25}, {"noise_shape", {nullptr, 1, nullptr, 1}}}},
  };
  return *layers;
}

Model random_model(uint64_t seed) {
  RandomNumbers random(seed);
  Model model("random");
  Ref x = model.input({5, 4, 3});
  const int layers = 2 + random.below(4);
  for (int i = 0; i < layers; ++i) {
    const LayerChoice& choice = random.one_of(image_layers());
    const Ref y = model.call(choice.class_name, choice.config, {x});
    // Two ways that meet again, one of them through a layer that is called on both.
    if (random.below(3) == 0) {
      const int shared = model.add_layer("Dense", {{"units", 3}});
      x = model.call("Concatenate", {{"axis", 1}},
                     {model.call("Flatten", Json::object(), {model.call(shared, {y})}),
                      model.call("Flatten", Json::object(), {model.call(shared, {y})})});
      x = model.call("Reshape", {{"target_shape", {-1, 2, 3}}}, {x});
    } else {
      x = y;
    }
  }
  x = model.call("Flatten", Json::object(), {x});
  if (random.below(4) == 0) {
    // Steps of one feature; what relu makes 0 counts no more. A row of zeros counts in full: the
    // mean of nothing is NaN.
    Ref steps = model.call("Reshape", {{"target_shape", {-1, 1}}}, {x});
    steps = model.call("Rescaling", {{"scale", 1.0}, {"offset", 0.25}}, {steps});
    steps = model.call("Masking", Json::object(), {model.call("ReLU", Json::object(), {steps})});
    x = model.call("Concatenate", Json::object(),
                   {x, model.call("GlobalAveragePooling1D", Json::object(), {steps})});
  }
  model.set_outputs({model.call("Dense", {{"units", 4}, {"activation", "softmax"}}, {x})});
  return model;
}

class RandomModels : public testing::TestWithParam<std::string> {};

TEST_P(RandomModels, give_the_same_bits_however_partitions_are_grouped) {
  const auto device = make_test_device(GetParam());
  if (device == nullptr) GTEST_SKIP() << "this machine has no " << GetParam();
  const uint64_t base = 1;
  for (uint64_t seed = base; seed < base + kModels; ++seed) {
    const Model model = random_model(seed);
    std::string layers;
    for (const auto& layer : model.layers()) layers += " " + layer.name;
    SCOPED_TRACE("seed " + std::to_string(seed) + ":" + layers);
    const auto graph = model.training_graph("sparse_categorical_crossentropy");
    ASSERT_TRUE(graph.ok()) << graph.error().message;
    TrainingStep step(*device, *graph);
    step.set_weights(initial_weights(*graph, seed));
    HostBatch batch = made_up_batch(19, graph->input_features, 4);
    batch.target_features = 1;
    batch.targets.assign(batch.labels.begin(), batch.labels.end());
    const std::vector<float> whole = step.flat(batch, kPartitions);
    for (const std::vector<int>& cuts : {std::vector<int>{0, 3, 8}, std::vector<int>{0, 1, 6, 8}}) {
      std::vector<GroupResult> results;
      for (size_t i = 0; i + 1 < cuts.size(); ++i) {
        results.push_back(step.run(batch, kPartitions, {cuts[i], cuts[i + 1]}));
      }
      const auto sum = combine(*device, results, kPartitions, graph->flat_size);
      ASSERT_EQ(0, std::memcmp(sum.data(), whole.data(), sum.size() * sizeof(float)));
    }
  }
}

std::string device_name(const testing::TestParamInfo<std::string>& info) {
  std::string name = info.param;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

INSTANTIATE_TEST_SUITE_P(devices, RandomModels, testing::ValuesIn(test_device_names()),
                         device_name);

}  // namespace
}  // namespace lockstep
