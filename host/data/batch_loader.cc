#include "host/data/batch_loader.h"

#include <algorithm>
#include <array>
#include <utility>

#include "host/core/check.h"
#include "host/data/sample_order.h"

namespace lockstep {
namespace {

constexpr std::array<float, 256> make_scaled_pixels() {
  std::array<float, 256> scaled{};
  for (int pixel = 0; pixel < 256; ++pixel) {
    scaled[static_cast<size_t>(pixel)] = static_cast<float>(pixel) / 255.0f;
  }
  return scaled;
}
constexpr std::array<float, 256> kScaledPixels = make_scaled_pixels();

// Appends row `sample` of the training range, which stands at `position` of its epoch.
void append_row(const Dataset& dataset, int64_t first_row, int64_t sample, int64_t position,
                HostBatch& batch) {
  const size_t row = static_cast<size_t>(first_row + sample);
  const uint8_t* pixels = dataset.pixels.data() + row * static_cast<size_t>(batch.features);
  float* inputs = batch.inputs.data() + static_cast<int64_t>(batch.rows) * batch.features;
  std::transform(pixels, pixels + batch.features, inputs,
                 [](uint8_t pixel) { return kScaledPixels[pixel]; });
  batch.labels.push_back(dataset.labels[row]);
  batch.positions.push_back(static_cast<uint32_t>(position));
  batch.samples.push_back(sample);
  ++batch.rows;
}

}  // namespace

BatchLoader::BatchLoader(const Dataset& dataset, LoaderOptions options)
    : dataset_(dataset), options_(options) {
  LOCKSTEP_CHECK(0 <= options.rows.begin && options.rows.begin < options.rows.end);
  LOCKSTEP_CHECK(options.rows.end <= dataset.rows() && options.rows.size() <= UINT32_MAX);
  LOCKSTEP_CHECK(options.batch_size > 0 && options.partitions > 0);
  thread_ = std::thread([this] { work(); });
}

BatchLoader::~BatchLoader() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

int64_t BatchLoader::batches_per_epoch() const {
  return (options_.rows.size() + options_.batch_size - 1) / options_.batch_size;
}

int64_t BatchLoader::rows_of_batch(int64_t batch) const {
  LOCKSTEP_CHECK(0 <= batch && batch < batches_per_epoch());
  return std::min(options_.batch_size, options_.rows.size() - batch * options_.batch_size);
}

void BatchLoader::prefetch(const BatchRequest& request) {
  {
    const std::lock_guard lock(mutex_);
    if (loading_ == request || ready_for_ == request) return;
    wanted_ = request;
  }
  changed_.notify_all();
}

std::vector<HostBatch> BatchLoader::take(const BatchRequest& request) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return wanted_ != request && loading_ != request; });
  if (ready_for_ == request) {
    ready_for_.reset();
    return std::exchange(ready_, {});
  }
  lock.unlock();
  return load(request);
}

std::vector<HostBatch> BatchLoader::load(const BatchRequest& request) const {
  const int64_t first_position = request.batch * options_.batch_size;
  const int64_t batch_rows = rows_of_batch(request.batch);
  const SampleOrder order(options_.rows.size(), options_.seed, request.epoch, options_.shuffle);
  std::vector<HostBatch> batches(request.devices.size());
  for (size_t device = 0; device < batches.size(); ++device) {
    const PartitionRange range = request.devices[device];
    const int64_t begin = partition_begin(batch_rows, options_.partitions, range.begin);
    const int64_t end = partition_begin(batch_rows, options_.partitions, range.end);
    const size_t rows = static_cast<size_t>(end - begin);
    HostBatch& batch = batches[device];
    batch.features = element_count(dataset_.row_shape);
    batch.inputs.resize(rows * static_cast<size_t>(batch.features));
    batch.labels.reserve(rows);
    batch.positions.reserve(rows);
    batch.samples.reserve(rows);
    for (int64_t offset = begin; offset < end && !stopping_; ++offset) {
      const int64_t position = first_position + offset;
      append_row(dataset_, options_.rows.begin, order.row_at(position), position, batch);
    }
  }
  return batches;
}

void BatchLoader::work() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [&] { return stopping_ || wanted_.has_value(); });
    if (stopping_) return;
    loading_ = std::exchange(wanted_, std::nullopt);
    lock.unlock();
    std::vector<HostBatch> batches = load(*loading_);
    lock.lock();
    ready_ = std::move(batches);
    ready_for_ = std::exchange(loading_, std::nullopt);
    changed_.notify_all();
  }
}

}  // namespace lockstep
