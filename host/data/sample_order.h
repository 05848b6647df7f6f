// Which row stands at which position of an epoch: a pure function, so any node finds its rows
// without talking to anyone.
#pragma once

#include <array>
#include <cstdint>

namespace lockstep {

// A permutation of [0, rows) keyed by (seed, epoch): a Feistel network of eight rounds over the
// smallest even number of bits that holds `rows`, walked until the result is below `rows`
// (Black and Rogaway, "Ciphers with arbitrary finite domains", 2002).
class SampleOrder {
 public:
  // Without `shuffle` it is the identity.
  SampleOrder(int64_t rows, uint64_t seed, int64_t epoch, bool shuffle);
  int64_t row_at(int64_t position) const;

 private:
  int64_t rows_;
  bool shuffle_;
  int half_bits_;
  std::array<uint64_t, 8> keys_;
};

}  // namespace lockstep
