// A message of Protocol Buffers as bytes: https://protobuf.dev/programming-guides/encoding
#pragma once

#include <bit>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace lockstep {

// Fields in the order of the calls.
class ProtobufWriter {
 public:
  // int32, int64, enumerations: negative numbers take ten bytes.
  void add_number(int field, int64_t value) {
    add_tag(field, 0);
    add_varint(static_cast<uint64_t>(value));
  }
  void add_float(int field, float value) {
    add_tag(field, 5);
    const auto bits = std::bit_cast<uint32_t>(value);
    for (int shift = 0; shift < 32; shift += 8) bytes_ += static_cast<char>(bits >> shift & 0xff);
  }
  void add_double(int field, double value) {
    add_tag(field, 1);
    append_double(value, &bytes_);
  }
  // As one packed field.
  void add_doubles(int field, const std::vector<double>& values) {
    std::string packed;
    for (const double value : values) append_double(value, &packed);
    add_bytes(field, packed);
  }
  // Texts, bytes and messages within.
  void add_bytes(int field, std::string_view value) {
    add_tag(field, 2);
    add_varint(value.size());
    bytes_ += value;
  }
  const std::string& bytes() const { return bytes_; }

 private:
  static void append_double(double value, std::string* to) {
    const auto bits = std::bit_cast<uint64_t>(value);
    for (int shift = 0; shift < 64; shift += 8) *to += static_cast<char>(bits >> shift & 0xff);
  }
  void add_tag(int field, unsigned wire_type) {
    add_varint(static_cast<uint64_t>(field) << 3 | wire_type);
  }
  // Seven bits a byte, the lowest first; the highest bit says that more follow.
  void add_varint(uint64_t value) {
    for (; value > 0x7f; value >>= 7) bytes_ += static_cast<char>((value & 0x7f) | 0x80);
    bytes_ += static_cast<char>(value);
  }

  std::string bytes_;
};

}  // namespace lockstep
