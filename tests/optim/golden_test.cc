// Every optimizer and schedule against Keras, on every device.
#include <gtest/gtest.h>

#include <cmath>

#include "tests/nn/test_devices.h"
#include "tests/optim/optimizer_steps.h"

namespace lockstep {
namespace {

using optimizer_golden::golden_file;
using optimizer_golden::State;

constexpr double kTolerance = 1e-5;  // of the largest value

void expect_close(const nlohmann::json& expected, const std::vector<float>& actual,
                  const std::string& what) {
  ASSERT_EQ(expected.size(), actual.size());
  double largest = 0;
  for (const double value : expected) largest = std::max(largest, std::abs(value));
  for (size_t i = 0; i < actual.size(); ++i) {
    ASSERT_NEAR(actual[i], expected[i].get<double>(), kTolerance * largest)
        << what << ", element " << i;
  }
}

class OptimizerGolden : public testing::TestWithParam<std::tuple<std::string, std::string>> {
 protected:
  void SetUp() override {
    device_ = make_test_device(std::get<1>(GetParam()));
    if (device_ == nullptr) GTEST_SKIP() << "this machine has no " << std::get<1>(GetParam());
    golden_ = golden_file().at("optimizers").at(std::get<0>(GetParam()));
    auto optimizer = Optimizer::create(golden_.at("config"));
    ASSERT_TRUE(optimizer.ok()) << optimizer.error().message;
    optimizer_ = std::move(optimizer).value();
  }

  std::unique_ptr<Device> device_;
  nlohmann::json golden_;
  Optimizer optimizer_;
};

TEST_P(OptimizerGolden, ten_steps_agree_with_keras) {
  State state(*device_, optimizer_, golden_);
  for (int64_t t = 1; t <= golden_file().at("steps"); ++t) state.step(optimizer_, t, nullptr);
  expect_close(golden_.at("weights"), state.copy(0), "weights");
  ASSERT_EQ(golden_.at("slots").size(), optimizer_.slots().size());
  for (size_t i = 0; i < optimizer_.slots().size(); ++i) {
    const auto& slot = golden_.at("slots")[i];
    EXPECT_EQ(slot[0], optimizer_.slots()[i].name);
    expect_close(slot[1], state.copy(1 + i), slot[0]);
  }
}

TEST_P(OptimizerGolden, digest_is_of_the_new_state) {
  State state(*device_, optimizer_, kDigestBlock + 333);
  std::vector<DigestLanes> lanes(2), expected(2);
  state.step(optimizer_, 1, lanes.data());
  std::vector<std::vector<float>> slots;
  std::vector<const float*> pointers;
  for (size_t i = 1; i <= optimizer_.slots().size(); ++i) slots.push_back(state.copy(i));
  for (const auto& slot : slots) pointers.push_back(slot.data());
  const std::vector<float> weights = state.copy(0);
  ASSERT_TRUE(
      naive::NaiveDevice().digest(weights.data(), pointers, state.count(), expected.data()).ok());
  EXPECT_EQ(state_digest_of(expected), state_digest_of(lanes));
}

INSTANTIATE_TEST_SUITE_P(all, OptimizerGolden,
                         testing::Combine(testing::ValuesIn(optimizer_golden::case_names()),
                                          testing::ValuesIn(test_device_names())),
                         [](const auto& case_info) {
                           std::string name =
                               std::get<0>(case_info.param) + "_" + std::get<1>(case_info.param);
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

TEST(ScheduleGolden, agrees_with_keras) {
  const int64_t every = golden_file().at("schedule_every");
  for (const auto& [name, golden] : golden_file().at("schedules").items()) {
    const auto schedule = LearningRate::create("test", golden.at("config"));
    ASSERT_TRUE(schedule.ok()) << schedule.error().message;
    std::vector<float> rates;
    for (size_t i = 0; i < golden.at("rates").size(); ++i) {
      rates.push_back(static_cast<float>(schedule->at(static_cast<int64_t>(i) * every)));
    }
    expect_close(golden.at("rates"), rates, name);
  }
}

}  // namespace
}  // namespace lockstep
