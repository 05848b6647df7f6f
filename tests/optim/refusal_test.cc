// What optimizers and schedules refuse, and what keeps the recipes of old jobs as they were.
#include <gtest/gtest.h>

#include "host/optim/optimizer.h"

namespace lockstep {
namespace {

using Json = nlohmann::json;

std::string error_of(const char* config) {
  const auto optimizer = Optimizer::create(Json::parse(config));
  EXPECT_FALSE(optimizer.ok()) << config;
  return optimizer.ok() ? "" : optimizer.error().message;
}

Json config_of(const char* config) {
  return Optimizer::create(Json::parse(config)).value().config();
}

TEST(OptimizerRecipe, switched_off_options_change_nothing) {
  const char* const serialized = R"({"module": "keras.optimizers", "class_name": "Adam",
      "config": {"name": "adam_3", "learning_rate": 0.001, "weight_decay": null, "clipnorm": null,
                 "global_clipnorm": null, "clipvalue": null, "use_ema": false, "ema_momentum": 0.99,
                 "ema_overwrite_frequency": null, "loss_scale_factor": null,
                 "gradient_accumulation_steps": null, "beta_1": 0.9, "beta_2": 0.999,
                 "epsilon": 1e-07, "amsgrad": false},
      "registered_name": null})";
  EXPECT_EQ(config_of(R"({"name": "adam"})").dump(), config_of(serialized).dump());
  EXPECT_EQ(config_of(R"({"name": "sgd"})").dump(),
            R"({"learning_rate":0.01,"momentum":0.0,"name":"sgd","nesterov":false})");
  EXPECT_EQ(config_of(R"({"name": "SGD", "weight_decay": 1})")["weight_decay"], 1.0);
}

TEST(OptimizerRecipe, keys_of_keras_2_change_nothing) {
  const char* const old = R"({"class_name": "Adam", "config": {"name": "Adam", "decay": 0.0,
      "weight_decay": null, "jit_compile": false, "is_legacy_optimizer": false}})";
  EXPECT_EQ(config_of(R"({"name": "adam"})").dump(), config_of(old).dump());
  EXPECT_NE(error_of(R"({"name": "adam", "decay": 0.1})"), "");
}

TEST(OptimizerRefusals, what_comes_later_is_named) {
  EXPECT_EQ(error_of(R"({"name": "LossScaleOptimizer"})"),
            "optimizer 'lossscaleoptimizer' comes later; use adam or adamw");
  EXPECT_EQ(error_of(R"({"name": "adam", "loss_scale_factor": 2})"),
            "optimizer 'adam': loss_scale_factor comes later; leave it out");
}

TEST(OptimizerRefusals, what_does_not_go_together_is_named) {
  EXPECT_EQ(error_of(R"({"name": "adam", "clipnorm": 1, "clipvalue": 2})"),
            "optimizer 'adam': clipnorm and clipvalue exclude each other: give one");
  EXPECT_EQ(error_of(R"({"name": "adam", "gradient_accumulation_steps": 1})"),
            "optimizer 'adam': gradient_accumulation_steps must be a whole number of at least 2, "
            "or null, not 1");
  EXPECT_EQ(error_of(R"({"name": "adamw", "exclude_from_weight_decay": "bias"})"),
            "optimizer 'adamw': exclude_from_weight_decay must be a list of names, not \"bias\"");
}

TEST(OptimizerRefusals, patterns_that_python_reads_otherwise_are_named) {
  EXPECT_EQ(error_of(R"({"name": "muon", "exclude_layers": ["head\\d"]})"),
            "optimizer 'muon': exclude_layers: 'head\\d' has an escape or an extension, which are "
            "not known here: give parts of the layers' names");
  EXPECT_EQ(error_of(R"({"name": "muon", "exclude_layers": ["head", "("]})"),
            "optimizer 'muon': exclude_layers: '(' is no pattern: give parts of the layers' names");
}

TEST(ScheduleRefusals, say_what_is_wrong) {
  EXPECT_NE(error_of(R"({"name": "sgd", "learning_rate": {"class_name": "CosinDecay",
                         "config": {}}})")
                .find("did you mean 'CosineDecay'?"),
            std::string::npos);
  EXPECT_EQ(error_of(R"({"name": "sgd", "learning_rate": {"class_name": "CosineDecay",
                         "config": {"initial_learning_rate": 0.1}}})"),
            "schedule 'CosineDecay': decay_steps is missing");
  EXPECT_NE(error_of(R"({"name": "sgd", "learning_rate": {"class_name": "CosineDecay",
                         "config": {"initial_learning_rate": 0.1, "decay_step": 3}}})")
                .find("did you mean 'decay_steps'?"),
            std::string::npos);
  EXPECT_EQ(error_of(R"({"name": "sgd", "learning_rate": {"class_name": "PiecewiseConstantDecay",
                         "config": {"boundaries": [3, 2], "values": [1, 2, 3]}}})"),
            "schedule 'PiecewiseConstantDecay': boundaries must rise");
}

}  // namespace
}  // namespace lockstep
