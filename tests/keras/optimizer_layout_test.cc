// The order of an optimizer's variables in Keras' files, as Keras 3.15 writes them.
#include "host/keras/optimizer_layout.h"

#include <gtest/gtest.h>

namespace lockstep {
namespace {

// "average a" for the slot of each variable, of the parameters a and b.
std::string order_of(const char* config, bool before_3_10 = false) {
  std::vector<Parameter> parameters(2);
  parameters[0].name = "a";
  parameters[1].name = "b";
  const auto optimizer = Optimizer::create(nlohmann::json::parse(config)).value();
  const OptimizerLayout layout(optimizer, {parameters.data(), &parameters[1]}, before_3_10);
  std::string order;
  for (const auto& [slot, parameter, shape] : layout.slots()) {
    order += optimizer.slots()[slot].name + " " + parameter->name + ", ";
  }
  return order;
}

TEST(OptimizerLayoutTest, OwnSlotsOfAParameterLieSideBySide) {
  EXPECT_EQ(order_of(R"({"name": "adam"})"), "momentum a, velocity a, momentum b, velocity b, ");
  EXPECT_EQ(order_of(R"({"name": "rmsprop", "momentum": 0.9})"),
            "velocity a, velocity b, momentum a, momentum b, ");
  EXPECT_EQ(order_of(R"({"name": "adam", "amsgrad": true})"),
            "momentum a, velocity a, momentum b, velocity b, velocity_hat a, velocity_hat b, ");
}

TEST(OptimizerLayoutTest, WhatAllOptimizersKeepComesBefore) {
  EXPECT_EQ(order_of(R"({"name": "adam", "use_ema": true})"),
            "average a, average b, momentum a, velocity a, momentum b, velocity b, ");
  EXPECT_EQ(order_of(R"({"name": "adam", "gradient_accumulation_steps": 2})"),
            "gradient_accumulator a, gradient_accumulator b, "
            "momentum a, velocity a, momentum b, velocity b, ");
  EXPECT_EQ(order_of(R"({"name": "sgd", "momentum": 0.9, "use_ema": true,
                         "gradient_accumulation_steps": 2})"),
            "average a, average b, gradient_accumulator a, gradient_accumulator b, "
            "momentum a, momentum b, ");
}

TEST(OptimizerLayoutTest, BeforeKeras310WhatAllKeepLaySideBySide) {
  EXPECT_EQ(order_of(R"({"name": "sgd", "momentum": 0.9, "use_ema": true,
                         "gradient_accumulation_steps": 2})",
                     true),
            "average a, gradient_accumulator a, average b, gradient_accumulator b, "
            "momentum a, momentum b, ");
  EXPECT_EQ(order_of(R"({"name": "adam", "use_ema": true})", true),
            order_of(R"({"name": "adam", "use_ema": true})"));
}

// "r (3,), …": of a kernel (3, 2) and a bias (2,).
std::string shapes_of(const char* config) {
  std::vector<Parameter> parameters(2);
  parameters[0] = {.layer = "dense", .name = "kernel", .shape = {3, 2}};
  parameters[1] = {.layer = "dense", .name = "bias", .shape = {2}};
  const auto optimizer = Optimizer::create(nlohmann::json::parse(config)).value();
  const OptimizerLayout layout(optimizer, {parameters.data(), &parameters[1]}, false);
  std::string shapes;
  for (const auto& [slot, parameter, shape] : layout.slots()) {
    shapes += optimizer.slots()[slot].name + " " + to_string(shape) + ", ";
  }
  return shapes;
}

TEST(OptimizerLayoutTest, SlotsMayBeSmallerOrMissing) {
  EXPECT_EQ(shapes_of(R"({"name": "adafactor"})"),
            "r (3,), c (2,), velocity (3, 2), r (), c (), velocity (2,), ");
  EXPECT_EQ(shapes_of(R"({"name": "muon", "use_ema": true})"),
            "average (3, 2), average (2,), momentum (3, 2), momentum (2,), velocity (2,), ");
  EXPECT_EQ(shapes_of(R"({"name": "muon", "exclude_layers": ["den"]})"),
            "momentum (3, 2), velocity (3, 2), momentum (2,), velocity (2,), ");
}

}  // namespace
}  // namespace lockstep
