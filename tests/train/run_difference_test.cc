#include "host/train/run_difference.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>

#include "host/checkpoint/lineage.h"
#include "host/core/files.h"
#include "host/runtime/state_file.h"
#include "host/train/digest_file.h"
#include "host/train/output_folder.h"

namespace lockstep {
namespace {

// Two layers: "first" of 2 weights and a bias, "second" of 3.
std::vector<Parameter> small_parameters() {
  return {{"first", "kernel", {2}, 0}, {"first", "bias", {1}, 2}, {"second", "kernel", {3}, 3}};
}

std::string bytes_of(const std::vector<float>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)};
}

class RunDifferenceTest : public testing::Test {
 protected:
  RunDifferenceTest()
      : folder_(testing::TempDir() + "lockstep-diff-" + std::to_string(::getpid())) {
    for (const std::string& run : {left_, right_}) {
      std::filesystem::create_directories(run);
      EXPECT_TRUE(write_job(run, small_job()).ok());
    }
  }
  ~RunDifferenceTest() override { std::filesystem::remove_all(folder_); }

  static Job small_job() {
    Job job;
    job.model = "mlp";
    job.outputs[0].loss = "sparse_categorical_crossentropy";
    job.outputs[0].metrics = {"accuracy"};
    job.optimizer = {{"name", "sgd"}};
    return job;
  }

  static void write_digests(const std::string& run, const std::vector<uint64_t>& digests) {
    auto file = DigestFile::open(OutputFolder::digests_path(run), false);
    ASSERT_TRUE(file.ok());
    for (size_t step = 0; step < digests.size(); ++step) {
      ASSERT_TRUE(file->put(static_cast<int64_t>(step), digests[step]).ok());
    }
    ASSERT_TRUE(file->flush().ok());
  }

  // The object of the state.
  std::string commit(const std::string& run, int64_t step, const std::vector<float>& weights,
                     float slot = 0) {
    const auto store = ObjectStore::open(files_, OutputFolder::state_path(run) + "/objects");
    StateHeader header;
    header.step = step;
    header.parameters = 6;
    header.vectors = 2;
    header.sums = {0.5, 3};
    Checkpoint checkpoint;
    checkpoint.recipe_sha256 = lineage_sha256(small_job());
    checkpoint.step = step;
    checkpoint.state = store
                           ->put(encode_state_header(header) + bytes_of(weights) +
                                 bytes_of(std::vector<float>(6, slot)))
                           .value();
    checkpoint.state_bytes = static_cast<uint64_t>(state_bytes(6, 2, 2));
    checkpoint.state_digest = "00";
    EXPECT_TRUE(Lineage(*store, {}).commit(checkpoint).ok());
    return store->path(checkpoint.state);
  }

  Result<RunDifference> compare() {
    return compare_runs(files_, left_, right_, [](const Job&) -> Result<std::vector<Parameter>> {
      return small_parameters();
    });
  }

  const std::string folder_;
  const std::string left_ = folder_ + "/left";
  const std::string right_ = folder_ + "/right";
  PosixFileSystem files_;
};

TEST_F(RunDifferenceTest, TheSameBits) {
  write_digests(left_, {1, 2, 3});
  write_digests(right_, {1, 0, 3});  // one is not known
  const auto difference = compare();
  ASSERT_TRUE(difference.ok()) << difference.error().message;
  EXPECT_TRUE(difference->same());
  EXPECT_TRUE(difference->recipe.empty());
  EXPECT_EQ(difference->compared_steps, 2);
}

TEST_F(RunDifferenceTest, AShorterRunIsNotTheSame) {
  write_digests(left_, {1, 2, 3});
  write_digests(right_, {1, 2});
  const auto difference = compare();
  ASSERT_TRUE(difference.ok());
  EXPECT_FALSE(difference->same());
  EXPECT_FALSE(difference->step);
  EXPECT_EQ(difference->right_steps, 2);
}

TEST_F(RunDifferenceTest, StepLayerAndRecipe) {
  Job other = small_job();
  other.seed = 1;
  ASSERT_TRUE(write_job(right_, other).ok());
  write_digests(left_, {1, 2, 3, 4});
  write_digests(right_, {1, 2, 9, 9});
  commit(left_, 2, {0, 0, 0, 0, 0, 0});
  commit(right_, 2, {0, 0, 0, 0, 0, 0});
  commit(left_, 3, {0, 0, 0, 0, 0, 0});  // the right run has none of this step
  commit(left_, 4, {1, 2, 3, 4, 5, 6});
  commit(right_, 4, {1, 2, 3.5, 4, 6, 4});
  const auto difference = compare();
  ASSERT_TRUE(difference.ok()) << difference.error().message;
  ASSERT_EQ(difference->recipe.size(), 1u);
  EXPECT_EQ(difference->recipe[0].key, "seed");
  EXPECT_EQ(difference->step, 2);
  EXPECT_EQ(difference->common_before, 2);
  EXPECT_EQ(difference->common_after, 4);
  ASSERT_TRUE(difference->layer);
  EXPECT_EQ(difference->layer->layer, "first");
  EXPECT_EQ(difference->layer->weights, 1);
  EXPECT_EQ(difference->layer->largest, 0.5);
  EXPECT_EQ(difference->layer->largest_layer, "second");
  EXPECT_EQ(difference->layer->largest_of_all, 2);
}

TEST_F(RunDifferenceTest, OnlyTheOptimizerDiffers) {
  write_digests(left_, {1, 2});
  write_digests(right_, {1, 3});
  commit(left_, 2, {1, 2, 3, 4, 5, 6}, 1);
  commit(right_, 2, {1, 2, 3, 4, 5, 6}, 2);
  const auto difference = compare();
  ASSERT_TRUE(difference.ok());
  EXPECT_FALSE(difference->layer);
  EXPECT_TRUE(difference->optimizer_only);
}

TEST_F(RunDifferenceTest, DamagedStatesAreLeftOut) {
  write_digests(left_, {1, 2});
  write_digests(right_, {1, 3});
  const std::string object = commit(left_, 2, {1, 2, 3, 4, 5, 6});
  commit(right_, 2, {1, 2, 3, 4, 5, 7});
  std::string bytes = read_file(object).value();
  bytes[70] ^= 1;
  ASSERT_TRUE(write_file_atomically(object, bytes).ok());
  const auto difference = compare();
  ASSERT_TRUE(difference.ok());
  EXPECT_EQ(difference->step, 1);
  EXPECT_FALSE(difference->common_after);
}

TEST_F(RunDifferenceTest, NothingToCompare) {
  EXPECT_FALSE(compare().ok());
  write_digests(left_, {0, 0});
  write_digests(right_, {1, 2});
  EXPECT_FALSE(compare().ok());
}

TEST(CompareWeights, SignsOfZeroAreBits) {
  const std::vector<float> left = {0, 0, 0, 0, 0, 0};
  std::vector<float> right = left;
  EXPECT_FALSE(compare_weights(small_parameters(), bytes_of(left), bytes_of(right)));
  right[4] = -0.0f;
  const auto difference = compare_weights(small_parameters(), bytes_of(left), bytes_of(right));
  ASSERT_TRUE(difference);
  EXPECT_EQ(difference->layer, "second");
  EXPECT_EQ(difference->largest, 0);
}

}  // namespace
}  // namespace lockstep
