// The rows that one device gets in one step, on the host.
#pragma once

#include <cstdint>
#include <vector>

namespace lockstep {

struct HostBatch {
  int rows = 0;
  int64_t features = 0;
  std::vector<float> inputs;    // rows x features, row by row, features in Keras' (C) order
  std::vector<int32_t> labels;  // one class a row; empty where the targets are not classes
  int64_t target_features = 0;
  std::vector<float> targets;       // rows x target_features; classes too, as whole numbers
  std::vector<float> weights;       // one a row; empty: all 1
  std::vector<uint32_t> positions;  // position of each row in the epoch: the key of its randomness
  std::vector<int64_t> samples;     // row among the training rows: what the ledger records
};

}  // namespace lockstep
