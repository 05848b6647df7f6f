// Programs against what Keras computes in float64 (tests/golden/make_golden.py).
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <tuple>

#include "models/models.h"
#include "tests/nn/test_devices.h"
#include "tests/nn/training_step.h"
#include "tests/support/loss.h"
#include "tests/support/source_folder.h"

namespace lockstep {
namespace {

constexpr double kModelTolerance = 1e-5;  // of the largest absolute value of the tensor
constexpr int kClasses = 10;
constexpr int kSteps = 10;
nlohmann::json read_golden(const std::string& model) {
  std::ifstream file(source_folder() + "/tests/golden/" + model + ".json");
  LOCKSTEP_CHECK(file.good());
  return nlohmann::json::parse(file);
}

std::unique_ptr<Model> golden_model(const std::string& name) {
  if (name == "lenet") return lenet({28, 28, 1}, kClasses, 0.0);
  return build_model(name, {28, 28, 1}, kClasses).value();
}

std::vector<float> golden_weights(const Graph& graph) {
  std::vector<float> weights;
  for (size_t k = 0; k < graph.parameters.size(); ++k) {
    const Shape& shape = graph.parameters[k].shape;
    double scale = 0.05;
    if (shape.size() > 1) {
      const int64_t field = shape.size() == 4 ? shape[0] * shape[1] : 1;
      const int64_t fans = field * (shape[shape.size() - 2] + shape.back());
      scale = std::sqrt(6.0 / static_cast<double>(fans));
    }
    for (int64_t i = 0; i < element_count(shape); ++i) {
      const double centred = 2 * made_up_uniform(k, static_cast<uint64_t>(i)) - 1;
      weights.push_back(static_cast<float>(centred * scale));
    }
  }
  return weights;
}

// Compares the sampled entries of every tensor in `flat` with the golden ones under `key`.
void compare_tensors(const nlohmann::json& golden, const Graph& graph,
                     const std::vector<float>& flat, const std::string& key) {
  ASSERT_EQ(golden["tensors"].size(), graph.parameters.size());
  for (size_t k = 0; k < graph.parameters.size(); ++k) {
    const nlohmann::json& tensor = golden["tensors"][k];
    const Parameter& parameter = graph.parameters[k];
    ASSERT_EQ(tensor["shape"].get<Shape>(), parameter.shape);
    EXPECT_EQ(tensor["name"],
              golden["model"].get<std::string>() + "/" + parameter.layer + "/" + parameter.name);
    const double largest = tensor[key + "_max_abs"];
    double worst = 0;
    size_t worst_index = 0;
    for (size_t i = 0; i < tensor["indices"].size(); ++i) {
      const int64_t index = tensor["indices"][i];
      const double difference =
          std::abs(flat[parameter.offset + index] - tensor[key][i].get<double>()) / largest;
      if (difference > worst) worst_index = i;
      worst = std::max(worst, difference);
    }
    EXPECT_LE(worst, kModelTolerance)
        << key << " of " << tensor["name"] << " at index " << tensor["indices"][worst_index]
        << ", gradient " << tensor["gradient"][worst_index] << " of at most "
        << tensor["gradient_max_abs"];
  }
}

using GoldenCase = std::tuple<std::string, std::string, int>;  // model, device, partitions

class GoldenTest : public testing::TestWithParam<GoldenCase> {
 protected:
  void SetUp() override {
    device_ = make_test_device(std::get<1>(GetParam()));
    if (device_ == nullptr) GTEST_SKIP() << "this machine has no " << std::get<1>(GetParam());
    golden_ = read_golden(std::get<0>(GetParam()));
    model_ = golden_model(std::get<0>(GetParam()));
    graph_ = model_->training_graph(kLoss).value();
    batch_ = made_up_batch(golden_["rows"], graph_.input_features, kClasses);
  }
  int partitions() const { return std::get<2>(GetParam()); }
  double mean_loss(const std::vector<float>& flat) const {
    return double{flat[graph_.parameter_count]} / batch_.rows;
  }

  // Ten steps on the same batch: the loss before each, and the weights after the last.
  void train(const nlohmann::json& config, const std::string& key) {
    const Optimizer optimizer = Optimizer::create(config).value();
    TrainingStep step(*device_, graph_);
    step.set_weights(golden_weights(graph_));
    std::vector<std::unique_ptr<Buffer>> slots;
    std::vector<float*> slot_data;
    for (size_t i = 0; i < optimizer.slots().size(); ++i) {
      slots.push_back(allocate_floats(*device_, graph_.parameter_count));
      slot_data.push_back(slots.back()->data());
      upload(*device_, std::vector<float>(static_cast<size_t>(graph_.parameter_count)),
             slot_data.back());
    }
    const auto gradient = allocate_floats(*device_, graph_.flat_size);
    for (int t = 1; t <= kSteps; ++t) {
      const std::vector<float> flat = step.flat(batch_, partitions());
      const double expected = golden_[key + "_loss"][t - 1];
      EXPECT_NEAR(mean_loss(flat), expected, kModelTolerance * expected) << "step " << t;
      upload(*device_, flat, gradient->data());
      ASSERT_TRUE(device_
                      ->update(optimizer.update_at(t), gradient->data(), step.weights(), slot_data,
                               graph_.parameter_count, nullptr)
                      .ok());
    }
    compare_tensors(golden_, graph_, step.copy_weights(), key);
  }

  std::unique_ptr<Device> device_;
  nlohmann::json golden_;
  std::unique_ptr<Model> model_;
  Graph graph_;
  HostBatch batch_;
};

TEST_P(GoldenTest, forward) {
  const Graph graph = model_->predict_graph().value();
  const PartitionGroup group = group_of(batch_.rows, partitions(), {0, partitions()});
  TrainingStep step(*device_, graph);
  const std::vector<float> weights = golden_weights(graph);
  step.set_weights(weights);
  Program* program = step.programs().program_for(group).value();
  ASSERT_TRUE(program->run(step.context(batch_, batch_.rows, {}), {}).ok());
  std::vector<float> probabilities(static_cast<size_t>(batch_.rows * kClasses));
  ASSERT_TRUE(program->download_output(probabilities.data()).ok());
  for (int row = 0; row < batch_.rows; ++row) {
    for (int c = 0; c < kClasses; ++c) {
      EXPECT_NEAR(probabilities[row * kClasses + c], golden_["forward"][row][c].get<double>(),
                  kModelTolerance);
    }
  }
}

TEST_P(GoldenTest, weights_are_those_of_the_script) {
  const std::vector<float> weights = golden_weights(graph_);
  for (size_t k = 0; k < graph_.parameters.size(); ++k) {
    const nlohmann::json& tensor = golden_["tensors"][k];
    for (size_t i = 0; i < tensor["indices"].size(); ++i) {
      const int64_t index = graph_.parameters[k].offset + tensor["indices"][i].get<int64_t>();
      ASSERT_EQ(weights[index], tensor["initial"][i].get<float>()) << tensor["name"] << " " << i;
    }
  }
}

TEST_P(GoldenTest, loss_and_gradients) {
  TrainingStep step(*device_, graph_);
  step.set_weights(golden_weights(graph_));
  const std::vector<float> flat = step.flat(batch_, partitions());
  const double expected = golden_["loss"];
  EXPECT_NEAR(mean_loss(flat), expected, kModelTolerance * expected);
  compare_tensors(golden_, graph_, flat, "gradient");
}

TEST_P(GoldenTest, ten_steps_of_adam) { train({{"name", "adam"}}, "adam"); }

TEST_P(GoldenTest, ten_steps_of_sgd) {
  train({{"name", "sgd"}, {"learning_rate", 0.01}, {"momentum", 0.9}}, "sgd");
}

std::string case_name(const testing::TestParamInfo<GoldenCase>& info) {
  std::string name = std::get<0>(info.param) + "_" + std::get<1>(info.param) + "_P" +
                     std::to_string(std::get<2>(info.param));
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

INSTANTIATE_TEST_SUITE_P(models, GoldenTest,
                         testing::Combine(testing::Values("seed-cnn", "mlp", "lenet"),
                                          testing::ValuesIn(test_device_names()),
                                          testing::Values(1, 8)),
                         case_name);

}  // namespace
}  // namespace lockstep
