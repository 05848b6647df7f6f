#include "host/data/dataset.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string_view>

#include "host/core/check.h"
#include "host/core/files.h"
#include "host/core/suggest.h"
#include "host/data/array_data.h"
#include "host/data/csv.h"
#include "host/data/digits.h"
#include "host/data/idx_folder.h"
#include "host/data/manifest.h"
#include "host/data/npy.h"
#include "host/data/zip_archive.h"

namespace lockstep {
namespace {

constexpr double kClassesEnd = 2147483648.0;  // 2^31: classes are int32
constexpr size_t kLookedAtBytes = 4096;

// --- assembling ---

int64_t count_classes(const Field& target) {
  if (target.features() != 1) return 0;
  double greatest = 1;
  const int64_t rows = target.rows();
  for (int64_t row = 0; row < rows; ++row) {
    const double value = target.value(row);
    if (!(value >= 0 && value < kClassesEnd) || value != std::floor(value)) return 0;
    greatest = std::max(greatest, value);
  }
  return static_cast<int64_t>(greatest) + 1;
}

Status check_rows(const Dataset& dataset, const Field& field) {
  const Field& first = dataset.inputs[0];
  if (field.rows() != first.rows()) {
    return Error{fmt::format("'{}': '{}' has {} rows and '{}' {}; check that they belong together",
                             dataset.name, first.name, first.rows(), field.name, field.rows())};
  }
  if (field.rows() > UINT32_MAX) {
    return Error{fmt::format("'{}' has {} rows, and at most {} can be numbered; give fewer",
                             dataset.name, field.rows(), UINT32_MAX)};
  }
  return {};
}

int64_t set_offsets(std::vector<Field>* fields) {
  int64_t offset = 0;
  for (Field& field : *fields) {
    field.offset = offset;
    offset += field.features();
  }
  return offset;
}

template <class T>
SharedBytes bytes_of(std::vector<T> values) {
  const auto owner = std::make_shared<const std::vector<T>>(std::move(values));
  return {owner, reinterpret_cast<const uint8_t*>(owner->data()), owner->size() * sizeof(T)};
}

// --- kinds of data ---

Error unknown_data(const std::string& spec) {
  const std::string nearest = nearest_name(spec.substr(0, spec.find(':')), {"digits"});
  const std::string hint = nearest.empty() ? "" : fmt::format("; did you mean '{}'?", nearest);
  return usage_error(
      fmt::format("no data set '{}': it is neither a file nor a folder nor the generated data "
                  "set digits or digits:ROWS{}",
                  spec, hint));
}

// Those that say how to read a file that has no place for them.
Status refuse_options(const std::string& spec, const DataOptions& options, bool takes_names) {
  if (options.missing) {
    return usage_error(
        fmt::format("--missing is for CSV files, and '{}' is none: leave it out", spec));
  }
  if (!takes_names && !options.targets.empty()) {
    return usage_error(fmt::format(
        "--target names columns or arrays, and '{}' has images and labels: leave it out", spec));
  }
  return {};
}

Result<Dataset> load_folder(const std::string& folder, Split split, const DataOptions& options) {
  const bool arrays = has_npy_files(folder);
  LOCKSTEP_RETURN_IF_ERROR(refuse_options(folder, options, arrays));
  if (!arrays) return load_idx_folder(folder, split);
  if (has_idx_files(folder)) {
    return Error{
        fmt::format("'{}' holds IDX and NPY files; put them into folders of their own", folder)};
  }
  return load_npy_folder(folder, split, options);
}

Result<Dataset> load_csv(const std::string& path, const DataOptions& options) {
  LOCKSTEP_ASSIGN(CsvTable table, read_csv(path, options));
  Dataset dataset;
  dataset.name = path;
  const auto features = static_cast<int64_t>(table.inputs.size());
  dataset.inputs.push_back({"x", {features}, 0, ElementType::float32});
  dataset.inputs[0].values = bytes_of(std::move(table.input_values));
  // A field each, since a model may have outputs of these names; side by side all the same.
  const size_t targets = table.targets.size();
  for (size_t i = 0; i < targets; ++i) {
    std::vector<double> values;
    for (size_t at = i; at < table.target_values.size(); at += targets) {
      values.push_back(table.target_values[at]);
    }
    dataset.targets.push_back({table.targets[i], {}, 0, ElementType::float64});
    dataset.targets.back().values = bytes_of(std::move(values));
  }
  if (table.has_weights) {
    dataset.weights.push_back({"sample_weight", {}, 0, ElementType::float32});
    dataset.weights[0].values = bytes_of(std::move(table.weights));
  }
  dataset.digest = manifest_digest({{"csv", table.rows, table.sha256}});
  return assemble_dataset(std::move(dataset));
}

std::string shown_bytes(const SharedBytes& bytes) {
  std::string text;
  for (size_t i = 0; i < std::min<size_t>(8, bytes.size()); ++i) {
    text += fmt::format("{}{:02x}", i == 0 ? "" : " ", bytes.data()[i]);
  }
  return text;
}

Result<Dataset> load_file(const std::string& path, Split split, const DataOptions& options) {
  LOCKSTEP_ASSIGN(const SharedBytes bytes, map_file(path));
  if (bytes.size() == 0) return Error{fmt::format("'{}' is empty; write it again", path)};
  if (is_zip(bytes)) {
    LOCKSTEP_RETURN_IF_ERROR(refuse_options(path, options, true));
    return load_npz(path, bytes, split, options);
  }
  if (is_npy(bytes)) {
    return usage_error(
        fmt::format("data set '{}' is one array, and inputs and targets are two: name the folder "
                    "that holds x.npy and y.npy, or an NPZ file of both",
                    path));
  }
  const uint8_t* data = bytes.data();
  const bool gzip = bytes.size() >= 2 && data[0] == 0x1f && data[1] == 0x8b;
  if (bytes.size() >= 4 && data[0] == 0 && data[1] == 0) {
    return usage_error(fmt::format(
        "data set '{}' is a file; name the folder that holds the images and labels", path));
  }
  const size_t looked_at = std::min(bytes.size(), kLookedAtBytes);
  if (!gzip && std::memchr(data, 0, looked_at) != nullptr) {
    return usage_error(
        fmt::format("data set '{}' is of no kind that can be read: it begins with {}; give a CSV "
                    "or NPZ file, or a folder of IDX or NPY files",
                    path, shown_bytes(bytes)));
  }
  return load_csv(path, options);
}

}  // namespace

int64_t Dataset::features() const {
  return inputs.empty() ? 0 : inputs.back().offset + inputs.back().features();
}

int64_t Dataset::target_features() const {
  return targets.empty() ? 0 : targets.back().offset + targets.back().features();
}

int64_t classes_of(const Dataset& dataset, size_t target) {
  return dataset.targets.size() == 1 ? dataset.classes : count_classes(dataset.targets[target]);
}

Result<Dataset> assemble_dataset(Dataset parts) {
  LOCKSTEP_CHECK(!parts.inputs.empty());
  for (const Field& field : parts.inputs) LOCKSTEP_RETURN_IF_ERROR(check_rows(parts, field));
  for (const Field& field : parts.targets) LOCKSTEP_RETURN_IF_ERROR(check_rows(parts, field));
  for (const Field& weights : parts.weights) {
    LOCKSTEP_RETURN_IF_ERROR(check_rows(parts, weights));
  }
  const int64_t features = set_offsets(&parts.inputs);
  set_offsets(&parts.targets);
  parts.row_shape = parts.inputs.size() == 1 ? parts.inputs[0].row_shape : Shape{features};
  if (parts.row_shape.empty()) parts.row_shape = {1};  // Keras too makes (rows) to (rows, 1)
  parts.classes = parts.targets.size() == 1 ? count_classes(parts.targets[0]) : 0;
  return parts;
}

Dataset make_dataset(Images images) {
  Dataset dataset;
  dataset.name = std::move(images.name);
  dataset.row_shape = images.row_shape;
  dataset.classes = images.classes;
  dataset.digest = std::move(images.digest);
  dataset.inputs.push_back({"x", std::move(images.row_shape), 0, ElementType::uint8, true});
  dataset.inputs[0].values = SharedBytes(std::move(images.pixels));
  dataset.targets.push_back({"y", {}, 0, ElementType::uint8});
  dataset.targets[0].values = SharedBytes(std::move(images.labels));
  return dataset;
}

Result<Dataset> load_dataset(const std::string& spec, Split split, const DataOptions& options) {
  // Before folders, so that what a name means does not depend on where a node was started.
  if (spec == "digits" || spec.starts_with("digits:")) {
    LOCKSTEP_RETURN_IF_ERROR(refuse_options(spec, options, false));
    LOCKSTEP_ASSIGN(const int64_t rows, digits_training_rows(spec));
    return make_digits(rows, split);
  }
  if (folder_exists(spec)) return load_folder(spec, split, options);
  if (file_exists(spec)) return load_file(spec, split, options);
  return unknown_data(spec);
}

ValidationCut cut_validation(int64_t rows, double validation_split) {
  LOCKSTEP_CHECK(rows >= 0 && 0.0 <= validation_split && validation_split <= 1.0);
  const double cut = std::floor(static_cast<double>(rows) * (1.0 - validation_split));
  const int64_t split_at = static_cast<int64_t>(cut);
  return {{0, split_at}, {split_at, rows}};
}

}  // namespace lockstep
