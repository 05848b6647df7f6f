// What of the data options is part of the recipe, and what they do to loaders.
#include "host/job/data_job.h"

#include <gtest/gtest.h>

#include "host/job/options.h"

namespace lockstep {
namespace {

nlohmann::json some_options() {
  nlohmann::json options = default_values(job_options());
  options["model"] = "mlp";
  options["data"] = "x.csv";
  return options;
}

Job job_with(const nlohmann::json& changes) {
  nlohmann::json options = some_options();
  options.update(changes);
  auto job = job_from_options(options);
  EXPECT_TRUE(job.ok()) << job.error().message;
  return job.ok() ? *job : Job{};
}

std::string message_of(const nlohmann::json& changes) {
  nlohmann::json options = some_options();
  options.update(changes);
  const auto job = job_from_options(options);
  return job.ok() ? "no error" : job.error().message;
}

TEST(DataJob, OptionsByDefaultAreNoPartOfTheRecipe) {
  const nlohmann::json json = recipe(job_with(nlohmann::json::object()));
  for (const char* key : {"target", "missing", "class_weight", "validation_steps"}) {
    EXPECT_FALSE(json.contains(key)) << key;
  }
  EXPECT_EQ(DataOptions{}, data_options(job_with(nlohmann::json::object())));
}

TEST(DataJob, OptionsThatChangeNumbersArePartOfTheRecipe) {
  const std::string plain = recipe_sha256(job_with(nlohmann::json::object()));
  const std::vector<nlohmann::json> changes = {
      {{"target", {"a", "b"}}},  {{"target", {"b", "a"}}},
      {{"missing", 0}},          {{"missing", -1.5}},
      {{"validation_steps", 3}}, {{"class_weight", {{"0", 1}, {"12", 3.5}}}}};
  std::vector<std::string> hashes = {plain};
  for (const nlohmann::json& change : changes) {
    const Job job = job_with(change);
    hashes.push_back(recipe_sha256(job));
    EXPECT_EQ(change, data_options_json(job));
    const auto again = job_from_json(to_json(job));
    ASSERT_TRUE(again.ok()) << again.error().message;
    EXPECT_EQ(hashes.back(), recipe_sha256(*again));
    EXPECT_EQ(data_options(job), data_options(*again));
  }
  std::sort(hashes.begin(), hashes.end());
  EXPECT_EQ(hashes.end(), std::unique(hashes.begin(), hashes.end()));
}

TEST(DataJob, ClassWeightsAreRead) {
  const Job job = job_with({{"class_weight", {{"0", 1}, {"12", 3.5}}}});
  EXPECT_EQ((std::map<int64_t, double>{{0, 1.0}, {12, 3.5}}), job.class_weight);
  for (const char* bad : {R"({"x": 1})", R"({"-1": 1})", R"({"1": -1})", R"({"1": "2"})",
                          R"({"1": 1e300})", R"({"99999999999": 1})", R"("1")"}) {
    EXPECT_EQ(0u, message_of({{"class_weight", nlohmann::json::parse(bad)}}).find("--class-weight"))
        << bad;
  }
}

TEST(DataJob, TargetsAreNames) {
  EXPECT_EQ("--target: [1] are no names; give names of columns or arrays, with commas",
            message_of({{"target", {1}}}));
}

TEST(DataJob, ObjectsAreReadFromText) {
  const OptionSpec option{"class_weight", OptionType::object, nullptr, "", ""};
  const auto object = parse_option_text(option, R"({"0": 1, "1": 3.5})", "--class-weight");
  ASSERT_TRUE(object.ok());
  EXPECT_EQ((nlohmann::json{{"0", 1}, {"1", 3.5}}), *object);
  EXPECT_EQ("adam", *parse_option_text(option, "adam", "--optimizer"));
  EXPECT_FALSE(parse_option_text(option, "{", "--class-weight").ok());
}

TEST(DataJob, Loaders) {
  Job job = job_with({{"class_weight", {{"1", 3.5}}}, {"seed", 7}});
  const LoaderOptions training = training_loader(job, {2, 30});
  EXPECT_EQ(28, training.rows.size());
  EXPECT_EQ(job.partitions, training.partitions);
  EXPECT_EQ(7u, training.seed);
  EXPECT_TRUE(training.shuffle);
  EXPECT_FALSE(training.targets);  // the loss reads classes
  EXPECT_EQ(3.5f, training.class_weights.at(1));
  const LoaderOptions measuring = measuring_loader(job, {2, 30});
  EXPECT_FALSE(measuring.shuffle);
  EXPECT_TRUE(measuring.class_weights.empty());
  job.outputs[0].loss = "mean_squared_error";
  EXPECT_TRUE(training_loader(job, {2, 30}).targets);
}

TEST(DataJob, LossesAreResolvedIntoTheRecipe) {
  const Job plain = job_with(nlohmann::json::object());
  EXPECT_EQ("sparse_categorical_crossentropy", recipe(plain).at("loss"));
  EXPECT_FALSE(recipe(plain).contains("target_shape"));
  EXPECT_FALSE(recipe(plain).contains("weighted"));
  const Job alias = job_with({{"loss", "mse"}});
  EXPECT_EQ(recipe_sha256(alias), recipe_sha256(job_with({{"loss", "mean_squared_error"}})));
  EXPECT_EQ("MeanSquaredError", recipe(alias).at("loss").at("class_name"));
  Job huber = job_with({{"loss", {{"class_name", "Huber"}, {"config", {{"delta", 0.5}}}}}});
  huber.outputs[0].target_shape = {3};
  huber.weighted = true;
  EXPECT_EQ(0.5, recipe(huber).at("loss").at("config").at("delta"));
  const auto again = job_from_json(to_json(huber));
  ASSERT_TRUE(again.ok()) << again.error().message;
  EXPECT_EQ(recipe_sha256(huber), recipe_sha256(*again));
  EXPECT_EQ(huber.outputs[0].target_shape, again->outputs[0].target_shape);
  EXPECT_EQ(1u, training_loader(huber, {0, 4}).weights.size());
  EXPECT_TRUE(measuring_loader(huber, {0, 4}).targets);
}

TEST(DataJob, LossesThatAreNotThereAreRefused) {
  EXPECT_EQ(0u, message_of({{"loss", "dice"}}).find("loss 'dice' cannot be used: it is a ratio"));
  EXPECT_EQ("loss 'Huber': unknown key 'dleta'; did you mean 'delta'? Known: delta",
            message_of({{"loss", {{"class_name", "Huber"}, {"config", {{"dleta", 1}}}}}}));
  const auto reduced = [](const nlohmann::json& reduction) {
    return nlohmann::json{
        {"loss", {{"class_name", "Huber"}, {"config", {{"reduction", reduction}}}}}};
  };
  EXPECT_EQ(
      "loss 'Huber': reduction \"none\" leaves a value for each row, and training needs one for "
      "all: use 'sum_over_batch_size'",
      message_of(reduced("none")));
  EXPECT_EQ("sum", job_with(reduced("sum")).outputs[0].loss.at("config").at("reduction"));
  EXPECT_EQ(recipe_sha256(job_with(reduced("mean"))),
            recipe_sha256(job_with(reduced("sum_over_batch_size"))));
  EXPECT_EQ(0u, message_of({{"loss", "huver"}}).find("unknown loss 'huver'; did you mean 'huber'"));
}

TEST(DataJob, ValidationSteps) {
  const Job all = job_with({{"batch_size", 8}});
  EXPECT_EQ(90, validated_rows(all, {10, 100}).size());
  const Job some = job_with({{"batch_size", 8}, {"validation_steps", 3}});
  EXPECT_EQ(10, validated_rows(some, {10, 100}).begin);
  EXPECT_EQ(34, validated_rows(some, {10, 100}).end);
  EXPECT_EQ(20, validated_rows(some, {0, 20}).size());
}

}  // namespace
}  // namespace lockstep
