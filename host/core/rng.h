// Counter-based random numbers: every draw is a pure function of its key and counter, so no
// generator state is ever saved.
#pragma once

#include <array>
#include <cstdint>

#include "host/core/math_normal.h"

namespace lockstep {

// The finalizer of splitmix64 (Steele, Lea, Flood 2014): a bijection of 64-bit words.
constexpr uint64_t mix64(uint64_t z) {
  z ^= z >> 30;
  z *= 0xbf58476d1ce4e5b9u;
  z ^= z >> 27;
  z *= 0x94d049bb133111ebu;
  z ^= z >> 31;
  return z;
}

// A key for purpose (a, b) of a job with this seed.
constexpr uint64_t derive_key(uint64_t seed, uint64_t a, uint64_t b) {
  return mix64(mix64(mix64(seed ^ 0x4c6f636b73746570u) + a) + b);
}

// Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011).
constexpr std::array<uint32_t, 4> philox4x32(std::array<uint32_t, 4> counter, uint64_t key) {
  uint32_t key0 = static_cast<uint32_t>(key);
  uint32_t key1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = uint64_t{0xD2511F53u} * counter[0];
    const uint64_t product1 = uint64_t{0xCD9E8D57u} * counter[2];
    counter = {
        static_cast<uint32_t>(product1 >> 32) ^ counter[1] ^ key0, static_cast<uint32_t>(product1),
        static_cast<uint32_t>(product0 >> 32) ^ counter[3] ^ key1, static_cast<uint32_t>(product0)};
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return counter;
}

// Uniform in [0, 1) with 24 bits.
constexpr float uniform_from_bits(uint32_t bits) {
  return static_cast<float>(bits >> 8) * (1.0f / 16777216.0f);
}

// A standard normal number of two words.
LOCKSTEP_MATH float normal_from_bits(uint32_t word0, uint32_t word1) {
  return math::normal_of<math::ScalarOps>(static_cast<int32_t>(word0), static_cast<int32_t>(word1));
}

// The i-th uniform number in [0, 1) of the stream `key`.
constexpr float uniform_at(uint64_t key, uint64_t i) {
  const uint64_t block = i / 4;
  return uniform_from_bits(philox4x32(
      {static_cast<uint32_t>(block), static_cast<uint32_t>(block >> 32), 0, 0}, key)[i % 4]);
}

}  // namespace lockstep
