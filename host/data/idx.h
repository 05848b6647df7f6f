// The IDX format: two zero bytes, the type of an element, the number of dimensions, the dimensions
// as big-endian 32-bit numbers, then the elements (http://yann.lecun.com/exdb/mnist).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "host/core/result.h"
#include "host/tensor/shape.h"

namespace lockstep {

enum class IdxKind {
  images,  // rows of (height, width) or (height, width, channels)
  labels,  // one number a row
};

struct IdxArray {
  Shape dimensions;  // the first is rows; none is zero
  std::vector<uint8_t> values;
  std::string sha256;  // of the file's bytes, inflated
  int64_t rows() const { return dimensions[0]; }
};

// Reads a whole file of unsigned bytes, plain or gzip by content. Takes memory for no more than
// the file really holds, whatever its header says. Errors name the file, what is wrong with it and
// the remedy.
Result<IdxArray> read_idx(const std::string& path, IdxKind kind);

}  // namespace lockstep
