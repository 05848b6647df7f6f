// The rows that one device gets in one step, on the host.
#pragma once

#include <cstdint>
#include <vector>

namespace lockstep {

struct HostBatch {
  int rows = 0;
  int64_t features = 0;
  std::vector<float> inputs;        // rows x features, row by row, features in Keras' (C) order
  std::vector<int32_t> labels;      // one class a row
  std::vector<uint32_t> positions;  // position of each row in the epoch: the key of its randomness
  std::vector<int64_t> samples;     // row among the training rows: what the ledger records
};

}  // namespace lockstep
