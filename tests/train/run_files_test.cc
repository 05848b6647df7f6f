#include "host/train/run_files.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "host/core/files.h"
#include "host/train/digest_file.h"
#include "host/train/output_folder.h"

namespace lockstep {
namespace {

using Digests = std::vector<uint64_t>;

class RunFilesTest : public testing::Test {
 protected:
  RunFilesTest() : folder_(testing::TempDir() + "lockstep-files-" + std::to_string(::getpid())) {
    std::filesystem::create_directories(folder_);
  }
  ~RunFilesTest() override { std::filesystem::remove_all(folder_); }

  Digests digests() const { return read_digests(path_).value(); }

  static Job small_job() {
    Job job;
    job.model = "mlp";
    job.outputs[0].loss = "sparse_categorical_crossentropy";
    job.batch_size = 8;
    job.train_rows = 40;
    job.partitions = 2;
    return job;
  }
  RunFilesOptions options(bool resumed, int64_t step) const {
    return {path_, folder_ + "/ledger.jsonl", resumed, step};
  }

  const std::string folder_;
  const std::string path_ = folder_ + "/digests.bin";
  PosixFileSystem files_;
};

TEST_F(RunFilesTest, DigestsAreWrittenInOrder) {
  auto file = DigestFile::open(path_, false);
  ASSERT_TRUE(file.ok());
  for (int64_t step = 0; step < 10'000; ++step) {
    ASSERT_TRUE(file->put(step, static_cast<uint64_t>(step) * 3 + 1).ok());
  }
  ASSERT_TRUE(file->flush().ok());
  const Digests all = digests();
  ASSERT_EQ(all.size(), 10'000u);
  for (size_t step = 0; step < all.size(); ++step) ASSERT_EQ(all[step], step * 3 + 1);
  EXPECT_EQ(read_file(path_).value().substr(8, 8), std::string("\4\0\0\0\0\0\0\0", 8));
}

TEST_F(RunFilesTest, DigestsAreRewrittenFromARestoredStep) {
  auto file = DigestFile::open(path_, false);
  ASSERT_TRUE(file.ok());
  for (int64_t step = 0; step < 6; ++step) ASSERT_TRUE(file->put(step, 10).ok());
  ASSERT_TRUE(file->flush().ok());
  for (int64_t step = 6; step < 9; ++step) ASSERT_TRUE(file->put(step, 10).ok());
  ASSERT_TRUE(file->truncate(7).ok());  // within what is in memory
  EXPECT_EQ(digests(), Digests(7, 10));
  ASSERT_TRUE(file->truncate(2).ok());  // within what is written
  EXPECT_EQ(digests(), Digests(2, 10));
  ASSERT_TRUE(file->put(2, 11).ok());
  ASSERT_TRUE(file->flush().ok());
  EXPECT_EQ(digests(), (Digests{10, 10, 11}));
  ASSERT_TRUE(file->truncate(100).ok());
  EXPECT_EQ(digests().size(), 3u);
}

TEST_F(RunFilesTest, WhatNobodyReportedIsZero) {
  auto file = DigestFile::open(path_, false);
  ASSERT_TRUE(file.ok());
  ASSERT_TRUE(file->put(0, 1).ok());
  ASSERT_TRUE(file->put(3, 4).ok());
  ASSERT_TRUE(file->flush().ok());
  EXPECT_EQ(digests(), (Digests{1, 0, 0, 4}));
}

TEST_F(RunFilesTest, OpenedToGoOnItKeepsWhatItHolds) {
  for (const bool keep : {false, true, false}) {
    auto file = DigestFile::open(path_, keep);
    ASSERT_TRUE(file.ok());
    ASSERT_TRUE(file->put(keep ? 1 : 0, 5).ok());
    ASSERT_TRUE(file->flush().ok());
    EXPECT_EQ(digests(), Digests(keep ? 2 : 1, 5));
  }
  EXPECT_FALSE(DigestFile::open(folder_ + "/no/such", false).ok());
}

// A process that dies after a checkpoint, and one that goes on from it.
TEST_F(RunFilesTest, ARunThatIsResumed) {
  const Job job = small_job();
  const auto observe = [&](JobReport& report, RunFiles& run, const CoordinatorAction& action) {
    report.observe(action);
    run.observe(action);
  };
  const auto step_done = [&](JobReport& report, RunFiles& run, int64_t step, uint64_t digest) {
    observe(report, run, StepDone{step, 8, {1, 1, 8}, digest});
    observe(report, run, SamplesConsumed{1, step, {{0, 4, {}}, {1, 4, {}}}});
  };
  {
    JobReport report(job, true);
    auto run = RunFiles::open(files_, options(false, 0), report);
    ASSERT_TRUE(run.ok());
    for (int64_t step = 0; step < 4; ++step) step_done(report, *run, step, 7);
    observe(report, *run, CheckpointDone{3});
    step_done(report, *run, 4, 7);
  }
  EXPECT_EQ(digests(), Digests(4, 7));
  JobReport report(job, true);
  auto run = RunFiles::open(files_, options(true, 3), report);
  ASSERT_TRUE(run.ok()) << run.error().message;
  observe(report, *run, Restored{3, 24, "no node holds the state"});
  for (int64_t step = 3; step < 5; ++step) step_done(report, *run, step, 8);
  run->flush();
  EXPECT_FALSE(run->failure());
  EXPECT_EQ(digests(), (Digests{7, 7, 7, 8, 8}));
  Ledger whole(job);
  for (int64_t step = 0; step < 5; ++step) {
    for (int partition = 0; partition < 2; ++partition) whole.add(step, {partition, 4, {}});
  }
  EXPECT_EQ(report.ledger()->text(), whole.text());
  Ledger written(job);
  ASSERT_TRUE(written.read(files_.read(folder_ + "/ledger.jsonl").value(), "").ok());
  EXPECT_EQ(written.text(), whole.text());
}

class OutputFolderTest : public RunFilesTest {
 protected:
  std::string refusal(const Job& job, bool resume) const {
    const auto opened = OutputFolder::open(folder_, job, resume);
    return opened.ok() ? "" : opened.error().message;
  }
  void write(const std::string& name, const std::string& text) {
    std::filesystem::create_directories(folder_of(folder_ + "/" + name));
    ASSERT_TRUE(write_file_atomically(folder_ + "/" + name, text).ok());
  }
  static bool contains(const std::string& text, const std::string& part) {
    return text.find(part) != std::string::npos;
  }
};

TEST_F(OutputFolderTest, AnotherRecipeIsRefusedWithAllThatDiffers) {
  Job job = small_job();
  ASSERT_EQ(refusal(job, false), "");
  job.seed = 3;
  job.epochs = 4;
  for (const bool resume : {false, true}) {
    const std::string text = refusal(job, resume);
    EXPECT_TRUE(contains(text, "epochs: 1 there, 4 here; seed: 0 there, 3 here")) << text;
    EXPECT_TRUE(contains(text, "--output")) << text;
  }
}

TEST_F(OutputFolderTest, EpochsMayBeRaisedAndNotLowered) {
  Job job = small_job();
  job.epochs = 2;
  ASSERT_EQ(refusal(job, false), "");
  job.epochs = 3;
  EXPECT_TRUE(contains(refusal(job, false), "--resume"));
  EXPECT_EQ(refusal(job, true), "");
  EXPECT_EQ(read_job(folder_)->epochs, 3);
  job.epochs = 2;
  EXPECT_TRUE(contains(refusal(job, true), "epochs: 3 there, 2 here"));
}

TEST_F(OutputFolderTest, ARunThatHasNotCompletedNeedsResume) {
  const Job job = small_job();
  ASSERT_EQ(refusal(job, false), "");
  write("checkpoints/log", "x");
  EXPECT_TRUE(contains(refusal(job, false), "--resume"));
  EXPECT_EQ(refusal(job, true), "");
}

TEST_F(OutputFolderTest, ACompletedRunGoesOnOnlyToMoreEpochs) {
  Job job = small_job();
  ASSERT_EQ(refusal(job, false), "");
  write("weights.safetensors", "x");
  write("report.json",
        nlohmann::json{{"status", "completed"}, {"recipe_sha256", recipe_sha256(job)}}.dump());
  EXPECT_TRUE(contains(refusal(job, false), "completed run"));
  EXPECT_TRUE(contains(refusal(job, true), "completed run"));
  job.epochs = 2;
  EXPECT_EQ(refusal(job, true), "");
  // The longer run was killed: the weights that are there are still the shorter one's.
  EXPECT_EQ(refusal(job, true), "");
  EXPECT_TRUE(contains(refusal(job, false), "completed run"));
}

}  // namespace
}  // namespace lockstep
