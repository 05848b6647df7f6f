// One named input or target of a data set: rows of numbers of one type.
#pragma once

#include <cstdint>
#include <string>

#include "host/data/shared_bytes.h"
#include "host/tensor/shape.h"

namespace lockstep {

enum class ElementType {
  boolean,
  uint8,
  int8,
  uint16,
  int16,
  uint32,
  int32,
  uint64,
  int64,
  float16,
  float32,
  float64,
};

int64_t element_bytes(ElementType type);
const char* element_name(ElementType type);  // numpy's: "float32"

// Rows of `row_shape` in C order, in this machine's byte order, at any alignment.
struct Field {
  std::string name;
  Shape row_shape;     // (): one number a row
  int64_t offset = 0;  // of its first value in a row of all inputs, or of all targets
  ElementType type = ElementType::float32;
  bool scaled = false;  // bytes that are read as float(byte) / 255
  SharedBytes values;

  int64_t features() const { return element_count(row_shape); }
  int64_t rows() const;
  // Values [begin, begin + count) as Keras feeds them to a model: the nearest float32.
  void copy_floats(int64_t begin, int64_t count, float* to) const;
  // All values, which nobody reads again: the memory of a mapped file is given back.
  void take_floats(float* to) const;
  // Value `index`, not scaled; integers beyond 2^53 to the nearest double.
  double value(int64_t index) const;
};

}  // namespace lockstep
