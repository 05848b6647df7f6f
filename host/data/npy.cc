#include "host/data/npy.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "host/core/check.h"
#include "host/core/files.h"
#include "host/data/npy_header.h"

namespace lockstep {
namespace {

constexpr size_t kHeaderAlignment = 64;

std::string_view npy_text_of(const SharedBytes& bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// Value by value in C order: the one with the indices (i, j, ...) lies at i + j * rows + ...
std::vector<uint8_t> to_c_order(const SharedBytes& values, const Shape& shape, size_t width) {
  std::vector<uint8_t> ordered(values.size());
  const size_t rank = shape.size();
  std::array<size_t, kNpyMaxRank> strides{width};
  for (size_t d = 1; d < rank; ++d) strides[d] = strides[d - 1] * static_cast<size_t>(shape[d - 1]);
  std::array<int64_t, kNpyMaxRank> index{};
  size_t from = 0;
  for (size_t to = 0; to < ordered.size(); to += width) {
    std::memcpy(&ordered[to], values.data() + from, width);
    for (size_t d = rank; d-- > 0;) {
      from += strides[d];
      if (++index[d] < shape[d]) break;
      from -= strides[d] * static_cast<size_t>(shape[d]);
      index[d] = 0;
    }
  }
  return ordered;
}

void swap_bytes(size_t width, std::vector<uint8_t>* values) {
  for (size_t at = 0; at < values->size(); at += width) {
    std::reverse(values->data() + at, values->data() + at + width);
  }
}

// At most one dimension is more than one: both orders are the same.
bool is_line(const Shape& shape) {
  return std::count_if(shape.begin(), shape.end(), [](int64_t size) { return size > 1; }) <= 1;
}

}  // namespace

bool is_npy(const SharedBytes& bytes) { return npy_text_of(bytes).starts_with(kNpyMagic); }

Result<NpyArray> read_npy(const SharedBytes& bytes, const std::string& called) {
  LOCKSTEP_ASSIGN(NpyHeader header, parse_npy_header(npy_text_of(bytes), called));
  const size_t expected = header.bytes + header.values;
  if (bytes.size() != expected) {
    const bool is_short = bytes.size() < expected;
    return Error{
        fmt::format("{} {}: its header says {} values of shape {}, {} bytes in all, and it has {}; "
                    "copy or save it again",
                    called, is_short ? "ends early" : "is too long", element_name(header.type),
                    to_string(header.shape), expected, bytes.size())};
  }
  NpyArray array{header.type, std::move(header.shape), bytes.part(header.bytes, header.values)};
  const auto width = static_cast<size_t>(element_bytes(array.type));
  const bool reorders = header.fortran_order && !is_line(array.shape);
  if (!reorders && !header.swapped) return array;
  std::vector<uint8_t> values;
  if (reorders) {
    values = to_c_order(array.values, array.shape, width);
  } else {
    values.assign(array.values.data(), array.values.data() + array.values.size());
  }
  if (header.swapped) swap_bytes(width, &values);
  array.values = SharedBytes(std::move(values));
  return array;
}

std::string npy_header(const Shape& shape) {
  std::string header = fmt::format("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}{}), }}",
                                   fmt::join(shape, ", "), shape.size() == 1 ? "," : "");
  const size_t before = kNpyMagic.size() + 4;
  const size_t total =
      (before + header.size() + 1 + kHeaderAlignment - 1) / kHeaderAlignment * kHeaderAlignment;
  header.resize(total - before - 1, ' ');
  header += '\n';
  LOCKSTEP_CHECK(header.size() <= UINT16_MAX);
  std::string bytes(kNpyMagic);
  bytes += '\1';
  bytes += '\0';
  bytes += static_cast<char>(header.size() & 0xff);
  bytes += static_cast<char>(header.size() >> 8);
  return bytes + header;
}

Status write_npy(const std::string& path, const Shape& shape, std::span<const float> values) {
  LOCKSTEP_CHECK(element_count(shape) == static_cast<int64_t>(values.size()));
  std::string bytes = npy_header(shape);
  bytes.append(reinterpret_cast<const char*>(values.data()), values.size_bytes());
  return write_file_atomically(path, bytes);
}

}  // namespace lockstep
