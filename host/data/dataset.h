// Data sets: rows of inputs with targets, in memory or in mapped files.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "host/core/result.h"
#include "host/data/data_options.h"
#include "host/data/field.h"
#include "host/tensor/shape.h"

namespace lockstep {

// Immutable once made. A row's inputs lie side by side, and so do its targets.
struct Dataset {
  std::string name;     // for messages
  Shape row_shape;      // of the only input; (features) where there are several
  int64_t classes = 0;  // targets are whole numbers below it; 0: they are no classes
  std::vector<Field> inputs;
  std::vector<Field> targets;
  // None, a field for all targets, or one for each. A row has one weight, or one for each position.
  std::vector<Field> weights;
  std::string digest;  // SHA-256 over the manifest: files, their rows and digests

  int64_t rows() const { return inputs.empty() ? 0 : inputs[0].rows(); }
  int64_t features() const;
  int64_t target_features() const;
};

// Of one of the targets: the greatest + 1 where they are whole numbers in [0, 2^31), one a row;
// else 0.
int64_t classes_of(const Dataset& dataset, size_t target);

enum class Split { train, test, validation };

// `spec` is "digits" or "digits:ROWS" (training rows; a sixth as many test rows; a folder called
// digits is "./digits"), or a path whose content says what it is:
// - a folder that holds IDX files (plain or gzip, the usual MNIST names). Bytes are scaled to
//   [0, 1]. Classes are the greatest training label + 1, and at least 2; where it has test files
//   alone, those decide.
// - a folder of NPY files, or an NPZ file: x and y, x_train and y_train, x_test and y_test, x_val
//   and y_val, or the names that the options give, each alone or with such an ending; and
//   sample_weight, or of several targets <target>_sample_weight for each. Values are fed as Keras
//   does: as float32, not scaled.
// - a CSV file, plain or gzip.
// Validation rows are those of x_val, else the test rows. A file without splits serves for each.
// Targets that are whole numbers in [0, 2^31), one a row, are classes too.
// Errors name the file, what is wrong with it and the remedy; an unknown name is a usage error.
Result<Dataset> load_dataset(const std::string& spec, Split split, const DataOptions& options = {});

// Images of bytes, scaled to [0, 1], with a class each.
struct Images {
  std::string name;
  Shape row_shape;  // (height, width, channels)
  int64_t classes = 0;
  std::vector<uint8_t> pixels;  // rows x element_count(row_shape)
  std::vector<uint8_t> labels;  // one a row
  std::string digest;
};
Dataset make_dataset(Images images);

// Sets offsets, the row's shape and the classes. Refuses fields with different numbers of rows,
// and more rows than positions can be numbered.
Result<Dataset> assemble_dataset(Dataset parts);

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
