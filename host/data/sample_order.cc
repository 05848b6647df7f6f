#include "host/data/sample_order.h"

#include <bit>

#include "host/core/check.h"
#include "host/core/rng.h"

namespace lockstep {

SampleOrder::SampleOrder(int64_t rows, uint64_t seed, int64_t epoch, bool shuffle)
    : rows_(rows), shuffle_(shuffle) {
  LOCKSTEP_CHECK(rows > 0);
  const int bits = static_cast<int>(std::bit_width(static_cast<uint64_t>(rows - 1)));
  half_bits_ = bits <= 2 ? 1 : (bits + 1) / 2;
  for (size_t round = 0; round < keys_.size(); ++round) {
    keys_[round] = derive_key(seed, static_cast<uint64_t>(epoch), round);
  }
}

int64_t SampleOrder::row_at(int64_t position) const {
  LOCKSTEP_CHECK(0 <= position && position < rows_);
  if (!shuffle_) return position;
  const uint64_t mask = (uint64_t{1} << half_bits_) - 1;
  uint64_t x = static_cast<uint64_t>(position);
  do {
    uint64_t left = x >> half_bits_;
    uint64_t right = x & mask;
    for (const uint64_t key : keys_) {
      const uint64_t mixed = (left ^ mix64(right ^ key)) & mask;
      left = right;
      right = mixed;
    }
    x = (left << half_bits_) | right;
  } while (x >= static_cast<uint64_t>(rows_));
  return static_cast<int64_t>(x);
}

}  // namespace lockstep
