// The header of an NPY file.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "host/core/result.h"
#include "host/data/field.h"

namespace lockstep {

inline constexpr std::string_view kNpyMagic = "\x93NUMPY";
inline constexpr size_t kNpyMaxRank = 32;  // dimensions; as many as NumPy 1 has

struct NpyHeader {
  ElementType type = ElementType::float32;
  bool swapped = false;  // the other byte order
  bool fortran_order = false;
  Shape shape;
  size_t bytes = 0;   // of magic, version, length and dictionary
  size_t values = 0;  // bytes of the values; header and values together fit into an int64
};

// Of the first bytes of a file. Errors begin with `called`.
Result<NpyHeader> parse_npy_header(std::string_view file, const std::string& called);

}  // namespace lockstep
