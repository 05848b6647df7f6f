#include "host/job/run_options.h"

#include <gtest/gtest.h>

#include "host/job/recipe.h"

namespace lockstep {
namespace {

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

TEST(RunOptions, Nodes) {
  EXPECT_EQ(parse_nodes("1").value(), (NodeCounts{1, 1, 1}));
  EXPECT_EQ(parse_nodes("3").value(), (NodeCounts{3, 1, 3}));
  EXPECT_EQ(parse_nodes("2:4").value(), (NodeCounts{2, 2, 4}));
  EXPECT_EQ(parse_nodes("2:2").value(), (NodeCounts{2, 2, 2}));
}

TEST(RunOptions, OneNodeWhereItIsNotExact) {
  EXPECT_TRUE(check_nodes({2, 1, 4}, true).ok());
  EXPECT_TRUE(check_nodes({1, 1, 1}, false).ok());
  const Status many = check_nodes({1, 1, 4}, false);
  ASSERT_FALSE(many.ok());
  EXPECT_TRUE(contains(many.error().message, "use --nodes 1")) << many.error().message;
}

TEST(RunOptions, NodesThatMakeNoSense) {
  for (const char* text : {"", "x", "2:", ":3", "2:3:4", "2-3", "3x", " 3", "1:x"}) {
    const auto nodes = parse_nodes(text);
    ASSERT_FALSE(nodes.ok()) << text;
    EXPECT_EQ(nodes.error().kind, ErrorKind::usage);
    EXPECT_TRUE(contains(nodes.error().message, "MIN:MAX")) << nodes.error().message;
  }
  for (const char* text : {"0", "-1", "0:2", "1:5000", "99999"}) {
    const auto nodes = parse_nodes(text);
    ASSERT_FALSE(nodes.ok()) << text;
    EXPECT_TRUE(contains(nodes.error().message, "between 1 and 1024")) << nodes.error().message;
  }
  EXPECT_TRUE(contains(parse_nodes("4:2").error().message, "MIN must not be above MAX"));
}

TEST(RunOptions, CheckpointEvery) {
  EXPECT_EQ(parse_checkpoint_every("60s").value(), (CheckpointInterval{60'000, 0}));
  EXPECT_EQ(parse_checkpoint_every("90").value(), (CheckpointInterval{90'000, 0}));
  EXPECT_EQ(parse_checkpoint_every("0.25s").value(), (CheckpointInterval{250, 0}));
  EXPECT_EQ(parse_checkpoint_every("500steps").value(), (CheckpointInterval{0, 500}));
  EXPECT_EQ(parse_checkpoint_every("1step").value(), (CheckpointInterval{0, 1}));
  EXPECT_EQ(parse_checkpoint_every("0").value(), (CheckpointInterval{0, 0}));
  for (const char* text : {"", "s", "steps", "-1", "-5s", "1.5steps", "5m", "5 s", "1e99",
                           "0.0001s", "1..5s", "99999999999s", "nan", "inf"}) {
    const auto interval = parse_checkpoint_every(text);
    ASSERT_FALSE(interval.ok()) << text;
    EXPECT_EQ(interval.error().kind, ErrorKind::usage);
    EXPECT_TRUE(contains(interval.error().message, "500steps")) << interval.error().message;
  }
}

TEST(RunOptions, RangesOfNumbers) {
  nlohmann::json values = default_values(run_options());
  ASSERT_TRUE(run_options_from(values).ok());
  EXPECT_EQ(run_options_from(values)->keep_checkpoints, 3);
  EXPECT_EQ(run_options_from(values)->verify_every, 1);
  EXPECT_EQ(run_options_from(values)->lease_ms, 5000);
  values["keep_checkpoints"] = 0;
  EXPECT_TRUE(contains(run_options_from(values).error().message, "--keep-checkpoints 0"));
  values["keep_checkpoints"] = 1;
  values["verify_every"] = -1;
  EXPECT_TRUE(contains(run_options_from(values).error().message, "--verify-every -1"));
}

TEST(Recipe, AllDifferencesAreListed) {
  const nlohmann::json theirs = {{"batch_size", 32}, {"seed", 0}, {"data", "a"}, {"epochs", 2}};
  const nlohmann::json mine = {{"batch_size", 16}, {"seed", 1}, {"epochs", 2}, {"loss", "x"}};
  EXPECT_EQ(there_and_here(recipe_differences(theirs, mine)),
            "batch_size: 32 there, 16 here; loss: nothing there, \"x\" here; seed: 0 there, 1 "
            "here");
  EXPECT_TRUE(recipe_differences(theirs, theirs).empty());
}

TEST(Recipe, ObjectsAreComparedKeyByKey) {
  const nlohmann::json theirs = {{"optimizer", {{"name", "adam"}, {"learning_rate", 0.5}}}};
  const nlohmann::json mine = {{"optimizer", {{"name", "adam"}, {"learning_rate", 0.25}}}};
  EXPECT_EQ(there_and_here(recipe_differences(theirs, mine)),
            "optimizer.learning_rate: 0.5 there, 0.25 here");
}

TEST(Recipe, LongValuesAreHashedAndDiffer) {
  const std::string common(200, 'c');
  const auto differences =
      recipe_differences({{"layers", {1, common + "1"}}}, {{"layers", {1, common + "2"}}});
  ASSERT_EQ(differences.size(), 1u);
  EXPECT_LT(differences[0].theirs.size(), 64u);
  EXPECT_NE(differences[0].theirs, differences[0].mine);
}

TEST(Recipe, StatesDoNotDependOnTheNumberOfEpochs) {
  Job job;
  job.optimizer = {{"name", "adam"}};
  Job longer = job;
  longer.epochs = 7;
  EXPECT_EQ(lineage_sha256(job), lineage_sha256(longer));
  Job other = job;
  other.seed = 1;
  EXPECT_NE(lineage_sha256(job), lineage_sha256(other));
}

}  // namespace
}  // namespace lockstep
