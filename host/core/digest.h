// Hashes: SHA-256 for what people see and compare, XXH3 for states and chunks on the wire, CRC-32C
// for records of a log.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace lockstep {

class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(const Sha256&) = delete;
  Sha256& operator=(const Sha256&) = delete;
  void update(const void* data, size_t bytes);
  void update(std::string_view text) { update(text.data(), text.size()); }
  std::string hex();  // ends the hash: call once

 private:
  struct State;
  std::unique_ptr<State> state_;
};

std::string sha256_hex(std::string_view bytes);
// CRC-32C (Castagnoli; RFC 3720, B.4), of `data` after what gave `before`.
uint32_t crc32c(const void* data, size_t bytes, uint32_t before = 0);
uint64_t xxh3(const void* data, size_t bytes);

// The same of bytes that come in parts.
class Xxh3 {
 public:
  Xxh3();
  ~Xxh3();
  Xxh3(const Xxh3&) = delete;
  Xxh3& operator=(const Xxh3&) = delete;
  void update(const void* data, size_t bytes);
  uint64_t value() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// 16 lower-case hex digits.
std::string hex64(uint64_t value);

}  // namespace lockstep
