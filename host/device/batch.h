// The rows that one device gets in one step, on the host.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <memory_resource>
#include <utility>
#include <vector>

namespace lockstep {

// Weights of a row: its sample weights, times rows / divisor, both of the whole batch. A loss that
// is the mean over rows is then one that is divided by something else.
struct WeightColumn {
  enum class Divisor { rows, one, weights, entries, weighted_entries };
  size_t target = 0;  // whose sample weights
  Divisor divisor = Divisor::rows;
  size_t mask = 0;      // of entries: whose ones they are
  int64_t entries = 1;  // of a row: one weight, or one for each position of the loss
  bool reads_mask() const {
    return divisor == Divisor::entries || divisor == Divisor::weighted_entries;
  }
};

// Values of rows. The memory may be a device's (Device::batch_memory); that of copies is not.
class HostFloats : public std::pmr::vector<float> {
 public:
  using std::pmr::vector<float>::vector;
  explicit HostFloats(std::pmr::memory_resource* memory) : std::pmr::vector<float>(memory) {}
  HostFloats(const std::vector<float>& values)  // NOLINT: they are the same to everyone else
      : std::pmr::vector<float>(values.begin(), values.end()) {}
  operator std::vector<float>() const { return std::vector<float>(begin(), end()); }  // NOLINT
  friend bool operator==(const HostFloats& a, const std::vector<float>& b) {
    return std::equal(a.begin(), a.end(), b.begin(), b.end());
  }
};

// A batch on its way to a device (Device::prefetch). Its end waits until the rows have been read.
class BatchCopy {
 public:
  virtual ~BatchCopy() = default;
};

// Of the batch that it lies in: copies of that have none.
class BatchCopyOwner {
 public:
  BatchCopyOwner() = default;
  BatchCopyOwner(std::unique_ptr<BatchCopy> copy) : copy_(std::move(copy)) {}  // NOLINT
  BatchCopyOwner(const BatchCopyOwner&) {}
  BatchCopyOwner(BatchCopyOwner&&) noexcept = default;
  BatchCopyOwner& operator=(const BatchCopyOwner&) {
    copy_.reset();
    return *this;
  }
  BatchCopyOwner& operator=(BatchCopyOwner&&) noexcept = default;
  ~BatchCopyOwner() = default;
  BatchCopy* get() const { return copy_.get(); }

 private:
  std::unique_ptr<BatchCopy> copy_;
};

struct HostBatch {
  int rows = 0;
  int64_t features = 0;
  HostFloats inputs;            // rows x features, row by row, features in Keras' (C) order
  std::vector<int32_t> labels;  // one class a row; empty where the targets are not classes
  int64_t target_features = 0;
  HostFloats targets;  // rows x target_features; classes too, as whole numbers
  int64_t weight_columns = 1;
  HostFloats weights;               // rows x weight_columns; empty: all 1
  std::vector<uint32_t> positions;  // position of each row in the epoch: the key of its randomness
  std::vector<int64_t> samples;     // row among the training rows: what the ledger records
  BatchCopyOwner copy;              // where one was begun; the last to come, the first to go
};

}  // namespace lockstep
