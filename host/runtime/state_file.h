// state[t] as bytes: what nodes send to the coordinator and fetch from it, and what the objects of
// checkpoints hold. Little-endian:
//   "LSSTATE1" | step i64 | loss_sum f64 | correct i64 | rows i64 | parameters i64 | vectors i64 |
//   then each vector, weights first, then the optimizer's slots: parameters x f32
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "host/core/result.h"

namespace lockstep {

struct StateHeader {
  int64_t step = 0;
  double loss_sum = 0;  // this epoch's metric accumulators
  int64_t correct = 0;
  int64_t rows = 0;
  int64_t parameters = 0;
  int64_t vectors = 0;  // weights and slots
};
inline constexpr int64_t kStateHeaderBytes = 56;

int64_t state_bytes(int64_t parameters, int64_t vectors);
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
