#include "host/job/metric_table.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "host/graph/graph.h"

namespace lockstep {
namespace {

using testing::Each;
using testing::ElementsAre;
using testing::IsNan;
using testing::Pair;

MetricTable table_of(const std::vector<std::string>& metrics) {
  Job job;
  job.outputs[0].loss = "sparse_categorical_crossentropy";
  job.outputs[0].metrics.assign(metrics.begin(), metrics.end());
  return MetricTable(job);
}

TEST(MetricTable, TheLossThenTheMetricsAsTheJobListsThem) {
  EXPECT_THAT(table_of({}).names(), ElementsAre("loss"));
  EXPECT_THAT(table_of({"accuracy"}).names(), ElementsAre("loss", "accuracy"));
  EXPECT_THAT(table_of({"accuracy", "accuracy"}).names(), ElementsAre("loss", "accuracy"));
}

TEST(MetricTable, ValuesAreMeansOverRows) {
  const MetricTable table = table_of({"accuracy"});
  EXPECT_EQ(table.measured(), Graph().metric_count);
  EXPECT_EQ(table.size(), 3);
  const float measured[] = {0.5f, 3};
  MetricSums sums = table.sums(measured, 4);
  EXPECT_THAT(sums, ElementsAre(0.5, 3, 4));
  EXPECT_THAT(table.values(sums), ElementsAre(0.125, 0.75));
  EXPECT_THAT(table_of({}).values(sums), ElementsAre(0.125));
  add_sums({1.5, 1, 4}, &sums);
  EXPECT_EQ(table.text(sums), "loss: 0.2500 - accuracy: 0.5000");
  EXPECT_EQ(table.text(sums, "val_"), "val_loss: 0.2500 - val_accuracy: 0.5000");
}

TEST(MetricTable, MetricsHaveAccumulatorsOfTheirOwn) {
  Job job;
  job.outputs[0].loss = "mean_squared_error";
  job.outputs[0].metrics = {"root_mean_squared_error", "precision", "mae"};
  const MetricTable table(job);
  EXPECT_EQ(table.measured(), 5);
  EXPECT_THAT(table.names(), ElementsAre("loss", "root_mean_squared_error", "precision", "mae"));
  EXPECT_THAT(table.values(MetricSums{8, 16, 3, 1, 2, 4}), ElementsAre(2, 2, 0.75, 0.5));
  EXPECT_EQ(table.values(MetricSums{8, 16, 0, 0, 2, 4})[2], 0);  // nothing was found
}

TEST(MetricTable, WhatIsNoSumHasNoValue) {
  const MetricTable table = table_of({"accuracy"});
  EXPECT_THAT(table.values(MetricSums{0, 0, 0}), Each(IsNan()));
  EXPECT_THAT(table.values(MetricSums{}), Each(IsNan()));
  EXPECT_THAT(table.values(MetricSums{1, 2, 3, 4}), Each(IsNan()));
}

TEST(MetricTable, AppendsToAHistory) {
  const MetricTable table = table_of({"accuracy"});
  std::map<std::string, std::vector<double>> history;
  table.append(MetricSums{1, 1, 2}, "", &history);
  table.append(MetricSums{1, 2, 4}, "", &history);
  table.append(MetricSums{3, 0, 1}, "val_", &history);
  EXPECT_THAT(
      history,
      ElementsAre(Pair("accuracy", ElementsAre(0.5, 0.5)), Pair("loss", ElementsAre(0.5, 0.25)),
                  Pair("val_accuracy", ElementsAre(0)), Pair("val_loss", ElementsAre(3))));
}

}  // namespace
}  // namespace lockstep
