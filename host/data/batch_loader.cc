#include "host/data/batch_loader.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "host/core/check.h"
#include "host/data/sample_order.h"

namespace lockstep {
namespace {

void copy_row(const std::vector<Field>& fields, int64_t row, float* to) {
  for (const Field& field : fields) {
    const int64_t features = field.features();
    field.copy_floats(row * features, features, to + field.offset);
  }
}

// As Keras' class_weight_to_sample_weights finds it.
int64_t class_of_row(const Field& target, int64_t row) {
  const int64_t features = target.features();
  if (features == 1) {
    const double value = std::nearbyint(target.value(row));
    return std::abs(value) <= INT32_MAX ? static_cast<int64_t>(value) : -1;
  }
  int64_t greatest = 0;
  for (int64_t i = 1; i < features; ++i) {
    if (target.value(row * features + i) > target.value(row * features + greatest)) greatest = i;
  }
  return greatest;
}

float weight_of_row(const Dataset& dataset, const LoaderOptions& options, size_t target,
                    int64_t row, int64_t entry) {
  float weight = 1;
  if (!dataset.weights.empty()) {
    const Field& field = dataset.weights[dataset.weights.size() == 1 ? 0 : target];
    const int64_t entries = field.features();
    field.copy_floats(entries == 1 ? row : row * entries + entry, 1, &weight);
  }
  if (options.class_weights.empty()) return weight;
  const auto found = options.class_weights.find(class_of_row(dataset.targets[0], row));
  return found == options.class_weights.end() ? weight : weight * found->second;
}

int64_t weights_of_row(const LoaderOptions& options) {
  int64_t count = 0;
  for (const WeightColumn& column : options.weights) count += column.entries;
  return count;
}

// A batch with room for `rows` rows of all that those of these options hold.
HostBatch empty_batch(const Dataset& dataset, const LoaderOptions& options, size_t rows,
                      std::pmr::memory_resource* memory) {
  HostBatch batch{.features = dataset.features(),
                  .inputs = HostFloats(memory),
                  .targets = HostFloats(memory),
                  .weights = HostFloats(memory)};
  batch.inputs.resize(rows * static_cast<size_t>(batch.features));
  if (dataset.classes > 0) batch.labels.reserve(rows);
  if (options.targets) {
    batch.target_features = dataset.target_features();
    batch.targets.resize(rows * static_cast<size_t>(batch.target_features));
  }
  batch.weight_columns = std::max<int64_t>(1, weights_of_row(options));
  batch.weights.reserve(rows * static_cast<size_t>(weights_of_row(options)));
  batch.positions.reserve(rows);
  batch.samples.reserve(rows);
  return batch;
}

// Appends row `sample` of the options' rows, which stands at `position` of its epoch. `scales`: of
// the weights.
void append_row(const Dataset& dataset, const LoaderOptions& options,
                const std::vector<float>& scales, int64_t sample, int64_t position,
                HostBatch* batch) {
  const int64_t row = options.rows.begin + sample;
  copy_row(dataset.inputs, row, batch->inputs.data() + batch->rows * batch->features);
  if (dataset.classes > 0) {
    batch->labels.push_back(static_cast<int32_t>(dataset.targets[0].value(row)));
  }
  if (options.targets) {
    copy_row(dataset.targets, row, batch->targets.data() + batch->rows * batch->target_features);
  }
  for (size_t i = 0; i < scales.size(); ++i) {
    const WeightColumn& column = options.weights[i];
    for (int64_t entry = 0; entry < column.entries; ++entry) {
      const float weight = weight_of_row(dataset, options, column.target, row, entry);
      batch->weights.push_back(weight * scales[i]);
    }
  }
  batch->positions.push_back(static_cast<uint32_t>(position));
  batch->samples.push_back(sample);
  ++batch->rows;
}

}  // namespace

BatchLoader::BatchLoader(const Dataset& dataset, LoaderOptions options)
    : dataset_(dataset), options_(std::move(options)) {
  LOCKSTEP_CHECK(0 <= options_.rows.begin && options_.rows.begin < options_.rows.end);
  LOCKSTEP_CHECK(options_.rows.end <= dataset.rows() && options_.rows.size() <= UINT32_MAX);
  LOCKSTEP_CHECK(options_.batch_size > 0 && options_.partitions > 0);
  LOCKSTEP_CHECK(options_.class_weights.empty() || dataset.targets.size() == 1);
  const bool weighted = !dataset.weights.empty() || !options_.class_weights.empty();
  if (weighted && options_.weights.empty()) options_.weights.emplace_back();
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
  const std::vector<float> scales = weight_scales(order, first_position, batch_rows);
  LOCKSTEP_CHECK(options_.devices.empty() || options_.devices.size() == request.devices.size());
  std::vector<HostBatch> batches;
  for (size_t device = 0; device < request.devices.size(); ++device) {
    const PartitionRange range = request.devices[device];
    const int64_t begin = partition_begin(batch_rows, options_.partitions, range.begin);
    const int64_t end = partition_begin(batch_rows, options_.partitions, range.end);
    const size_t rows = static_cast<size_t>(end - begin);
    Device* const to = options_.devices.empty() ? nullptr : options_.devices[device];
    HostBatch& batch = batches.emplace_back(
        empty_batch(dataset_, options_, rows,
                    to == nullptr ? std::pmr::get_default_resource() : to->batch_memory()));
    for (int64_t offset = begin; offset < end && !stopping_; ++offset) {
      const int64_t position = first_position + offset;
      append_row(dataset_, options_, scales, order.row_at(position), position, &batch);
    }
    if (to != nullptr && rows > 0 && !stopping_) batch.copy = to->prefetch(batch);
  }
  return batches;
}

// What the weights of a batch are multiplied by: the rows over the divisor, and 0 where that is 0,
// as Keras has it. Every node finds the same, since all of it follows from the data.
std::vector<float> BatchLoader::weight_scales(const SampleOrder& order, int64_t first,
                                              int64_t rows) const {
  using Divisor = WeightColumn::Divisor;
  std::vector<float> scales;
  MaskCounts entries;
  for (const WeightColumn& column : options_.weights) {
    if (column.divisor == Divisor::rows || column.divisor == Divisor::one) {
      scales.push_back(column.divisor == Divisor::rows ? 1 : static_cast<float>(rows));
      continue;
    }
    if (column.reads_mask() && entries.empty()) entries = count_masks(order, first, rows);
    double divisor = 0;
    for (int64_t i = 0; i < rows; ++i) {
      const int64_t row = options_.rows.begin + order.row_at(first + i);
      const bool weighted = column.divisor != Divisor::entries;
      double term = weighted ? 0 : 1;
      for (int64_t entry = 0; weighted && entry < column.entries; ++entry) {
        term += weight_of_row(dataset_, options_, column.target, row, entry);
      }
      if (column.reads_mask()) term *= entries.at(column.mask).at(static_cast<size_t>(i));
      divisor += term;
    }
    scales.push_back(divisor == 0 ? 0 : static_cast<float>(static_cast<double>(rows) / divisor));
  }
  return scales;
}

// Of the whole batch, whoever computes it.
MaskCounts BatchLoader::count_masks(const SampleOrder& order, int64_t first, int64_t rows) const {
  HostBatch batch;
  batch.rows = static_cast<int>(rows);
  batch.features = dataset_.features();
  batch.inputs.resize(static_cast<size_t>(rows * batch.features));
  for (int64_t i = 0; i < rows && !stopping_; ++i) {
    copy_row(dataset_.inputs, options_.rows.begin + order.row_at(first + i),
             batch.inputs.data() + i * batch.features);
  }
  return options_.count_masks(batch);
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
