// NumPy's NPY format: magic, version, the length of a header, the header (a Python dictionary of
// 'descr', 'fortran_order' and 'shape'), then the values
// (https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html).
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "host/core/result.h"
#include "host/data/field.h"

namespace lockstep {

struct NpyArray {
  ElementType type = ElementType::float32;
  Shape shape;         // the first is rows; none is zero
  SharedBytes values;  // C order, this machine's byte order
  int64_t rows() const { return shape[0]; }
};

bool is_npy(const SharedBytes& bytes);

// Versions 1 to 3. Values in C order stay where they are in `bytes`; those in Fortran order or of
// the other byte order are copied. Refuses objects (pickled Python is never read), structured
// types, text, dates and complex numbers by name. Takes memory for no more than `bytes` holds,
// whatever the header says. Errors begin with `called`, as in "'x.npy'" or "'x' of 'a.npz'".
Result<NpyArray> read_npy(const SharedBytes& bytes, const std::string& called);

// The header of float32 values in C order, version 1; the values follow.
std::string npy_header(const Shape& shape);
// Writes such a file, there completely or not at all.
Status write_npy(const std::string& path, const Shape& shape, std::span<const float> values);

}  // namespace lockstep
