// The formulas of the optimizers fit the registers of the GPU's interpreter.
#include <gtest/gtest.h>

#include "cuda/expression_plan.h"
#include "host/optim/optimizer.h"
#include "tests/support/golden_json.h"

namespace lockstep {
namespace {

TEST(OptimizerFormulas, fit_the_gpus_interpreter) {
  int formulas = 0;
  for (const auto& [name, golden] : golden_json("optimizers").at("optimizers").items()) {
    const Optimizer optimizer = Optimizer::create(golden.at("config")).value();
    StepTerms terms;
    terms.whole = optimizer.steps_whole("layer/w", {20});
    const UpdateDesc update = optimizer.update_at(12, terms);
    const auto* formula = std::get_if<ExpressionUpdate>(&update);
    if (formula == nullptr) continue;  // plain Adam and SGD have kernels of their own
    ++formulas;
    const auto plan = plan_expression(*formula->expression);
    ASSERT_TRUE(plan.ok()) << name << ": " << plan.error().message;
    EXPECT_LE(plan->registers, kWideRegisters) << name;
    EXPECT_EQ(plan->outputs.size(), golden.at("slots").size() + 1) << name;
  }
  EXPECT_GT(formulas, 10);
}

}  // namespace
}  // namespace lockstep
