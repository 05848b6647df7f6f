// A 64-bit digest of a training state (flat weights and optimizer slots), made where the optimizer
// has the state in registers. It finds silent corruption; it is no defence against an attacker.
//
//  - The flat vectors are cut in blocks of kDigestBlock parameters. In a block, lane l of 16 takes
//    the parameters i with i % 16 == l in order; all is mod 2^32:
//      x = the bits of the parameter's words, last slot first and the weight last:
//          x = rotate_left(x, 8) + bits(word), from 0
//      lane = rotate_left(lane, 16) * kDigestFactor + x, from 0
//    A lane without parameters (of a short last block) stays 0.
//  - A block's digest is XXH3 of its 16 lanes and its index in 64 bits, little-endian.
//  - The state's digest is the sum of its blocks' digests mod 2^64: whoever computed them.
//
// Each step of a lane is a bijection of the lane and of each word that goes in: a single wrong word
// always changes it. The halves change places because a product keeps a top bit where it is: two
// wrong signs in a lane would cancel; so would those of two words of a parameter, which is why they
// are rotated. One multiplication a parameter, not a word: they are what a digest costs. The weight
// comes last since the optimizer has it last.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace lockstep {

// State vectors beside the weights: two that any optimizer can keep, and at most three of its own.
inline constexpr size_t kMaxSlots = 5;

inline constexpr int64_t kDigestBlock = 4096;
inline constexpr uint32_t kDigestFactor = 0x9e3779b1u;  // a prime of xxHash

// x with one more word of the parameter, and the lane with one more parameter.
constexpr uint32_t digest_word(uint32_t x, uint32_t word) { return (x << 8 | x >> 24) + word; }
constexpr uint32_t digest_parameter(uint32_t lane, uint32_t x) {
  return (lane << 16 | lane >> 16) * kDigestFactor + x;
}

struct DigestLanes {
  static constexpr int kCount = 16;
  uint32_t values[kCount] = {};
};

uint64_t block_digest(const DigestLanes& lanes, int64_t block);

// Blocks of a state of `count` parameters, and the digest of all of them.
constexpr size_t digest_blocks(int64_t count) {
  return static_cast<size_t>((count + kDigestBlock - 1) / kDigestBlock);
}
uint64_t state_digest_of(const std::vector<DigestLanes>& lanes);

}  // namespace lockstep
