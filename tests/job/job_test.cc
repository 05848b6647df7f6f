#include "host/job/job.h"

#include <gtest/gtest.h>

#include "host/job/options.h"

namespace lockstep {
namespace {

nlohmann::json defaults() {
  nlohmann::json values = default_values(job_options());
  values["model"] = "mlp";
  values["data"] = "digits";
  return values;
}

Job small_job() {
  Job job = job_from_options(defaults()).value();
  job.train_rows = 100;
  job.input_shape = {28, 28, 1};
  job.classes = 10;
  job.data_digest = "d";
  return job;
}

TEST(Job, DefaultPartitionsFollowTheBatchSize) {
  EXPECT_EQ(default_partitions(1), 1);
  EXPECT_EQ(default_partitions(7), 1);
  EXPECT_EQ(default_partitions(8), 2);
  EXPECT_EQ(default_partitions(32), 8);
  EXPECT_EQ(default_partitions(128), 16);
  EXPECT_EQ(default_partitions(100'000), 16);
}

TEST(Job, StepsAndRows) {
  const Job job = small_job();
  EXPECT_EQ(job.steps_per_epoch(), 4);
  EXPECT_EQ(job.rows_of_step(0), 32);
  EXPECT_EQ(job.rows_of_step(3), 4);
  EXPECT_EQ(job.rows_of_step(7), 4);
}

TEST(Job, SurvivesJson) {
  const Job job = small_job();
  const auto read = job_from_json(to_json(job));
  ASSERT_TRUE(read.ok()) << read.error().message;
  EXPECT_EQ(recipe(*read), recipe(job));
  EXPECT_EQ(recipe_sha256(*read), recipe_sha256(job));
}

TEST(Job, GivesUpExactnessOnGpusAlone) {
  nlohmann::json options = defaults();
  options["exact"] = "off";
  const auto on_cpu = job_from_options(options);
  ASSERT_FALSE(on_cpu.ok());
  EXPECT_EQ(on_cpu.error().kind, ErrorKind::usage);
  EXPECT_NE(on_cpu.error().message.find("cpu-avx2 are always exact"), std::string::npos)
      << on_cpu.error().message;
  options["numerics"] = "cuda-fp32";
  const auto job = job_from_options(options);
  ASSERT_TRUE(job.ok()) << job.error().message;
  EXPECT_FALSE(job->exact);
  EXPECT_FALSE(job_from_json(to_json(*job)).value().exact);
  EXPECT_TRUE(job_from_json(to_json(small_job())).value().exact);
  options["exact"] = "of";
  EXPECT_NE(job_from_options(options).error().message.find("did you mean 'off'"),
            std::string::npos);
}

TEST(Job, ClassesOfOthersAreNotTheOnesOfKerasThatTheyAreCalledAs) {
  const auto error = [](const char* option, const nlohmann::json& value) {
    nlohmann::json options = defaults();
    options[option] = value;
    const auto job = job_from_options(options);
    return job.ok() ? "" : job.error().message;
  };
  const nlohmann::json config = {{"learning_rate", 0.5}};
  nlohmann::json sgd = {{"class_name", "SGD"}, {"module", "keras.optimizers"}, {"config", config}};
  EXPECT_EQ(error("optimizer", sgd), "");
  sgd["module"] = "mine.optimizers";
  const std::string never = "', which never runs here: use one of Keras' own";
  EXPECT_EQ(error("optimizer", sgd), "optimizer SGD is code of 'mine.optimizers" + never);
  sgd["module"] = nullptr;
  sgd["registered_name"] = "mine>SGD";
  EXPECT_EQ(error("optimizer", sgd), "optimizer SGD is code of 'mine>SGD" + never);
  sgd["registered_name"] = "SGD";
  sgd["config"]["learning_rate"] = {
      {"class_name", "ExponentialDecay"},
      {"module", "mine"},
      {"config", {{"initial_learning_rate", 0.1}, {"decay_steps", 3}, {"decay_rate", 0.5}}}};
  EXPECT_EQ(error("optimizer", sgd), "schedule ExponentialDecay is code of 'mine" + never);
  const nlohmann::json of_another = {{"module", "mine"}, {"config", nlohmann::json::object()}};
  for (const auto& [option, class_name, what] :
       {std::tuple{"metrics", "AUC", "metric"}, {"callbacks", "TerminateOnNaN", "callback"}}) {
    nlohmann::json object = of_another;
    object["class_name"] = class_name;
    EXPECT_EQ(error(option, nlohmann::json::array({object})),
              std::string(what) + " " + class_name + " is code of 'mine" + never);
  }
}

TEST(Recipe, ChangesWithWhatDecidesBitsAndWithNothingElse) {
  const Job job = small_job();
  Job elsewhere = job;
  elsewhere.data = "/another/place";
  EXPECT_EQ(recipe_sha256(elsewhere), recipe_sha256(job));
  const auto changed = [&](auto change) {
    Job other = job;
    change(other);
    return recipe_sha256(other) != recipe_sha256(job);
  };
  EXPECT_TRUE(changed([](Job& other) { other.seed = 1; }));
  EXPECT_TRUE(changed([](Job& other) { other.epochs = 2; }));
  EXPECT_TRUE(changed([](Job& other) { other.batch_size = 16; }));
  EXPECT_TRUE(changed([](Job& other) { other.partitions = 4; }));
  EXPECT_TRUE(changed([](Job& other) { other.shuffle = false; }));
  EXPECT_TRUE(changed([](Job& other) { other.numerics = "cpu-avx512"; }));
  EXPECT_TRUE(changed([](Job& other) { other.exact = false; }));
  EXPECT_TRUE(changed([](Job& other) { other.data_digest = "e"; }));
  EXPECT_TRUE(changed([](Job& other) { other.optimizer["learning_rate"] = 0.5; }));
  EXPECT_TRUE(changed([](Job& other) { other.initial_weights_sha256 = "w"; }));
}

TEST(Options, NearestNameInMessages) {
  const auto status = check_option_object(job_options(), {{"batchsize", 3}}, "job.json");
  ASSERT_FALSE(status.ok());
  EXPECT_NE(status.error().message.find("'batch_size'"), std::string::npos);
  EXPECT_EQ(status.error().kind, ErrorKind::usage);
}

TEST(Options, TextBecomesTheOptionsType) {
  const OptionSpec number{"learning_rate", OptionType::number, {}, "", ""};
  EXPECT_EQ(parse_option_text(number, "1e-3", "x").value(), 1e-3);
  EXPECT_FALSE(parse_option_text(number, "inf", "x").ok());
  EXPECT_FALSE(parse_option_text(number, "1x", "x").ok());
  const OptionSpec list{"metrics", OptionType::list, {}, "", ""};
  EXPECT_EQ(parse_option_text(list, "a,b", "x").value(), nlohmann::json({"a", "b"}));
}

}  // namespace
}  // namespace lockstep
