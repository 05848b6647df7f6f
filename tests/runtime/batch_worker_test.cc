#include "host/runtime/batch_worker.h"

#include <gtest/gtest.h>

#include "host/cpu/cpu_device.h"
#include "host/job/options.h"
#include "host/nn/model_config.h"
#include "models/models.h"
#include "tests/nn/naive_device.h"

namespace lockstep {
namespace {

// 70 rows: nine batches of eight, the last of which has six.
class BatchWorkerTest : public testing::Test {
 protected:
  void SetUp() override {
    nlohmann::json options = default_values(job_options());
    options["model"] = "mlp";
    options["data"] = "digits:420";
    options["batch_size"] = 8;
    job_ = job_from_options(options).value();
    data_ = load_dataset(job_.data, Split::test).value();
    ASSERT_EQ(data_.rows(), 70);
    job_.input_shape = data_.row_shape;
    job_.classes = data_.classes;
    const auto model = build_model(job_.model, job_.input_shape, job_.classes).value();
    job_.model_config = model->config();
    task_.model_config = job_.model_config;
    task_.batch_size = job_.batch_size;
    task_.data = job_.data;
    task_.numerics = "cpu-avx2";
    weights_ = initial_weights(model->predict_graph().value(), 7);
  }

  std::unique_ptr<BatchWorker> make(int devices, bool separates) {
    const auto model = model_from_config(task_.model_config).value();
    return make_batch_worker(task_, *model, data_, weights_, devices,
                             [separates](int) -> Result<std::unique_ptr<Device>> {
                               if (!separates) return make_cpu_device("cpu-avx2");
                               return std::unique_ptr<Device>(new naive::NaiveDevice(true));
                             })
        .value();
  }
  // Of all batches, so many at a time.
  std::string results(int devices, int64_t at_a_time, bool separates = false) {
    const auto worker = make(devices, separates);
    std::string bytes;
    for (int64_t batch = 0; batch < 9; batch += at_a_time) {
      const BatchRange range{batch, std::min<int64_t>(batch + at_a_time, 9)};
      const auto before = std::ssize(bytes);
      const Status computed = worker->compute(range, [&](int array, std::string_view part) {
        EXPECT_EQ(array, 0);
        bytes += part;
        return Status{};
      });
      EXPECT_TRUE(computed.ok());
      const ByteRange expected = worker->arrays()[0].bytes_of(range);
      EXPECT_EQ(std::ssize(bytes) - before, expected.end - expected.begin);
    }
    EXPECT_EQ(std::ssize(bytes), worker->arrays()[0].bytes);
    return bytes;
  }

  Job job_;
  Dataset data_;
  BatchTask task_;
  std::vector<float> weights_;
};

TEST_F(BatchWorkerTest, PredictionsDoNotDependOnDevicesOrPieces) {
  const std::string expected = results(1, 9);
  EXPECT_EQ(expected.size(), 70u * 10 * sizeof(float));
  EXPECT_EQ(results(3, 1), expected);
  EXPECT_EQ(results(2, 4), expected);
}

TEST_F(BatchWorkerTest, DevicesThatSeparatePartitionsTakeWholeBatches) {
  const std::string expected = results(1, 9, true);
  EXPECT_EQ(results(3, 9, true), expected);
  EXPECT_EQ(results(3, 4, true), expected);
  EXPECT_EQ(results(2, 1, true), expected);
}

TEST_F(BatchWorkerTest, SumsDoNotDependOnDevicesOrPieces) {
  task_.measured = job_;
  const std::string expected = results(1, 9);
  EXPECT_EQ(results(3, 1), expected);
  EXPECT_EQ(results(2, 4), expected);
}

TEST_F(BatchWorkerTest, AnErrorOfTheTakerEndsIt) {
  const auto worker = make(1, false);
  int calls = 0;
  const Status ended = worker->compute({0, 9}, [&](int, std::string_view) -> Status {
    if (++calls == 3) return Error{"enough"};
    return {};
  });
  EXPECT_EQ(ended.error().message, "enough");
  EXPECT_EQ(calls, 3);
}

TEST_F(BatchWorkerTest, OtherWeightsAreRefused) {
  const auto model = model_from_config(task_.model_config).value();
  weights_.pop_back();
  const auto made = make_batch_worker(task_, *model, data_, weights_, 1,
                                      [](int) { return make_cpu_device("cpu-avx2"); });
  EXPECT_FALSE(made.ok());
}

TEST_F(BatchWorkerTest, TasksGoThereAndBack) {
  task_.data_options = {{"a", "b"}, {"t"}, -1.5, false};
  task_.data_digest = "digest";
  task_.weights_sha256 = "hash";
  for (const bool measures : {false, true}) {
    if (measures) task_.measured = job_;
    const nlohmann::json json = to_json(task_);
    EXPECT_TRUE(is_batch_task(json));
    const auto read = batch_task_from_json(json);
    ASSERT_TRUE(read.ok()) << read.error().message;
    EXPECT_EQ(to_json(*read), json);
    EXPECT_EQ(read->data_options, task_.data_options);
    EXPECT_EQ(read->measured.has_value(), measures);
  }
  EXPECT_FALSE(is_batch_task(to_json(job_)));
  nlohmann::json bad = to_json(task_);
  bad["batch_size"] = 0;
  EXPECT_FALSE(batch_task_from_json(bad).ok());
  bad.erase("batch_size");
  EXPECT_FALSE(batch_task_from_json(bad).ok());
}

}  // namespace
}  // namespace lockstep
