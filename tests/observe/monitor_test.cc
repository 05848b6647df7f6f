// What operators see, from what happens.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "host/observe/job_monitor.h"
#include "host/observe/log_format.h"
#include "host/observe/prometheus.h"
#include "host/observe/status_table.h"

namespace lockstep {
namespace {

using testing::HasSubstr;
using testing::Not;

// Two steps an epoch, and a metric sum for loss and one for rows.
Job monitored_job() {
  Job job;
  job.model = "mlp";
  job.data = "digits:16";
  job.batch_size = 8;
  job.train_rows = 16;
  job.partitions = 4;
  job.epochs = 3;
  return job;
}

View monitored_view(std::vector<SessionId> working, std::vector<SessionId> spare) {
  View view;
  view.number = 1;
  for (const SessionId each : working) view.members.push_back({each, "n", "", {0, 2}, {}, -1});
  for (const SessionId each : spare) view.members.push_back({each, "n", "", {0, 0}, {}, -1});
  return view;
}

StepDone step_of(int64_t step) {
  StepDone done;
  done.step = step;
  done.rows = 8;
  done.sums.assign(static_cast<size_t>(MetricTable(monitored_job()).size()), 8.0);
  return done;
}

TEST(JobMonitor, RatesComeFromTheLastSteps) {
  JobMonitor monitor(monitored_job());
  EXPECT_TRUE(monitor.json(0).at("step_seconds").is_null());
  monitor.observe(step_of(0), 10.0);
  monitor.observe(step_of(1), 10.5);
  monitor.observe(step_of(2), 11.0);
  const auto json = monitor.json(11.0);
  EXPECT_DOUBLE_EQ(json.at("step_seconds"), 0.5);
  EXPECT_DOUBLE_EQ(json.at("samples_per_second"), 16.0);
  EXPECT_EQ(json.at("samples"), 24);
  EXPECT_EQ(json.at("epoch"), 1);
  EXPECT_TRUE(json.at("metrics").at("loss").is_number());
}

TEST(JobMonitor, EpochsCountFromTheInitialOne) {
  Job job = monitored_job();
  job.initial_epoch = 1;
  JobMonitor monitor(job);
  monitor.observe(step_of(0), 10.0);
  monitor.observe(step_of(1), 10.5);
  EXPECT_EQ(monitor.json(11.0).at("epoch"), 2);
  nlohmann::json status = monitor.json(11.0);
  status.update({{"phase", "training"}, {"step", 2}, {"term", 1}, {"view", 1}});
  EXPECT_THAT(status_table(status), HasSubstr("training: epoch 3 of 3, step 2 of 4"));
}

TEST(JobMonitor, NodesByState) {
  JobMonitor monitor(monitored_job());
  monitor.observe(NodeJoined{{1, "a", "", {}, {}, -1}, "cpu", 1}, 0);
  EXPECT_EQ(monitor.json(0).at("nodes").at("joining"), 1);
  monitor.observe(ViewMade{monitored_view({1, 2}, {3})}, 0);
  monitor.observe(NodeJoined{{4, "d", "", {}, {}, -1}, "cpu", 1}, 0);
  EXPECT_EQ(monitor.json(0).at("nodes"),
            nlohmann::json({{"working", 2}, {"spare", 1}, {"joining", 1}, {"lost", 0}}));
  monitor.observe(NodeLeft{2, 5, "it gave no sign of life"}, 0);
  monitor.observe(NodeLeft{3, 5, "left"}, 0);
  EXPECT_EQ(monitor.json(0).at("nodes").at("lost"), 1);
  monitor.observe(Recovered{2, "b", "it gave no sign of life", 5, 0.25, 2}, 0);
  const auto json = monitor.json(0);
  EXPECT_EQ(json.at("recoveries"), 1);
  EXPECT_EQ(json.at("last_recoveries")[0].at("node"), "b");
}

TEST(JobMonitor, ARestoreTakesTheStepBack) {
  JobMonitor monitor(monitored_job());
  for (int step = 0; step < 4; ++step) monitor.observe(step_of(step), step);
  monitor.observe(CheckpointDone{2}, 10.0);
  monitor.observe(Restored{2, 16, "why"}, 11.0);
  const auto json = monitor.json(12.0);
  EXPECT_EQ(json.at("epoch"), 1);
  EXPECT_EQ(json.at("restores"), 1);
  EXPECT_TRUE(json.at("step_seconds").is_null());
  EXPECT_DOUBLE_EQ(json.at("checkpoint_age_seconds"), 2.0);
}

TEST(Prometheus, LabelsAreEscapedAndHolesLeftOut) {
  PrometheusText text;
  text.family("a_b", "gauge", "help");
  text.sample(1.5, {{"x", "a \"b\" \\ c"}});
  text.single("left_out", "gauge", "help", nullptr);
  EXPECT_EQ(text.text(), "# HELP a_b help\n# TYPE a_b gauge\na_b{x=\"a \\\"b\\\" \\\\ c\"} 1.5\n");
  EXPECT_THAT(coordinator_metrics({{"phase", "preparing"}}),
              HasSubstr("lockstep_phase{phase=\"preparing\"} 1\n"));
}

TEST(Prometheus, MemoryOfEachGpu) {
  const nlohmann::json gpus = {{{"index", 0}, {"used", 3}, {"total", 8}},
                               {{"index", 1}, {"used", 4}, {"total", 8}}};
  const std::string text = node_metrics({{"node", "n"}, {"gpus", gpus}});
  EXPECT_THAT(text, HasSubstr("lockstep_gpu_memory_used_bytes{gpu=\"1\"} 4\n"));
  EXPECT_THAT(text, HasSubstr("lockstep_gpu_memory_total_bytes{gpu=\"0\"} 8\n"));
  EXPECT_THAT(node_metrics({{"node", "n"}}), Not(HasSubstr("gpu")));
}

TEST(StatusTable, SaysWhoDoesWhat) {
  JobMonitor monitor(monitored_job());
  monitor.observe(step_of(0), 1.0);
  monitor.observe(step_of(1), 1.5);
  monitor.observe(Recovered{2, "lost one", "it gave no sign of life", 1, 0.25, 2}, 2.0);
  nlohmann::json status = monitor.json(2.0);
  status.update({{"phase", "training"}, {"term", 1}, {"view", 2}, {"step", 2}, {"checkpoint", 0}});
  status["members"] = {
      {{"session", 1}, {"name", "a\x1b[2J"}, {"address", "h:1"}, {"partitions", {0, 4}}},
      {{"session", 3}, {"name", "b"}, {"address", "h:2"}, {"partitions", {4, 4}}}};
  const std::string table = status_table(status);
  for (const char* part : {"mlp on digits:16", "training: epoch 2 of 3, step 2 of 6",
                           "loss: ", "16 samples/s", "0..3", "spare", "lost one", "a?[2J"}) {
    EXPECT_THAT(table, HasSubstr(part));
  }
  EXPECT_THAT(table, Not(HasSubstr("\x1b")));
  EXPECT_THAT(status_table({{"phase", "preparing"}}), HasSubstr("preparing"));
}

TEST(StatusTable, ShowsBatches) {
  nlohmann::json status = {{"task", "predict"}, {"batches", 40}, {"batches_done", 12}};
  status["members"] = {{{"session", 1}, {"name", "a"}, {"address", "h"}, {"batches", {16, 20}}},
                       {{"session", 2}, {"name", "b"}, {"address", "h"}, {"batches", {0, 0}}}};
  const std::string table = status_table(status);
  for (const char* part : {"predict: 12 of 40 batches", "16..19", "spare"}) {
    EXPECT_THAT(table, HasSubstr(part));
  }
}

TEST(LogFormat, OneObjectALine) {
  const std::chrono::system_clock::time_point now{std::chrono::milliseconds(1'700'000'000'042)};
  EXPECT_EQ(json_log_line({"0123", "n\"0\"", 1, 2, 3}, "said\nso", now),
            "{\"time\":\"2023-11-14T22:13:20.042Z\",\"job\":\"0123\",\"node\":\"n\\\"0\\\"\","
            "\"term\":1,\"view\":2,\"step\":3,\"message\":\"said\\nso\"}\n");
}

}  // namespace
}  // namespace lockstep
