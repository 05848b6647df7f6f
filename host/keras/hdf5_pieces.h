// Arrays of HDF5 files that are stored in pieces of one shape, which may be compressed: what h5py
// writes where it is told `chunks` or `compression="gzip"`.
#pragma once

#include <string_view>

#include "host/core/result.h"
#include "host/data/shared_bytes.h"
#include "host/keras/hdf5_image.h"

namespace lockstep {

// The whole array of `shape` whose elements have `element_bytes`, assembled. `layout` is the
// content of its layout message: version 3, of pieces in a tree. Pieces are plain, shuffled,
// deflated or both. Memory is taken only where the file holds all pieces, and at most what these
// can hold deflated. Errors say what is wrong with the array, as "is …".
Result<SharedBytes> read_hdf5_pieces(const Hdf5Image& image, const Hdf5Object& array,
                                     std::string_view layout, const Shape& shape,
                                     size_t element_bytes);

}  // namespace lockstep
