#include "host/data/dataset.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>

#include "host/core/check.h"
#include "host/core/files.h"
#include "host/core/suggest.h"
#include "host/data/digits.h"
#include "host/data/idx.h"
#include "host/data/manifest.h"

namespace lockstep {
namespace {

const char* prefix_of(Split split) { return split == Split::train ? "train" : "t10k"; }

// The names that a file goes by, the usual one first; each may end in .gz.
std::vector<std::string> file_names(Split split, IdxKind kind) {
  const char* prefix = prefix_of(split);
  if (kind == IdxKind::labels) {
    return {fmt::format("{}-labels-idx1-ubyte", prefix),
            fmt::format("{}-labels.idx1-ubyte", prefix)};
  }
  return {fmt::format("{}-images-idx3-ubyte", prefix), fmt::format("{}-images.idx3-ubyte", prefix),
          fmt::format("{}-images-idx4-ubyte", prefix), fmt::format("{}-images.idx4-ubyte", prefix)};
}

// The path of a file under any of its names, or "". A plain file goes before a gzip one.
std::string find_file(const std::string& folder, Split split, IdxKind kind) {
  for (const char* ending : {"", ".gz"}) {
    for (const std::string& name : file_names(split, kind)) {
      const std::string path = fmt::format("{}/{}{}", folder, name, ending);
      if (file_exists(path)) return path;
    }
  }
  return "";
}

Result<std::string> require_file(const std::string& folder, Split split, IdxKind kind) {
  const std::string path = find_file(folder, split, kind);
  if (!path.empty()) return path;
  return Error{fmt::format(
      "no {} {} in '{}': looked for {}, each also with .gz; put the file "
      "there or name another folder",
      split == Split::train ? "training" : "test", kind == IdxKind::images ? "images" : "labels",
      folder, fmt::join(file_names(split, kind), ", "))};
}

int64_t classes_of(const std::vector<uint8_t>& labels) {
  return std::max<int64_t>(2, *std::max_element(labels.begin(), labels.end()) + 1);
}

// The training labels decide, so that both splits agree; a folder with test files alone has only
// those to go by.
Result<int64_t> count_classes(const std::string& folder, Split split,
                              const std::vector<uint8_t>& labels) {
  const std::string path = find_file(folder, Split::train, IdxKind::labels);
  if (split == Split::train || path.empty()) return classes_of(labels);
  LOCKSTEP_ASSIGN(const IdxArray training, read_idx(path, IdxKind::labels));
  return classes_of(training.values);
}

Status check_labels(const std::string& path, const std::vector<uint8_t>& labels, int64_t classes) {
  const auto bad = std::find_if(labels.begin(), labels.end(),
                                [classes](uint8_t label) { return label >= classes; });
  if (bad == labels.end()) return {};
  return Error{
      fmt::format("row {} of '{}' has the label {}, and the training labels beside it "
                  "have the {} classes 0 to {}; check that the files belong together",
                  bad - labels.begin(), path, *bad, classes, classes - 1)};
}

Result<Dataset> load_folder(const std::string& folder, Split split) {
  LOCKSTEP_ASSIGN(const std::string images_path, require_file(folder, split, IdxKind::images));
  LOCKSTEP_ASSIGN(const std::string labels_path, require_file(folder, split, IdxKind::labels));
  LOCKSTEP_ASSIGN(IdxArray labels, read_idx(labels_path, IdxKind::labels));
  LOCKSTEP_ASSIGN(IdxArray images, read_idx(images_path, IdxKind::images));
  if (images.rows() != labels.rows()) {
    return Error{
        fmt::format("'{}' holds {} images and '{}' {} labels; check that the files belong "
                    "together",
                    images_path, images.rows(), labels_path, labels.rows())};
  }
  Dataset dataset;
  dataset.name = folder;
  dataset.row_shape.assign(images.dimensions.begin() + 1, images.dimensions.end());
  if (dataset.row_shape.size() == 2) dataset.row_shape.push_back(1);
  LOCKSTEP_ASSIGN(dataset.classes, count_classes(folder, split, labels.values));
  LOCKSTEP_RETURN_IF_ERROR(check_labels(labels_path, labels.values, dataset.classes));
  dataset.digest =
      manifest_digest({{fmt::format("{}-images", prefix_of(split)), images.rows(), images.sha256},
                       {fmt::format("{}-labels", prefix_of(split)), labels.rows(), labels.sha256}});
  dataset.pixels = std::move(images.values);
  dataset.labels = std::move(labels.values);
  return dataset;
}

Error unknown_data(const std::string& spec) {
  if (file_exists(spec)) {
    return usage_error(
        fmt::format("data set '{}' is a file; name the folder that holds the "
                    "images and labels",
                    spec));
  }
  const std::string nearest = nearest_name(spec.substr(0, spec.find(':')), {"digits"});
  const std::string hint = nearest.empty() ? "" : fmt::format("; did you mean '{}'?", nearest);
  return usage_error(
      fmt::format("no data set '{}': it is neither a folder nor the generated data "
                  "set digits or digits:ROWS{}",
                  spec, hint));
}

}  // namespace

Result<Dataset> load_dataset(const std::string& spec, Split split) {
  // Before folders, so that what a name means does not depend on where a node was started.
  if (spec == "digits" || spec.starts_with("digits:")) {
    LOCKSTEP_ASSIGN(const int64_t rows, digits_training_rows(spec));
    return make_digits(rows, split);
  }
  if (folder_exists(spec)) return load_folder(spec, split);
  return unknown_data(spec);
}

ValidationCut cut_validation(int64_t rows, double validation_split) {
  LOCKSTEP_CHECK(rows >= 0 && 0.0 <= validation_split && validation_split <= 1.0);
  const double cut = std::floor(static_cast<double>(rows) * (1.0 - validation_split));
  const int64_t split_at = static_cast<int64_t>(cut);
  return {{0, split_at}, {split_at, rows}};
}

}  // namespace lockstep
