// Data sets in memory: images with integer classes.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "host/core/result.h"
#include "host/tensor/shape.h"

namespace lockstep {

// Rows of unsigned bytes with a class each. Immutable once made.
struct Dataset {
  std::string name;             // for messages
  Shape row_shape;              // (height, width, channels)
  int64_t classes = 0;          // labels are below it
  std::vector<uint8_t> pixels;  // rows x element_count(row_shape)
  std::vector<uint8_t> labels;  // one a row
  std::string digest;           // SHA-256 over the manifest: files, their rows and digests
  int64_t rows() const { return static_cast<int64_t>(labels.size()); }
};

enum class Split { train, test };

// `spec` is a folder that holds IDX files (plain or gzip, the usual MNIST names), or "digits", or
// "digits:ROWS" (training rows; a sixth as many test rows); a folder called digits is "./digits".
// A folder's classes are its greatest training label + 1, and at least 2; where it has test files
// alone, those decide. Errors name the file, what is wrong with it and the remedy; an unknown name
// is a usage error.
Result<Dataset> load_dataset(const std::string& spec, Split split);

// A part of a data set: rows [begin, end).
struct RowRange {
  int64_t begin = 0;
  int64_t end = 0;
  int64_t size() const { return end - begin; }
};

// Training and validation rows of a data set of `rows` rows: the last `validation_split` share is
// held out before any shuffle, as Keras does (the cut is at int(rows * (1 - split))).
struct ValidationCut {
  RowRange train;
  RowRange validation;
};
ValidationCut cut_validation(int64_t rows, double validation_split);

}  // namespace lockstep
