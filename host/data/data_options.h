// How a data set is read.
#pragma once

#include <optional>
#include <string>
#include <vector>

namespace lockstep {

struct DataOptions {
  // Names of arrays or columns, in the order in which they stand beside each other in a row.
  // Without names of targets: the last column of a CSV file; y of arrays. Without names of inputs:
  // all columns that are neither targets nor weights; x of arrays, or where targets are named all
  // that are not, sorted by name. Where inputs are named, as a model does, an only one of them may
  // be called x in the file all the same, and an only target y.
  std::vector<std::string> inputs;
  std::vector<std::string> targets;
  std::optional<double> missing;  // stands for missing values of inputs; nothing: they are refused
  bool needs_targets = true;      // arrays without targets are refused
  bool operator==(const DataOptions&) const = default;
};

}  // namespace lockstep
