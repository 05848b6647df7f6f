// Comma-separated values with a header of names (RFC 4180), plain or gzip by content.
#pragma once

#include <string>
#include <vector>

#include "host/core/result.h"
#include "host/data/data_options.h"
#include "host/data/field.h"

namespace lockstep {

// What a file gives: its numbers, one row a line.
struct CsvTable {
  std::vector<std::string> inputs;   // names of columns
  std::vector<std::string> targets;  // as in the options, or the last column
  bool has_weights = false;          // a column called sample_weight
  int64_t rows = 0;
  std::vector<float> input_values;    // rows x inputs
  std::vector<double> target_values;  // rows x targets
  std::vector<float> weights;         // one a row
  std::string sha256;                 // of the file's bytes, inflated
};

// A column holds numbers, or it holds true and false (1 and 0), and nothing else. A field without
// content, or NA, N/A, NaN, null or None, is missing: refused, or options.missing in its place; in
// targets and weights always refused. Lines without content are passed over. Errors name the file,
// the line, the column and the remedy.
Result<CsvTable> read_csv(const std::string& path, const DataOptions& options);

}  // namespace lockstep
