// A job with a general loss and metrics: the same bits for any number of devices, with weights.
#include <gtest/gtest.h>

#include "host/cpu/cpu_device.h"
#include "host/data/batch_loader.h"
#include "host/job/data_job.h"
#include "host/job/metric_table.h"
#include "host/job/options.h"
#include "host/runtime/replica.h"
#include "models/models.h"

namespace lockstep {
namespace {

Job regression_job(const Dataset& data, bool weighted) {
  nlohmann::json options = default_values(job_options());
  options["model"] = "of the test";
  options["data"] = "digits:64";
  options["loss"] = {{"class_name", "Huber"}, {"config", {{"delta", 0.5}}}};
  options["metrics"] = {"root_mean_squared_error", "mae"};
  if (weighted) options["class_weight"] = {{"1", 3.5}};
  Job job = job_from_options(options).value();
  job.input_shape = data.row_shape;
  job.classes = data.classes;
  job.train_rows = data.rows();
  job.weighted = weighted;
  return job;
}

// The digit as a number.
Model regression_model(const Shape& shape) {
  Model model("regression", shape);
  model.add("Flatten").add("Dense", {{"units", 16}, {"activation", "relu"}});
  model.add("Dense", {{"units", 1}});
  return model;
}

struct Outcome {
  uint64_t digest = 0;
  MetricSums sums;
};

Outcome train(const Job& job, const Dataset& data, int devices) {
  const Model model = regression_model(job.input_shape);
  const auto replica =
      Replica::create(job, model, devices, [](int) { return make_cpu_device("cpu-avx2"); }).value();
  const auto ranges = replica->device_ranges({0, job.partitions});
  BatchLoader loader(data, training_loader(job, {0, data.rows()}));
  for (int64_t step = 0; step < job.steps_per_epoch(); ++step) {
    const auto batches = loader.take({0, step, ranges});
    const auto roots = replica->take_roots(step, ranges, true);
    EXPECT_TRUE(roots.ok());
    EXPECT_TRUE(replica->compute(step, ranges, batches, [](int64_t, int64_t) {}).ok());
    EXPECT_TRUE(replica->update(nullptr, *roots, true).ok());
  }
  BatchLoader measuring(data, measuring_loader(job, {0, data.rows()}));
  std::vector<ValidationPart> parts;
  EXPECT_TRUE(
      replica
          ->measure(0, measuring.rows_of_batch(0), ranges, measuring.take({0, 0, ranges}), &parts)
          .ok());
  EXPECT_FALSE(parts.empty());
  EXPECT_TRUE(replica->canary(data, {0, data.rows()}).ok());
  return {replica->state().digest, replica->state().sums};
}

TEST(Regression, IsTheSameForAnyNumberOfDevices) {
  const Dataset data = load_dataset("digits:64", Split::train).value();
  for (const bool weighted : {false, true}) {
    const Job job = regression_job(data, weighted);
    const Outcome alone = train(job, data, 1);
    const Outcome two = train(job, data, 2);
    EXPECT_EQ(alone.digest, two.digest);
    EXPECT_EQ(alone.sums, two.sums);
    const std::vector<double> values = MetricTable(job).values(alone.sums);
    ASSERT_EQ(values.size(), 3u);
    for (const double value : values) EXPECT_GT(value, 0);
  }
}

}  // namespace
}  // namespace lockstep
