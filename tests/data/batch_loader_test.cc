// Batches against a direct computation, for any cut and with or without prefetching.
#include "host/data/batch_loader.h"

#include <gtest/gtest.h>

#include <chrono>
#include <thread>

#include "host/data/sample_order.h"

namespace lockstep {
namespace {

constexpr int64_t kFeatures = 6;

// Row r has the pixels 6r, 6r + 1, ... modulo 256 and the label r modulo 10.
Dataset numbered_rows(int64_t rows) {
  Images dataset;
  dataset.name = "numbered";
  dataset.row_shape = {2, 3, 1};
  dataset.classes = 10;
  for (int64_t i = 0; i < rows * kFeatures; ++i) dataset.pixels.push_back(static_cast<uint8_t>(i));
  for (int64_t r = 0; r < rows; ++r) dataset.labels.push_back(static_cast<uint8_t>(r % 10));
  return make_dataset(std::move(dataset));
}

// What row `index` of a device's batch must be.
void expect_row(const HostBatch& batch, size_t index, int64_t position, int64_t sample,
                int64_t data_row) {
  EXPECT_EQ(static_cast<uint32_t>(position), batch.positions[index]);
  EXPECT_EQ(sample, batch.samples[index]);
  EXPECT_EQ(data_row % 10, batch.labels[index]);
  for (int64_t f = 0; f < kFeatures; ++f) {
    const float expected = static_cast<float>((data_row * kFeatures + f) % 256) / 255.0f;
    EXPECT_EQ(expected, batch.inputs[index * kFeatures + static_cast<size_t>(f)]);
  }
}

void expect_batches(const std::vector<HostBatch>& batches, const LoaderOptions& options,
                    const BatchRequest& request) {
  const int64_t rows = options.rows.size();
  const SampleOrder order(rows, options.seed, request.epoch, options.shuffle);
  const int64_t first = request.batch * options.batch_size;
  const int64_t batch_rows = std::min(options.batch_size, rows - first);
  ASSERT_EQ(request.devices.size(), batches.size());
  for (size_t device = 0; device < batches.size(); ++device) {
    const HostBatch& batch = batches[device];
    const PartitionRange range = request.devices[device];
    const int64_t begin = range.begin * batch_rows / options.partitions;
    const int64_t end = range.end * batch_rows / options.partitions;
    ASSERT_EQ(end - begin, batch.rows);
    EXPECT_EQ(kFeatures, batch.features);
    ASSERT_EQ(static_cast<size_t>(batch.rows * kFeatures), batch.inputs.size());
    ASSERT_EQ(static_cast<size_t>(batch.rows), batch.labels.size());
    ASSERT_EQ(static_cast<size_t>(batch.rows), batch.positions.size());
    ASSERT_EQ(static_cast<size_t>(batch.rows), batch.samples.size());
    for (int64_t i = 0; i < batch.rows; ++i) {
      const int64_t position = first + begin + i;
      const int64_t sample = order.row_at(position);
      expect_row(batch, static_cast<size_t>(i), position, sample, options.rows.begin + sample);
    }
  }
}

TEST(BatchLoader, CountsBatchesAndRows) {
  const Dataset dataset = numbered_rows(103);
  const BatchLoader loader(dataset, {{0, 103}, 25, 4, 1, true});
  EXPECT_EQ(5, loader.batches_per_epoch());
  EXPECT_EQ(25, loader.rows_of_batch(0));
  EXPECT_EQ(25, loader.rows_of_batch(3));
  EXPECT_EQ(3, loader.rows_of_batch(4));
  const BatchLoader whole(dataset, {{3, 103}, 25, 4, 1, true});
  EXPECT_EQ(4, whole.batches_per_epoch());
  EXPECT_EQ(25, whole.rows_of_batch(3));
  const BatchLoader larger(dataset, {{0, 103}, 1000, 4, 1, true});
  EXPECT_EQ(1, larger.batches_per_epoch());
  EXPECT_EQ(103, larger.rows_of_batch(0));
}

TEST(BatchLoader, EqualsDirectComputation) {
  const Dataset dataset = numbered_rows(103);
  const std::vector<std::vector<PartitionRange>> cuts = {
      {{0, 8}}, {{0, 4}, {4, 8}}, {{0, 3}, {3, 5}, {5, 6}, {6, 8}}, {{5, 6}}, {{2, 2}, {7, 8}}};
  for (const bool shuffle : {true, false}) {
    for (const RowRange rows : {RowRange{0, 103}, RowRange{17, 90}}) {
      const LoaderOptions options{rows, 25, 8, 5, shuffle};
      BatchLoader loader(dataset, options);
      for (int64_t epoch = 0; epoch < 3; ++epoch) {
        for (int64_t batch = 0; batch < loader.batches_per_epoch(); ++batch) {
          for (const auto& devices : cuts) {
            const BatchRequest request{epoch, batch, devices};
            expect_batches(loader.take(request), options, request);
          }
        }
      }
    }
  }
}

// The last batch has three rows for eight partitions.
TEST(BatchLoader, PartitionsWithoutRowsAreEmpty) {
  const Dataset dataset = numbered_rows(103);
  BatchLoader loader(dataset, {{0, 103}, 25, 8, 5, true});
  const auto batches = loader.take({0, 4, {{0, 1}, {1, 2}, {2, 3}, {3, 8}}});
  EXPECT_EQ(0, batches[0].rows);
  EXPECT_EQ(0, batches[1].rows);
  EXPECT_EQ(1, batches[2].rows);
  EXPECT_EQ(2, batches[3].rows);
  EXPECT_EQ(kFeatures, batches[0].features);
  EXPECT_TRUE(batches[0].inputs.empty());
}

TEST(BatchLoader, EveryRowOnceAnEpoch) {
  for (const int64_t rows : {1, 2, 31, 32, 33, 97, 1000}) {
    const Dataset dataset = numbered_rows(rows);
    BatchLoader loader(dataset, {{0, rows}, 32, 4, 11, true});
    std::vector<int> seen(static_cast<size_t>(rows), 0);
    int64_t position = 0;
    for (int64_t batch = 0; batch < loader.batches_per_epoch(); ++batch) {
      for (const HostBatch& part : loader.take({2, batch, {{0, 1}, {1, 3}, {3, 4}}})) {
        for (const int64_t sample : part.samples) ++seen[static_cast<size_t>(sample)];
        for (const uint32_t actual : part.positions) EXPECT_EQ(position++, actual);
      }
    }
    EXPECT_EQ(std::vector<int>(static_cast<size_t>(rows), 1), seen) << rows << " rows";
  }
}

TEST(BatchLoader, PrefetchedEqualsDirect) {
  const Dataset dataset = numbered_rows(500);
  const LoaderOptions options{{10, 500}, 32, 8, 3, true};
  BatchLoader loader(dataset, options);
  const std::vector<PartitionRange> devices = {{0, 4}, {4, 8}};
  for (int64_t epoch = 0; epoch < 3; ++epoch) {
    for (int64_t batch = 0; batch < loader.batches_per_epoch(); ++batch) {
      const BatchRequest request{epoch, batch, devices};
      expect_batches(loader.take(request), options, request);
      const bool last = batch + 1 == loader.batches_per_epoch();
      loader.prefetch({last ? epoch + 1 : epoch, last ? 0 : batch + 1, devices});
    }
  }
}

TEST(BatchLoader, AnotherRequestThanThePrefetchedOne) {
  const Dataset dataset = numbered_rows(500);
  const LoaderOptions options{{0, 500}, 32, 8, 3, true};
  BatchLoader loader(dataset, options);
  const BatchRequest first{0, 1, {{0, 8}}};
  const BatchRequest other_cut{0, 1, {{0, 4}}};
  const BatchRequest other_batch{0, 2, {{0, 8}}};
  for (int round = 0; round < 20; ++round) {
    loader.prefetch(first);
    expect_batches(loader.take(other_cut), options, other_cut);
    expect_batches(loader.take(first), options, first);
    expect_batches(loader.take(first), options, first);
    loader.prefetch(first);
    loader.prefetch(first);
    loader.prefetch(other_batch);
    expect_batches(loader.take(first), options, first);
    expect_batches(loader.take(other_batch), options, other_batch);
  }
}

TEST(BatchLoader, TakesFromManyThreads) {
  const Dataset dataset = numbered_rows(500);
  const LoaderOptions options{{0, 500}, 32, 8, 3, true};
  BatchLoader loader(dataset, options);
  std::vector<std::thread> threads;
  for (int64_t thread = 0; thread < 3; ++thread) {
    threads.emplace_back([&, thread] {
      for (int64_t round = 0; round < 50; ++round) {
        const BatchRequest request{0, (round + thread) % loader.batches_per_epoch(), {{0, 8}}};
        loader.prefetch(request);
        expect_batches(loader.take(request), options, request);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

// A request that takes long is given up, not finished.
TEST(BatchLoader, StopsAtOnce) {
  const Dataset dataset = numbered_rows(1 << 20);
  const auto begin = std::chrono::steady_clock::now();
  for (int round = 0; round < 20; ++round) {
    BatchLoader loader(dataset, {{0, 1 << 20}, 1 << 20, 1, 3, true});
    loader.prefetch({0, 0, {{0, 1}}});
  }
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
  EXPECT_LT(seconds.count(), 10.0);
}

}  // namespace
}  // namespace lockstep
