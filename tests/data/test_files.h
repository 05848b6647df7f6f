// Files for the tests of data sets.
#pragma once

#include <zlib.h>

#include <cstdint>
#include <initializer_list>
#include <string>
#include <utility>
#include <vector>

#include "host/core/files.h"
#include "host/data/field.h"
#include "tests/support/source_folder.h"
#include "tests/support/test_folder.h"

namespace lockstep {

inline std::string idx_header(std::initializer_list<uint32_t> dimensions, uint8_t type = 0x08) {
  std::string bytes = {0, 0, static_cast<char>(type), static_cast<char>(dimensions.size())};
  for (const uint32_t size : dimensions) {
    for (int shift = 24; shift >= 0; shift -= 8) bytes += static_cast<char>(size >> shift);
  }
  return bytes;
}

// `count` bytes that differ from row to row and compress badly.
inline std::string some_bytes(size_t count, uint32_t seed = 1) {
  std::string bytes(count, '\0');
  for (char& byte : bytes) {
    seed = seed * 1664525u + 1013904223u;
    byte = static_cast<char>(seed >> 24);
  }
  return bytes;
}

inline std::string gzip(const std::string& bytes) {
  z_stream stream{};
  EXPECT_EQ(Z_OK, deflateInit2(&stream, 6, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY));
  std::string result(deflateBound(&stream, bytes.size()), '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(bytes.data()));
  stream.avail_in = static_cast<uInt>(bytes.size());
  stream.next_out = reinterpret_cast<Bytef*>(result.data());
  stream.avail_out = static_cast<uInt>(result.size());
  EXPECT_EQ(Z_STREAM_END, deflate(&stream, Z_FINISH));
  result.resize(result.size() - stream.avail_out);
  deflateEnd(&stream);
  return result;
}

// Labels 0 to classes - 1, over and over.
inline std::string idx_labels(uint32_t rows, uint32_t classes) {
  std::string bytes = idx_header({rows});
  for (uint32_t row = 0; row < rows; ++row) bytes += static_cast<char>(row % classes);
  return bytes;
}

inline std::string idx_images(uint32_t rows, uint32_t height, uint32_t width) {
  return idx_header({rows, height, width}) + some_bytes(size_t{rows} * height * width);
}

inline std::vector<uint8_t> bytes_of(const Field& field) {
  return {field.values.data(), field.values.data() + field.values.size()};
}

// A file of tests/data/arrays, as make_arrays.py wrote it.
inline std::string array_path(const std::string& name) {
  return source_folder() + "/tests/data/arrays/" + name;
}

inline std::string array_file(const std::string& name) {
  const auto bytes = read_file(array_path(name));
  EXPECT_TRUE(bytes.ok()) << bytes.error().message;
  return bytes.ok() ? *bytes : "";
}

inline SharedBytes shared(const std::string& bytes) {
  return SharedBytes(std::vector<uint8_t>(bytes.begin(), bytes.end()));
}

// An NPY file of version 1 with this dictionary.
inline std::string npy_file(const std::string& dictionary, const std::string& values) {
  std::string bytes = "\x93NUMPY";
  bytes += {1, 0, static_cast<char>(dictionary.size()), static_cast<char>(dictionary.size() >> 8)};
  return bytes + dictionary + values;
}

}  // namespace lockstep
