#include "host/data/field.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <type_traits>

#include "host/core/check.h"

namespace lockstep {
namespace {

static_assert(std::endian::native == std::endian::little);

constexpr std::array<float, 256> make_scaled_bytes() {
  std::array<float, 256> scaled{};
  for (int byte = 0; byte < 256; ++byte) {
    scaled[static_cast<size_t>(byte)] = static_cast<float>(byte) / 255.0f;
  }
  return scaled;
}
constexpr std::array<float, 256> kScaledBytes = make_scaled_bytes();

// As they lie in memory.
struct Boolean {
  uint8_t byte = 0;
};
struct Half {
  uint16_t bits = 0;
};

template <class To, class From>
To converted(From value) {
  return static_cast<To>(value);
}

template <class To>
To converted(Boolean value) {
  return value.byte != 0 ? To{1} : To{0};
}

// IEEE 754 binary16: every value is a float32.
template <class To>
To converted(Half value) {
  const uint32_t sign = (value.bits & 0x8000u) << 16;
  const uint32_t exponent = (value.bits >> 10) & 0x1fu;
  const uint32_t fraction = value.bits & 0x3ffu;
  if (exponent == 0) {  // zero, or below the least normal number: fraction * 2^-24
    const float magnitude = static_cast<float>(fraction) * 0x1p-24f;
    return static_cast<To>(sign != 0 ? -magnitude : magnitude);
  }
  const uint32_t wide = exponent == 0x1f ? 0xffu : exponent + 112;
  return static_cast<To>(std::bit_cast<float>(sign | wide << 23 | fraction << 13));
}

// Calls visit(T{}) with the type of an element in memory.
template <class Visit>
auto with_type(ElementType type, Visit visit) {
  switch (type) {
    case ElementType::boolean:
      return visit(Boolean{});
    case ElementType::uint8:
      return visit(uint8_t{});
    case ElementType::int8:
      return visit(int8_t{});
    case ElementType::uint16:
      return visit(uint16_t{});
    case ElementType::int16:
      return visit(int16_t{});
    case ElementType::uint32:
      return visit(uint32_t{});
    case ElementType::int32:
      return visit(int32_t{});
    case ElementType::uint64:
      return visit(uint64_t{});
    case ElementType::int64:
      return visit(int64_t{});
    case ElementType::float16:
      return visit(Half{});
    case ElementType::float32:
      return visit(float{});
    case ElementType::float64:
      break;
  }
  return visit(double{});
}

template <class To, class From>
void convert(const uint8_t* from, int64_t count, To* to) {
  for (int64_t i = 0; i < count; ++i) {
    From value;
    std::memcpy(&value, from + static_cast<size_t>(i) * sizeof(From), sizeof(From));
    to[i] = converted<To>(value);
  }
}

}  // namespace

int64_t element_bytes(ElementType type) {
  return with_type(type, [](auto element) { return static_cast<int64_t>(sizeof(element)); });
}

const char* element_name(ElementType type) {
  constexpr std::array<const char*, 12> kNames = {"bool",  "uint8",   "int8",    "uint16",
                                                  "int16", "uint32",  "int32",   "uint64",
                                                  "int64", "float16", "float32", "float64"};
  return kNames[static_cast<size_t>(type)];
}

int64_t Field::rows() const {
  return static_cast<int64_t>(values.size()) / (features() * element_bytes(type));
}

void Field::copy_floats(int64_t begin, int64_t count, float* to) const {
  const uint8_t* from = values.data() + begin * element_bytes(type);
  if (scaled) {
    std::transform(from, from + count, to, [](uint8_t byte) { return kScaledBytes[byte]; });
    return;
  }
  if (type == ElementType::float32) {
    std::memcpy(to, from, static_cast<size_t>(count) * sizeof(float));
    return;
  }
  with_type(type, [&](auto element) { convert<float, decltype(element)>(from, count, to); });
}

void Field::take_floats(float* to) const {
  const auto bytes = static_cast<size_t>(element_bytes(type));
  const size_t step = kReadOnceBytes / bytes;
  const size_t all = values.size() / bytes;
  for (size_t begin = 0; begin < all; begin += step) {
    const size_t count = std::min(step, all - begin);
    copy_floats(static_cast<int64_t>(begin), static_cast<int64_t>(count), to + begin);
    values.part(begin * bytes, count * bytes).release();
  }
}

double Field::value(int64_t index) const {
  const uint8_t* from = values.data() + index * element_bytes(type);
  double result = 0;
  with_type(type, [&](auto element) { convert<double, decltype(element)>(from, 1, &result); });
  return result;
}

}  // namespace lockstep
