#include "host/train/report.h"

#include <gtest/gtest.h>

#include "host/core/partitions.h"

namespace lockstep {
namespace {

// 2 epochs of 3 steps: 8, 8 and 4 rows, in 2 partitions.
Job small_job() {
  Job job;
  job.model = "mlp";
  job.outputs[0].metrics = {"accuracy"};
  job.epochs = 2;
  job.batch_size = 8;
  job.train_rows = 20;
  job.partitions = 2;
  job.seed = 5;
  return job;
}

PartitionSamples part_of(const Job& job, int64_t step, int partition) {
  const auto samples = samples_of(job, step, partition);
  return {partition, static_cast<int>(samples.size()), samples};
}

View view_of(int number, int64_t first_step, const std::vector<SessionId>& sessions) {
  View view;
  view.number = number;
  view.first_step = first_step;
  for (const SessionId session : sessions) {
    view.members.push_back({session, "node-" + std::to_string(session), "", {}, {}, -1});
  }
  return view;
}

EpochRecord epoch_done(int64_t epoch, double loss) {
  return {{epoch, {20 * loss, 10, 20}, {8 * loss, 2, 8}, 0}, {}};
}

// Observes the steps [begin, end), all partitions told by `session`.
void run_steps(JobReport& report, const Job& job, int64_t begin, int64_t end, SessionId session) {
  for (int64_t step = begin; step < end; ++step) {
    report.observe(StepDone{step, job.rows_of_step(step), {1, 1, 8}, 1});
    report.observe(SamplesConsumed{session, step, {part_of(job, step, 0), part_of(job, step, 1)}});
  }
}

std::string whole_ledger(const Job& job) {
  Ledger ledger(job);
  for (int64_t step = 0; step < job.total_steps(); ++step) {
    for (int partition = 0; partition < job.partitions; ++partition) {
      ledger.add(step, part_of(job, step, partition));
    }
  }
  return ledger.text();
}

TEST(JobReport, SaysWhetherTheJobIsExact) {
  Job job = small_job();
  EXPECT_EQ(JobReport(job, false).json().at("exact"), true);
  job.exact = false;
  EXPECT_EQ(JobReport(job, false).json().at("exact"), false);
}

TEST(JobReport, ADeathIsARecovery) {
  const Job job = small_job();
  JobReport report(job, true);
  for (const SessionId session : {1, 2}) {
    report.observe(
        NodeJoined{{session, "node-" + std::to_string(session), "", {}, {}, -1}, "cpu", 1});
  }
  report.observe(ViewMade{view_of(1, 0, {1, 2})});
  report.observe(StepDone{0, 8, {1, 1, 8}, 1});
  report.observe(SamplesConsumed{1, 0, {part_of(job, 0, 0)}});
  report.observe(NodeLeft{2, 1, "it gave no sign of life"});
  report.observe(ViewMade{view_of(2, 1, {1})});
  report.observe(SamplesConsumed{0, 0, {{1, 4, {}}}});  // nobody lived to tell
  run_steps(report, job, 1, 6, 1);
  report.observe(Recovered{2, "node-2", "it gave no sign of life", 1, 0.25, 1});
  report.observe(epoch_done(0, 0.5));
  report.observe(epoch_done(1, 0.25));
  report.finish("completed", "all epochs done", "abc", 2);
  const auto json = report.json();
  EXPECT_EQ(json.at("steps"), 6);
  EXPECT_EQ(json.at("samples_consumed"), 40);
  EXPECT_EQ(json.at("samples_assigned"), 40);
  EXPECT_EQ(json.at("recoveries"), nlohmann::json::array({{{"node", "node-2"},
                                                           {"session", 2},
                                                           {"why", "it gave no sign of life"},
                                                           {"step", 1},
                                                           {"seconds", 0.25},
                                                           {"partition_steps_again", 1}}}));
  EXPECT_EQ(json.at("nodes")[0].at("partition_steps"), 11);
  EXPECT_EQ(json.at("nodes")[0].at("steps"), 6);
  EXPECT_TRUE(json.at("nodes")[0].at("left_step").is_null());
  EXPECT_EQ(json.at("nodes")[1].at("left"), "it gave no sign of life");
  EXPECT_EQ(json.at("nodes")[1].at("left_step"), 1);
  EXPECT_EQ(json.at("nodes")[1].at("steps"), 1);
  EXPECT_EQ(json.at("exact"), true);
  EXPECT_EQ(report.ledger()->text(), whole_ledger(job));
}

TEST(JobReport, ARestoreTakesBackWhatCameAfter) {
  const Job job = small_job();
  JobReport report(job, true);
  report.observe(ViewMade{view_of(1, 0, {1})});
  run_steps(report, job, 0, 5, 1);
  report.observe(epoch_done(0, 0.5));
  report.observe(CheckpointDone{2});
  report.observe(Restored{2, 16, "no node holds the state"});
  EXPECT_EQ(report.steps(), 2);
  EXPECT_EQ(report.samples_consumed(), 16);
  EXPECT_TRUE(report.history().empty());
  run_steps(report, job, 2, 6, 1);
  report.observe(epoch_done(0, 0.5));
  report.observe(epoch_done(1, 0.25));
  report.observe(CheckpointDone{6});
  const auto json = report.json();
  EXPECT_EQ(json.at("steps"), 6);
  EXPECT_EQ(json.at("epochs"), 2);
  EXPECT_EQ(json.at("samples_consumed"), 40);
  EXPECT_EQ(json.at("history").at("val_loss"), nlohmann::json({0.5, 0.25}));
  EXPECT_EQ(json.at("checkpoints"), nlohmann::json({{"count", 2}, {"last_step", 6}}));
  EXPECT_EQ(json.at("restores")[0].at("step"), 2);
  EXPECT_EQ(report.ledger()->text(), whole_ledger(job));
}

TEST(JobReport, ARestoreAtTheEndOfAnEpochKeepsIt) {
  const Job job = small_job();
  JobReport report(job, false);
  run_steps(report, job, 0, 5, 1);
  report.observe(epoch_done(0, 0.5));
  report.observe(Restored{3, 20, "x"});
  EXPECT_EQ(report.history().at("loss"), std::vector<double>{0.5});
}

TEST(JobReport, SaysWhatWasDecided) {
  Job job = small_job();
  job.initial_epoch = 4;
  job.epochs = 9;
  JobReport report(job, false);
  run_steps(report, job, 0, 6, 1);
  EpochRecord first = epoch_done(0, 0.5);
  first.done.validation.clear();
  report.observe(first);
  EpochRecord second = epoch_done(1, 0.75);
  second.decision = {true, {}, {0, 1}, 0, {"Epoch 6: early stopping"}};
  report.observe(second);
  report.finish("completed", "", "", 1);
  const auto json = report.json();
  EXPECT_EQ(json.at("stop_reason"), "Epoch 6: early stopping");
  EXPECT_EQ(json.at("best_epoch"), 5);
  EXPECT_EQ(json.at("kept_epochs"), nlohmann::json({5, 6}));
  EXPECT_EQ(json.at("samples_assigned"), json.at("samples_consumed"));
  EXPECT_EQ(json.at("history").at("val_loss"), nlohmann::json({0.75}));
  EXPECT_EQ(history_csv(report.epoch_logs(), ";"),
            "epoch;accuracy;loss;val_accuracy;val_loss\n4;0.5;0.5;NA;NA\n5;0.5;0.75;0.25;0.75\n");
}

TEST(JobReport, GoesOnFromALog) {
  const Job job = small_job();
  RecoveredJob recovered;
  recovered.view = view_of(1, 0, {1});
  recovered.epochs = {epoch_done(0, 0.5)};
  CheckpointRecord checkpoint;
  checkpoint.state.step = 3;
  checkpoint.samples_consumed = 20;
  recovered.checkpoints.push_back(checkpoint);
  JobReport report(job, false);
  report.resume(recovered);
  EXPECT_EQ(report.steps(), 3);
  EXPECT_EQ(report.samples_consumed(), 20);
  // The nodes had gone on while the coordinator was away.
  View view = view_of(2, 5, {1});
  report.observe(ViewMade{view});
  report.observe(SamplesConsumed{0, 3, {{0, 4, {}}, {1, 4, {}}}});
  report.observe(SamplesConsumed{0, 4, {{0, 4, {}}, {1, 4, {}}}});
  EXPECT_EQ(report.steps(), 5);
  run_steps(report, job, 5, 6, 1);
  report.observe(epoch_done(1, 0.25));
  report.finish("completed", "", "", 1);
  const auto json = report.json();
  EXPECT_EQ(json.at("samples_consumed"), 40);
  EXPECT_EQ(json.at("history").at("loss"), nlohmann::json({0.5, 0.25}));
  EXPECT_EQ(json.at("nodes")[0].at("name"), "node-1");
  EXPECT_EQ(json.at("nodes")[0].at("joined_step"), 5);
  EXPECT_EQ(json.at("samples_per_second"), 20);
}

TEST(Ledger, WhatNobodyToldFollowsFromTheRecipe) {
  const Job job = small_job();
  Ledger told(job);
  Ledger untold(job);
  for (int64_t step = 0; step < job.total_steps(); ++step) {
    for (int partition = 0; partition < 2; ++partition) {
      const auto part = part_of(job, step, partition);
      told.add(step, part);
      untold.add(step, {part.partition, part.rows, {}});
    }
  }
  EXPECT_EQ(told.text(), untold.text());
}

TEST(Ledger, NewsBringItBack) {
  const Job job = small_job();
  Ledger ledger(job);
  ledger.add(0, part_of(job, 0, 0));
  ledger.add(3, part_of(job, 3, 0));
  std::string file = ledger.take_news();
  EXPECT_EQ(ledger.take_news(), "");
  ledger.restore(1);
  ledger.add(0, part_of(job, 0, 1));
  file += ledger.take_news();
  Ledger again(job);
  ASSERT_TRUE(again.read(file + "{\"step\": 9", "f").ok());
  EXPECT_EQ(again.text(), ledger.text());
  EXPECT_FALSE(again.read("{\"step\": 9\n", "f").ok());
}

TEST(Ledger, GoesOnFromACheckpoint) {
  const Job job = small_job();
  Ledger whole(job);
  for (int64_t step = 0; step < 4; ++step) {
    for (int partition = 0; partition < 2; ++partition) {
      whole.add(step, part_of(job, step, partition));
    }
  }
  Ledger ledger(job);
  ledger.add(0, part_of(job, 0, 1));
  ledger.add(5, part_of(job, 5, 1));  // beyond the checkpoint
  ledger.go_on_from(4);
  EXPECT_EQ(ledger.text(), whole.text());
}

}  // namespace
}  // namespace lockstep
