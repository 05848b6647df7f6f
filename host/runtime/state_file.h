// state[t] as bytes: what nodes send to the coordinator and fetch from it, and what the objects of
// checkpoints hold. Little-endian:
//   "LSSTATE2" | step i64 | parameters i64 | vectors i64 | count of sums i64 | sums f64 each |
//   then each vector, weights first, then the optimizer's slots: parameters x f32
// The format before is read too. It had three sums, of which the last two were whole numbers:
//   "LSSTATE1" | step i64 | sum f64 | sum i64 | sum i64 | parameters i64 | vectors i64 | vectors
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "host/core/metric_sums.h"
#include "host/core/result.h"

namespace lockstep {

struct StateHeader {
  int64_t step = 0;
  int64_t parameters = 0;
  int64_t vectors = 0;  // weights and slots
  MetricSums sums;      // this epoch's metric accumulators
};

// Of a whole state as it is written.
int64_t state_bytes(int64_t parameters, int64_t vectors, int64_t sums);
std::string encode_state_header(const StateHeader& header);

// Checks the size against the header; the views are into `bytes`.
struct StateView {
  StateHeader header;
  std::vector<std::string_view> vectors;
};
Result<StateView> decode_state(std::string_view bytes);

// host/device/state_digest.h, from such bytes. Any CPU.
uint64_t digest_of_state(const StateView& state);

}  // namespace lockstep
