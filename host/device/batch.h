// The rows that one device gets in one step, on the host.
#pragma once

#include <cstddef>
#include <cstdint>
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

struct HostBatch {
  int rows = 0;
  int64_t features = 0;
  std::vector<float> inputs;    // rows x features, row by row, features in Keras' (C) order
  std::vector<int32_t> labels;  // one class a row; empty where the targets are not classes
  int64_t target_features = 0;
  std::vector<float> targets;  // rows x target_features; classes too, as whole numbers
  int64_t weight_columns = 1;
  std::vector<float> weights;       // rows x weight_columns; empty: all 1
  std::vector<uint32_t> positions;  // position of each row in the epoch: the key of its randomness
  std::vector<int64_t> samples;     // row among the training rows: what the ledger records
};

}  // namespace lockstep
