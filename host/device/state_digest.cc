#include "host/device/state_digest.h"

#include <cstring>

#include "host/core/digest.h"

namespace lockstep {

uint64_t block_digest(const DigestLanes& lanes, int64_t block) {
  unsigned char bytes[sizeof(lanes.values) + sizeof(block)];
  std::memcpy(bytes, lanes.values, sizeof(lanes.values));
  std::memcpy(bytes + sizeof(lanes.values), &block, sizeof(block));
  return xxh3(bytes, sizeof(bytes));
}

uint64_t state_digest_of(const std::vector<DigestLanes>& lanes) {
  uint64_t sum = 0;
  for (size_t block = 0; block < lanes.size(); ++block) {
    sum += block_digest(lanes[block], static_cast<int64_t>(block));
  }
  return sum;
}

}  // namespace lockstep
