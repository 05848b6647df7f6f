// Reductions, masks and weights of single outputs against Keras, through a job's own batches.
#include <gtest/gtest.h>

#include "host/job/data_job.h"
#include "host/job/metric_table.h"
#include "host/job/options.h"
#include "host/nn/model_config.h"
#include "host/train/resolve.h"
#include "tests/nn/test_devices.h"
#include "tests/nn/training_step.h"
#include "tests/support/golden_json.h"

namespace lockstep {
namespace {

constexpr double kTolerance = 2e-5;  // of the largest value

Field field_of(const std::string& name, const nlohmann::json& values, const Shape& row_shape) {
  const auto floats = values.get<std::vector<float>>();
  const auto* begin = reinterpret_cast<const uint8_t*>(floats.data());
  Field field{name, row_shape, 0, ElementType::float32};
  field.values = SharedBytes(std::vector<uint8_t>(begin, begin + floats.size() * sizeof(float)));
  return field;
}

class ObjectivesGolden : public testing::TestWithParam<std::tuple<std::string, std::string>> {
 protected:
  void SetUp() override {
    device_ = make_test_device(std::get<1>(GetParam()));
    if (device_ == nullptr) GTEST_SKIP() << "this machine has no " << std::get<1>(GetParam());
    golden_ = golden_json("objectives").at("cases").at(std::get<0>(GetParam()));
    make_data();
    make_job();
  }

  void make_data() {
    Dataset parts;
    parts.inputs = {field_of("x", golden_.at("x"), golden_.at("x_shape").get<Shape>())};
    for (size_t i = 0; i < golden_.at("y").size(); ++i) {
      const auto shape = golden_.at("y_shapes")[i].get<Shape>();
      parts.targets.push_back(field_of(std::to_string(i), golden_.at("y")[i], shape));
    }
    for (const auto& values : golden_.at("sample_weights")) {
      const auto entries = static_cast<int64_t>(values.size()) / parts.inputs[0].rows();
      parts.weights.push_back(field_of("weights", values, entries == 1 ? Shape{} : Shape{entries}));
    }
    data_ = assemble_dataset(std::move(parts)).value();
  }

  void make_job() {
    nlohmann::json options = default_values(job_options());
    options["model"] = "made";
    options["data"] = "made";
    options["batch_size"] = golden_json("objectives").at("batch_size");
    options["partitions"] = 4;
    options["shuffle"] = false;
    for (const char* key : {"loss", "loss_weights", "metrics", "weighted_metrics"}) {
      if (!golden_.at(key).is_null()) options[key] = golden_.at(key);
    }
    if (golden_.at("metrics").is_null()) options["metrics"] = nlohmann::json::array();
    job_ = job_from_options(options, output_names(golden_.at("config"))).value();
    job_.train_rows = data_.rows();
    job_.weighted = !data_.weights.empty();
    ASSERT_TRUE(set_target_shapes(data_, &job_).ok());
    ASSERT_TRUE(set_weight_entries(data_, &job_).ok());
    model_ = model_from_config(golden_.at("config")).value();
    job_.model_config = model_->config();
    const Status masks = set_masks(*model_, &job_);
    ASSERT_TRUE(masks.ok()) << masks.error().message;
  }

  HostBatch batch(BatchLoader& loader, int64_t number) {
    return loader.take({0, number, {{0, job_.partitions}}})[0];
  }

  std::vector<float> weights() const {
    std::vector<float> weights;
    for (size_t number = 0; static_cast<int64_t>(weights.size()) < graph_.parameter_count;
         ++number) {
      const int64_t count = graph_.parameters[number].count();
      for (int64_t i = 0; i < count; ++i) {
        weights.push_back(
            static_cast<float>(2 * made_up_uniform(500 + number, static_cast<uint64_t>(i)) - 1));
      }
    }
    return weights;
  }

  std::unique_ptr<Device> device_;
  nlohmann::json golden_;
  Dataset data_;
  Job job_;
  std::unique_ptr<Model> model_;
  Graph graph_;
};

TEST_P(ObjectivesGolden, an_epoch_is_measured_as_keras_does) {
  graph_ = model_->evaluate_graph(objective_of(job_)).value();
  TrainingStep step(*device_, graph_);
  step.set_weights(weights());
  BatchLoader loader(data_, measuring_loader(job_, {0, data_.rows()}));
  const MetricTable table(job_);
  MetricSums sums(static_cast<size_t>(table.size()));
  for (int64_t number = 0; number < loader.batches_per_epoch(); ++number) {
    const HostBatch rows = batch(loader, number);
    add_sums(table.sums(step.flat(rows, job_.partitions), rows.rows), &sums);
  }
  const std::vector<double> values = table.values(sums);
  EXPECT_EQ(table.names().size(), golden_.at("evaluated").size());
  for (const auto& [name, value] : golden_.at("evaluated").items()) {
    const auto at = std::find(table.names().begin(), table.names().end(), name);
    ASSERT_NE(at, table.names().end()) << name;
    EXPECT_NEAR(values[static_cast<size_t>(at - table.names().begin())], value.get<double>(),
                kTolerance * std::max(0.1, std::abs(value.get<double>())))
        << name;
  }
}

TEST_P(ObjectivesGolden, gradients_are_keras) {
  graph_ = model_->training_graph(objective_of(job_)).value();
  TrainingStep step(*device_, graph_);
  step.set_weights(weights());
  BatchLoader loader(data_, training_loader(job_, {0, data_.rows()}));
  std::vector<float> root = step.flat(batch(loader, 0), job_.partitions);
  for (const GradientSum& sum : graph_.gradient_sums) {
    for (int64_t i = 0; i < sum.count; ++i) {
      root[static_cast<size_t>(sum.to + i)] += root[static_cast<size_t>(sum.from + i)];
    }
  }
  for (size_t i = 0; i < graph_.parameters.size(); ++i) {
    const Parameter& parameter = graph_.parameters[i];
    const auto expected = golden_.at("gradients")[i].get<std::vector<double>>();
    double largest = 0.1;
    for (const double value : expected) largest = std::max(largest, std::abs(value));
    for (size_t k = 0; k < expected.size(); ++k) {
      const float ours = parameter.gradient_offset < 0
                             ? 0
                             : root[static_cast<size_t>(parameter.gradient_offset) + k];
      ASSERT_NEAR(ours, expected[k], kTolerance * largest)
          << parameter.layer << "/" << parameter.name << ", element " << k;
    }
  }
}

// Whoever has which partitions, in whatever order the rows come.
TEST_P(ObjectivesGolden, every_part_of_a_batch_has_the_same_weights) {
  job_.shuffle = true;
  BatchLoader loader(data_, training_loader(job_, {0, data_.rows()}));
  for (int64_t number = 0; number < loader.batches_per_epoch(); ++number) {
    const std::vector<float> whole = batch(loader, number).weights;
    std::vector<float> joined;
    for (const HostBatch& part : loader.take({0, number, {{0, 1}, {1, 2}, {2, 4}}})) {
      joined.insert(joined.end(), part.weights.begin(), part.weights.end());
    }
    EXPECT_EQ(whole, joined);
  }
}

TEST_P(ObjectivesGolden, a_job_file_says_the_same) {
  const auto again = job_from_json(to_json(job_));
  ASSERT_TRUE(again.ok()) << again.error().message;
  EXPECT_EQ(recipe_sha256(*again), recipe_sha256(job_));
  for (size_t i = 0; i < job_.outputs.size(); ++i) {
    EXPECT_EQ(again->outputs[i].masked, job_.outputs[i].masked);
    EXPECT_EQ(again->outputs[i].weight_entries, job_.outputs[i].weight_entries);
  }
}

std::string case_name(const testing::TestParamInfo<ObjectivesGolden::ParamType>& info) {
  std::string name = std::get<0>(info.param) + "_on_" + std::get<1>(info.param);
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

INSTANTIATE_TEST_SUITE_P(objectives, ObjectivesGolden,
                         testing::Combine(testing::ValuesIn(golden_names("objectives", "cases")),
                                          testing::ValuesIn(test_device_names())),
                         case_name);

}  // namespace
}  // namespace lockstep
