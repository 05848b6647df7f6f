#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "host/train/resolve.h"

namespace lockstep {
namespace {

using Json = nlohmann::json;

Json options_of(const Json& compile) {
  ModelFile file;
  file.config = {{"class_name", "Sequential"}, {"config", {{"layers", Json::array()}}}};
  file.compile = compile;
  std::vector<std::string> notes;
  return options_of_compile(file, &notes);
}

TEST(CompiledOptions, KerasOwnFunctionsGoByTheirNames) {
  const Json function = {{"class_name", "function"}, {"config", "mean_absolute_error"}};
  const Json options = options_of({{"loss", function}, {"metrics", {function, "accuracy"}}});
  EXPECT_EQ(options["loss"], "mean_absolute_error");
  EXPECT_EQ(options["metrics"], Json({"mean_absolute_error", "accuracy"}));
}

TEST(CompiledOptions, AClassNameThatIsNoTextIsNoMetric) {
  const Json odd = {{"class_name", 7}, {"config", Json::object()}};
  EXPECT_EQ(options_of({{"loss", odd}, {"metrics", {odd}}})["metrics"], Json::array());
}

}  // namespace
}  // namespace lockstep
