// A golden case of regularizers and constraints: a replica's steps on any devices.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "host/runtime/replica.h"
#include "tests/nn/training_step.h"
#include "tests/support/golden_json.h"

namespace lockstep::golden {

inline const nlohmann::json& regularizers_file() { return golden_json("regularizers"); }

inline std::vector<std::string> regularizer_cases() {
  return golden_names("regularizers", "cases");
}

class RegularizerCase {
 public:
  static constexpr double kTolerance = 1e-5;
  static constexpr int64_t kTargets = 2;

  explicit RegularizerCase(const std::string& name)
      : golden_(regularizers_file().at("cases").at(name)),
        model_(name, golden_.at("input_shape").get<Shape>()) {
    for (const auto& layer : golden_.at("layers")) {
      model_.add(layer.at("class_name"), layer.at("config"));
    }
    job_.model_config = model_.config();
    job_.outputs[0].loss = "mean_squared_error";
    job_.optimizer = {{"name", "sgd"}, {"learning_rate", regularizers_file().at("learning_rate")}};
    job_.batch_size = job_.train_rows = regularizers_file().at("rows");
    job_.epochs = 100;
    job_.partitions = 4;
    job_.outputs[0].target_shape = {kTargets};
  }

  // Fails the test where anything differs. The digests after each step.
  std::vector<uint64_t> check(int devices, const DeviceFactory& factory, bool alone) {
    auto created = Replica::create(job_, model_, devices, factory);
    EXPECT_TRUE(created.ok()) << created.error().message;
    if (!created.ok()) return {};
    Replica& replica = **created;
    EXPECT_TRUE(replica.set_weights(initial_weights(replica)).ok());
    const auto ranges = replica.device_ranges({0, job_.partitions});
    const auto batches = batches_of(ranges);
    std::vector<uint64_t> digests;
    int64_t step = 0;
    for (const double loss : golden_.at("losses")) {
      const auto roots = replica.take_roots(step, ranges, alone);
      EXPECT_TRUE(replica.compute(step++, ranges, batches, [](int64_t, int64_t) {}).ok());
      const auto sums = replica.update(nullptr, *roots);
      EXPECT_TRUE(sums.ok());
      EXPECT_NEAR(sums->at(0) / rows(), loss, kTolerance) << "step " << step;
      digests.push_back(replica.state().digest);
      EXPECT_EQ(replica.state_digest().value(), digests.back());
    }
    EXPECT_TRUE(replica.fetch_state().ok());
    const auto weights = golden_.at("weights").get<std::vector<double>>();
    EXPECT_EQ(weights.size(), replica.state().weights.size());
    for (size_t i = 0; i < weights.size(); ++i) {
      EXPECT_NEAR(replica.state().weights[i], weights[i], kTolerance) << "weight " << i;
    }
    evaluate(replica, ranges, batches);
    return digests;
  }

 private:
  double rows() const { return static_cast<double>(job_.batch_size); }

  void evaluate(Replica& replica, const std::vector<PartitionRange>& ranges,
                const std::vector<HostBatch>& batches) {
    std::vector<ValidationPart> parts;
    EXPECT_TRUE(replica.measure(0, job_.batch_size, ranges, batches, &parts).ok());
    double loss = 0;
    for (const ValidationPart& part : parts) loss += part.sums.at(0) / rows();
    EXPECT_NEAR(loss, golden_.at("evaluated").get<double>(), kTolerance);
  }

  static std::vector<float> initial_weights(const Replica& replica) {
    std::vector<float> weights;
    const auto& parameters = replica.graph().parameters;
    for (size_t k = 0; k < parameters.size(); ++k) {
      for (int64_t i = 0; i < parameters[k].count(); ++i) {
        const double value = made_up_uniform(500 + k, static_cast<uint64_t>(i));
        weights.push_back(static_cast<float>(2 * value - 1));
      }
    }
    return weights;
  }

  std::vector<HostBatch> batches_of(const std::vector<PartitionRange>& ranges) const {
    HostBatch whole;
    whole.rows = static_cast<int>(job_.batch_size);
    whole.features = element_count(golden_.at("input_shape").get<Shape>());
    whole.target_features = kTargets;
    for (int64_t i = 0; i < whole.rows * whole.features; ++i) {
      whole.inputs.push_back(
          static_cast<float>(2 * made_up_uniform(1000, static_cast<uint64_t>(i)) - 1));
    }
    for (int64_t i = 0; i < whole.rows * kTargets; ++i) {
      whole.targets.push_back(static_cast<float>(made_up_uniform(2000, static_cast<uint64_t>(i))));
    }
    for (int row = 0; row < whole.rows; ++row) {
      whole.labels.push_back(0);
      whole.positions.push_back(static_cast<uint32_t>(row));
      whole.samples.push_back(row);
    }
    std::vector<HostBatch> batches;
    for (const PartitionRange range : ranges) {
      batches.push_back(slice_batch(whole,
                                    partition_begin(whole.rows, job_.partitions, range.begin),
                                    partition_begin(whole.rows, job_.partitions, range.end)));
    }
    return batches;
  }

  const nlohmann::json golden_;
  Model model_;
  Job job_;
};

}  // namespace lockstep::golden
