// Every optimizer and schedule against Keras, on every device.
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "host/optim/optimizer.h"
#include "tests/nn/test_devices.h"
#include "tests/nn/training_step.h"
#include "tests/support/source_folder.h"

namespace lockstep {
namespace {

constexpr double kTolerance = 1e-5;  // of the largest value

const nlohmann::json& golden_file() {
  // The tests' only reader; it lives as long as they do.
  static const auto* file = [] {
    std::ifstream stream(source_folder() + "/tests/golden/optimizers.json");
    return new nlohmann::json(nlohmann::json::parse(stream));
  }();
  return *file;
}

std::vector<std::string> case_names() {
  std::vector<std::string> names;
  for (const auto& [name, value] : golden_file().at("optimizers").items()) names.push_back(name);
  return names;
}

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

// The formula of tests/golden/make_optimizers.py, in [-1, 1).
std::vector<float> made_up(uint64_t tensor, int64_t count) {
  std::vector<float> values;
  for (int64_t i = 0; i < count; ++i) {
    const double value = 2 * made_up_uniform(tensor, static_cast<uint64_t>(i)) - 1;
    values.push_back(static_cast<float>(value));
  }
  return values;
}

struct Part {
  std::string name;
  int64_t begin = 0, count = 0;
};

struct State {
  Device& device;
  int64_t count;
  std::vector<Part> parts;                       // parameters
  std::vector<std::unique_ptr<Buffer>> vectors;  // weights, slots
  std::unique_ptr<Buffer> gradient;

  State(Device& on, const Optimizer& optimizer, int64_t size)
      : device(on), count(size), parts({{"w", 0, size}}), gradient(allocate_floats(on, size)) {
    add(made_up(0, count));
    for (const OptimizerSlot& slot : optimizer.slots()) {
      add(slot.initial(made_up(0, count)));
    }
  }
  void add(const std::vector<float>& values) {
    vectors.push_back(allocate_floats(device, count));
    upload(device, values, vectors.back()->data());
  }
  void step(const Optimizer& optimizer, int64_t t, DigestLanes* lanes) {
    const std::vector<float> gradients = made_up(static_cast<uint64_t>(t), count);
    upload(device, gradients, gradient->data());
    const std::vector<StepTerms> terms = terms_of(optimizer, t, gradients);
    for (size_t part = 0; part < parts.size(); ++part) {
      const int64_t begin = parts[part].begin;
      std::vector<float*> slots;
      for (size_t i = 1; i < vectors.size(); ++i) slots.push_back(vectors[i]->data() + begin);
      const Status updated =
          device.update(optimizer.update_at(t, terms[part]), gradient->data() + begin,
                        vectors[0]->data() + begin, slots, parts[part].count, lanes);
      ASSERT_TRUE(updated.ok()) << updated.error().message;
    }
  }
  // With the norms of each part.
  std::vector<StepTerms> terms_of(const Optimizer& optimizer, int64_t t,
                                  const std::vector<float>& gradients) {
    std::vector<std::vector<float>> host;
    for (size_t i = 0; i < vectors.size(); ++i) host.push_back(copy(i));
    ParameterMemory all{gradients.data(), host[0].data(), {}};
    for (size_t i = 1; i < host.size(); ++i) all.slots[i - 1] = host[i].data();
    std::vector<StepTerms> terms(parts.size());
    std::vector<double> squares;
    for (const Part& part : parts) {
      squares.push_back(optimizer.gradient_squares(t, all.from(part.begin), part.count));
    }
    const std::vector<double> scales = optimizer.gradient_scales(squares);
    for (size_t i = 0; i < parts.size(); ++i) {
      terms[i].decays = optimizer.decays(parts[i].name);
      if (optimizer.clips_by_norm()) terms[i].gradient_scale = scales[i];
      if (!optimizer.has_trust()) continue;
      terms[i].trust = optimizer.trust_of(
          optimizer.trust_squares(t, terms[i], all.from(parts[i].begin), parts[i].count));
    }
    return terms;
  }
  std::vector<float> copy(size_t i) { return fetch(device, vectors[i]->data(), count); }
};

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
  State state(*device_, optimizer_, golden_file().at("size"));
  if (golden_.contains("parts")) {
    state.parts.clear();
    for (const auto& part : golden_.at("parts")) {
      const int64_t begin = state.parts.empty() ? 0 : state.parts.back().count;
      state.parts.push_back({part[0], begin, part[1]});
    }
  }
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
  for (size_t i = 1; i < state.vectors.size(); ++i) slots.push_back(state.copy(i));
  for (const auto& slot : slots) pointers.push_back(slot.data());
  const std::vector<float> weights = state.copy(0);
  ASSERT_TRUE(
      naive::NaiveDevice().digest(weights.data(), pointers, state.count, expected.data()).ok());
  EXPECT_EQ(state_digest_of(expected), state_digest_of(lanes));
}

INSTANTIATE_TEST_SUITE_P(all, OptimizerGolden,
                         testing::Combine(testing::ValuesIn(case_names()),
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
