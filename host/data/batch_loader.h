// Makes the rows of a step ready before they are asked for.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "host/core/partitions.h"
#include "host/data/dataset.h"
#include "host/device/batch.h"
#include "host/device/device.h"

namespace lockstep {

class SampleOrder;

// Partition ranges of one global batch, one range a device.
struct BatchRequest {
  int64_t epoch = 0;
  int64_t batch = 0;  // in the epoch
  std::vector<PartitionRange> devices;
  bool operator==(const BatchRequest&) const = default;
};

// Of a batch of inputs: for each mask how many entries count in each row.
using MaskCounts = std::vector<std::vector<float>>;

struct LoaderOptions {
  RowRange rows;  // of the data set
  int64_t batch_size = 0;
  int partitions = 1;
  uint64_t seed = 0;
  bool shuffle = true;
  bool targets = false;  // fills HostBatch::targets; classes are in its labels without it
  // HostBatch::weights. Without them rows that have weights have one column, the others none.
  std::vector<WeightColumn> weights;
  // Where a column reads masks; from any thread.
  std::function<MaskCounts(const HostBatch& batch)> count_masks;
  // By class; a class that is not here has the weight 1. Multiplied with the data set's weights.
  // The class of a row with several targets is that of the greatest, as Keras has it.
  std::map<int64_t, float> class_weights;
  // Who gets the batches of a request, in that order: rows lie in memory of the device's choice,
  // and it may fetch them as soon as they are there. Empty: nobody in particular.
  std::vector<Device*> devices;
};

// Owns one thread. `dataset` outlives it, and the devices it and its batches. Values become float32
// here, row by row. Samples are numbered within options.rows, from 0. Requests may come from any
// thread; a batch that is not of the epoch, or rows that are not of the data set, are broken
// invariants.
class BatchLoader {
 public:
  BatchLoader(const Dataset& dataset, LoaderOptions options);
  ~BatchLoader();
  BatchLoader(const BatchLoader&) = delete;
  BatchLoader& operator=(const BatchLoader&) = delete;

  int64_t batches_per_epoch() const;
  // Rows of batch `batch`: batch_size, or fewer in the last of an epoch.
  int64_t rows_of_batch(int64_t batch) const;

  // Starts to make a request's batches in the background.
  void prefetch(const BatchRequest& request);
  // The batches of a request, one a device: the prefetched ones where it is the same request.
  std::vector<HostBatch> take(const BatchRequest& request);

 private:
  std::vector<HostBatch> load(const BatchRequest& request) const;
  std::vector<float> weight_scales(const SampleOrder& order, int64_t first, int64_t rows) const;
  MaskCounts count_masks(const SampleOrder& order, int64_t first, int64_t rows) const;
  void work();

  const Dataset& dataset_;
  LoaderOptions options_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::optional<BatchRequest> wanted_;
  std::optional<BatchRequest> loading_;  // written under the mutex by the worker alone
  std::optional<BatchRequest> ready_for_;
  std::vector<HostBatch> ready_;
  std::atomic<bool> stopping_ = false;  // ends a load under way
  std::thread thread_;
};

}  // namespace lockstep
