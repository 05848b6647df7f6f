#include "host/optim/optimizer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "host/device/flat_math.h"
#include "host/optim/optimizer_table.h"
#include "tests/nn/naive_device.h"

namespace lockstep {
namespace {

using Json = nlohmann::json;

std::string error_of(const Json& config) {
  const auto optimizer = Optimizer::create(config);
  EXPECT_FALSE(optimizer.ok()) << config;
  return optimizer.ok() ? "" : optimizer.error().message;
}

TEST(Optimizer, fills_in_keras_defaults) {
  const Optimizer adam = Optimizer::create({{"name", "adam"}}).value();
  EXPECT_EQ(adam.config(), Json::parse(R"({"name": "adam", "learning_rate": 0.001, "beta_1": 0.9,
                                           "beta_2": 0.999, "epsilon": 1e-7})"));
  EXPECT_EQ(adam.slots(), (std::vector<OptimizerSlot>{{"momentum"}, {"velocity"}}));
  const Optimizer sgd = Optimizer::create({{"name", "sgd"}}).value();
  EXPECT_EQ(sgd.config(), Json::parse(R"({"name": "sgd", "learning_rate": 0.01, "momentum": 0.0,
                                          "nesterov": false})"));
}

TEST(Optimizer, integers_and_decimals_give_one_recipe) {
  const Optimizer a = Optimizer::create({{"name", "sgd"}, {"learning_rate", 1}}).value();
  const Optimizer b = Optimizer::create({{"name", "sgd"}, {"learning_rate", 1.0}}).value();
  EXPECT_EQ(a.config().dump(), b.config().dump());
}

// https://github.com/keras-team/keras/blob/master/keras/src/optimizers/adam.py, update_step.
TEST(Optimizer, adam_scalars_follow_keras) {
  const Optimizer adam = Optimizer::create({{"name", "adam"}}).value();
  for (const int64_t t : {1, 2, 3, 10, 999, 20000, 10000000}) {
    const AdamUpdate update = std::get<AdamUpdate>(adam.update_at(t));
    const double steps = static_cast<double>(t);
    const double alpha = 0.001 * std::sqrt(1 - std::pow(0.999, steps)) / (1 - std::pow(0.9, steps));
    EXPECT_FLOAT_EQ(update.alpha, static_cast<float>(alpha)) << t;
    EXPECT_EQ(update.one_minus_beta_1, 0.1f);
    EXPECT_EQ(update.one_minus_beta_2, 0.001f);
    EXPECT_EQ(update.epsilon, 1e-7f);
  }
}

// Exact bits, so that another formula or order of operations shows; the numbers are Python's.
TEST(Optimizer, adam_alpha_has_fixed_bits) {
  const Optimizer adam = Optimizer::create({{"name", "adam"}}).value();
  EXPECT_EQ(std::get<AdamUpdate>(adam.update_at(1)).alpha, 0x1.4b96bep-12f);
  EXPECT_EQ(std::get<AdamUpdate>(adam.update_at(7)).alpha, 0x1.4fd172p-13f);
  EXPECT_EQ(std::get<AdamUpdate>(adam.update_at(1000)).alpha, 0x1.a0e6bp-11f);
  EXPECT_EQ(std::get<AdamUpdate>(adam.update_at(1000000)).alpha, 0x1.0624dep-10f);
}

TEST(Optimizer, sgd_has_a_slot_only_with_momentum) {
  const Optimizer plain =
      Optimizer::create({{"name", "sgd"}, {"learning_rate", 0.5}, {"nesterov", true}}).value();
  EXPECT_TRUE(plain.slots().empty());
  const SgdUpdate plain_update = std::get<SgdUpdate>(plain.update_at(1));
  EXPECT_EQ(plain_update.learning_rate, 0.5f);
  EXPECT_FALSE(plain_update.nesterov);
  const Optimizer nesterov =
      Optimizer::create({{"name", "sgd"}, {"momentum", 0.9}, {"nesterov", true}}).value();
  EXPECT_EQ(nesterov.slots(), std::vector<OptimizerSlot>{{"momentum"}});
  const SgdUpdate update = std::get<SgdUpdate>(nesterov.update_at(5));
  EXPECT_EQ(update.learning_rate, 0.01f);
  EXPECT_EQ(update.momentum, 0.9f);
  EXPECT_TRUE(update.nesterov);
}

// The first step's average is the weight itself.
TEST(Optimizer, averages_by_keras_default_momentum) {
  const Optimizer sgd = Optimizer::create({{"name", "sgd"}, {"use_ema", true}}).value();
  const auto kept = [&](int64_t t) {
    const auto update = std::get<ExpressionUpdate>(sgd.update_at(t));
    return update.scalars[static_cast<size_t>(update.scalar_count) - 2];
  };
  EXPECT_EQ(kept(1), 0.0f);
  EXPECT_EQ(kept(2), 0.99f);
}

TEST(Optimizer, refuses_what_it_does_not_know_by_name) {
  EXPECT_EQ(
      error_of({{"name", "adm"}}),
      "unknown optimizer 'adm'; did you mean 'adam'? Known: adam, sgd, adamw, rmsprop, adadelta, "
      "adagrad, adamax, nadam, ftrl, lion, lamb, schedulefreeadamw, adafactor, muon, lars");
  EXPECT_EQ(error_of({{"name", "sgd"}, {"learning_rat", 0.1}}),
            "optimizer 'sgd': unknown key 'learning_rat'; did you mean 'learning_rate'? Known: "
            "clipnorm, clipvalue, ema_momentum, ema_overwrite_frequency, "
            "exclude_from_weight_decay, global_clipnorm, gradient_accumulation_steps, "
            "learning_rate, momentum, nesterov, use_ema, weight_decay");
  EXPECT_EQ(error_of("adam"),
            "an optimizer is written {\"name\": \"adam\", \"learning_rate\": 0.001}, not \"adam\"");
  EXPECT_FALSE(error_of(Json::object()).empty());
}

TEST(Optimizer, a_rate_that_is_given_takes_the_place_of_its_own) {
  const Optimizer sgd = Optimizer::create({{"name", "sgd"}}).value();
  StepTerms terms;
  terms.learning_rate = 0.25;
  EXPECT_EQ(std::get<SgdUpdate>(sgd.update_at(1, terms)).learning_rate, 0.25f);
}

TEST(Optimizer, clips_all_parameters_by_one_norm_or_each_by_its_own) {
  const Optimizer each = Optimizer::create({{"name", "sgd"}, {"clipnorm", 2}}).value();
  const Optimizer all = Optimizer::create({{"name", "sgd"}, {"global_clipnorm", 2}}).value();
  const std::vector<double> squares = {9, 16, 1};
  EXPECT_EQ(each.gradient_scales(squares), (std::vector<double>{2.0 / 3, 0.5, 1}));
  EXPECT_EQ(all.gradient_scales(squares), std::vector<double>(3, 2 / std::sqrt(26.0)));
  for (const double bad : {std::nan(""), HUGE_VAL}) {
    EXPECT_TRUE(std::isnan(each.gradient_scales(std::vector{bad})[0]));
  }
}

// Devices and kernels have room for kMaxSlots vectors.
TEST(Optimizer, keeps_no_more_vectors_than_devices_take) {
  size_t most = 0;
  for (const OptimizerRow& row : optimizer_table()) {
    Json config = {{"name", lower_case(row.keras_class)},
                   {"use_ema", true},
                   {"gradient_accumulation_steps", 2}};
    for (const Hyperparameter& key : row.keys) {
      if (key.kind == HyperparameterKind::boolean) config[key.name] = true;
      if (key.name == "momentum") config[key.name] = 0.5;
    }
    const size_t slots = Optimizer::create(config).value().slots().size();
    EXPECT_LE(slots, kMaxSlots) << row.keras_class;
    most = std::max(most, slots);
  }
  EXPECT_EQ(most, kMaxSlots);
}

// You, Gitman, Ginsburg 2017, algorithm 1, in double.
TEST(Optimizer, lars_follows_its_paper) {
  const Optimizer lars = Optimizer::create({{"name", "lars"},
                                            {"learning_rate", 0.5},
                                            {"momentum", 0.9},
                                            {"weight_decay", 0.01},
                                            {"trust_coefficient", 0.02}})
                             .value();
  const std::vector<float> gradient = {0.6f, 0.8f};
  const std::vector<float> zeros = {0, 0};
  naive::NaiveDevice device;
  const auto trust_of = [&](const std::vector<float>& weights) {
    const SquaresTask task{
        lars.trust_norms_at(1, {}), {gradient.data(), weights.data(), zeros.data()}, 2};
    return lars.trust_of(FlatMath(&device).squares({task}).value()[0]);
  };
  EXPECT_NEAR(trust_of({3, -4}), 0.02 * 5 / (1 + 0.01 * 5), 1e-8);
  EXPECT_EQ(trust_of(zeros), 1);
}

// A unit and an input that were never active: in floats Keras divides 0 by 0 there.
TEST(Optimizer, adafactor_leaves_alone_what_was_never_active) {
  const Optimizer adafactor = Optimizer::create({{"name", "adafactor"}}).value();
  naive::NaiveDevice device;
  FlatMath math(&device);
  std::vector<float> gradient = {0.5f, 0, 0.3f, 0, 0, 0}, weights(6, 1);
  std::vector<std::vector<float>> slots(3, std::vector<float>(6));
  StepTerms terms;
  terms.whole = adafactor.steps_whole("dense/kernel", {3, 2});
  ASSERT_TRUE(adafactor
                  .take_whole_step(math, 1, terms,
                                   {{3, 2},
                                    gradient.data(),
                                    weights.data(),
                                    {slots[0].data(), slots[1].data(), slots[2].data()}})
                  .ok());
  EXPECT_GT(gradient[0], 0);
  EXPECT_GT(gradient[2], 0);
  for (const size_t i : {1, 3, 4, 5}) EXPECT_EQ(gradient[i], 0) << i;
}

TEST(Optimizer, refuses_values_out_of_range) {
  EXPECT_EQ(error_of({{"name", "adam"}, {"learning_rate", 0}}),
            "optimizer 'adam': learning_rate must be a positive number, not 0");
  EXPECT_EQ(error_of({{"name", "adam"}, {"learning_rate", "fast"}}),
            "optimizer 'adam': learning_rate must be a positive number, not \"fast\"");
  EXPECT_EQ(error_of({{"name", "adam"}, {"beta_1", 1.0}}),
            "optimizer 'adam': beta_1 must be at least 0 and below 1, not 1.0");
  EXPECT_EQ(error_of({{"name", "sgd"}, {"momentum", -0.1}}),
            "optimizer 'sgd': momentum must be between 0 and 1, not -0.1");
  EXPECT_EQ(error_of({{"name", "sgd"}, {"nesterov", 1}}),
            "optimizer 'sgd': nesterov must be true or false, not 1");
}

}  // namespace
}  // namespace lockstep
