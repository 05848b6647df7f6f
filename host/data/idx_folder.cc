#include "host/data/idx_folder.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "host/core/files.h"
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

}  // namespace

bool has_idx_files(const std::string& folder) {
  for (const Split split : {Split::train, Split::test}) {
    for (const IdxKind kind : {IdxKind::images, IdxKind::labels}) {
      if (!find_file(folder, split, kind).empty()) return true;
    }
  }
  return false;
}

Result<Dataset> load_idx_folder(const std::string& folder, Split split) {
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
  Images result;
  result.name = folder;
  result.row_shape.assign(images.dimensions.begin() + 1, images.dimensions.end());
  if (result.row_shape.size() == 2) result.row_shape.push_back(1);
  LOCKSTEP_ASSIGN(result.classes, count_classes(folder, split, labels.values));
  LOCKSTEP_RETURN_IF_ERROR(check_labels(labels_path, labels.values, result.classes));
  result.digest =
      manifest_digest({{fmt::format("{}-images", prefix_of(split)), images.rows(), images.sha256},
                       {fmt::format("{}-labels", prefix_of(split)), labels.rows(), labels.sha256}});
  result.pixels = std::move(images.values);
  result.labels = std::move(labels.values);
  return make_dataset(std::move(result));
}

}  // namespace lockstep
