#include "host/train/prediction_file.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <filesystem>
#include <span>

#include "host/core/file_system.h"
#include "host/core/files.h"
#include "host/data/npy.h"
#include "host/data/zip_writer.h"

namespace lockstep {
namespace {

constexpr int64_t kFloatBytes = sizeof(float);
constexpr size_t kSavedPiece = 4 << 20;
constexpr int64_t kMostOfNpz = (int64_t{1} << 32) - (1 << 20);  // ZIP's 4 GiB, less what is around

std::string_view view_of(const SharedBytes& bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

Status check_size(const std::string& path, int64_t bytes) {
  if (!path.ends_with(".npz") || bytes <= kMostOfNpz) return {};
  return usage_error(
      fmt::format("--output {}: the predictions are {} bytes, and an .npz file holds 4 GiB: "
                  "predict fewer rows at a time, or write .npy where there is one output",
                  path, bytes));
}

}  // namespace

Status PredictionFile::check_name(const std::string& path) {
  for (const char* ending : {".npy", ".csv", ".npz"}) {
    if (path.ends_with(ending)) return {};
  }
  return usage_error("--output: give a file that ends in .npy, .csv or .npz");
}

Result<std::unique_ptr<PredictionFile>> PredictionFile::create(
    const std::string& path, const std::vector<std::string>& names,
    const std::vector<Shape>& shapes, int64_t rows) {
  LOCKSTEP_RETURN_IF_ERROR(check_name(path));
  if (!path.ends_with(".npz") && shapes.size() != 1) {
    return usage_error(fmt::format(
        "--output: the model has {} outputs ({}), which a file that ends in .npz can hold",
        shapes.size(), fmt::join(names, ", ")));
  }
  if (folder_exists(path)) {
    return usage_error(fmt::format("--output {}: it is a folder; give a file", path));
  }
  int64_t total = 0;
  for (const Shape& shape : shapes) total += rows * element_count(shape) * kFloatBytes;
  LOCKSTEP_RETURN_IF_ERROR(check_size(path, total));
  std::vector<Output> outputs;
  for (size_t i = 0; i < shapes.size(); ++i) {
    Shape shape = {rows};
    shape.insert(shape.end(), shapes[i].begin(), shapes[i].end());
    std::string header = npy_header(shape);
    LOCKSTEP_ASSIGN(
        ScratchFile file,
        ScratchFile::create(folder_of(path),
                            std::ssize(header) + element_count(shape) * kFloatBytes, path));
    LOCKSTEP_RETURN_IF_ERROR(file.write(0, header));
    outputs.push_back({names.at(i), element_count(shapes[i]), std::move(header), std::move(file)});
  }
  return std::unique_ptr<PredictionFile>(new PredictionFile(path, std::move(outputs)));
}

Status PredictionFile::write(int array, int64_t offset, std::string_view bytes) {
  Output& output = outputs_.at(static_cast<size_t>(array));
  return output.file.write(std::ssize(output.header) + offset, bytes);
}

Status PredictionFile::save(const std::function<Status()>& go_on) const {
  PosixFileSystem files;
  LOCKSTEP_ASSIGN(NewFile file, files.create(folder_of(path_), path_));
  const auto append = [&](std::string_view bytes) -> Status {
    for (; !bytes.empty(); bytes.remove_prefix(std::min(bytes.size(), kSavedPiece))) {
      LOCKSTEP_RETURN_IF_ERROR(go_on());
      LOCKSTEP_RETURN_IF_ERROR(file.append(bytes.substr(0, kSavedPiece)));
    }
    return {};
  };
  if (path_.ends_with(".npz")) {
    LOCKSTEP_RETURN_IF_ERROR(write_npz(append));
  } else if (path_.ends_with(".csv")) {
    LOCKSTEP_RETURN_IF_ERROR(write_csv(append));
  } else {
    LOCKSTEP_ASSIGN(const SharedBytes bytes, outputs_[0].file.map());
    LOCKSTEP_RETURN_IF_ERROR(append(view_of(bytes)));
  }
  LOCKSTEP_RETURN_IF_ERROR(go_on());
  return file.commit(std::filesystem::path(path_).filename().string());
}

Status PredictionFile::write_npz(const Append& append) const {
  std::vector<SharedBytes> arrays;
  std::vector<NewZipMember> members;
  for (const Output& output : outputs_) {
    LOCKSTEP_ASSIGN(SharedBytes bytes, output.file.map());
    members.push_back({output.name + ".npy", view_of(bytes)});
    arrays.push_back(std::move(bytes));
  }
  return write_zip(members, append);
}

Status PredictionFile::write_csv(const Append& append) const {
  const Output& output = outputs_[0];
  LOCKSTEP_ASSIGN(const SharedBytes bytes, output.file.map());
  const std::string_view values = view_of(bytes).substr(output.header.size());
  const std::span<const float> numbers(reinterpret_cast<const float*>(values.data()),
                                       values.size() / sizeof(float));
  const auto features = static_cast<size_t>(output.features);
  std::string text;
  for (size_t i = 0; i < features; ++i) text += fmt::format("{}y{}", i == 0 ? "" : ",", i);
  text += '\n';
  for (size_t i = 0; i < numbers.size(); ++i) {
    text += fmt::format("{}{}", numbers[i], (i + 1) % features == 0 ? '\n' : ',');
    if (text.size() < kSavedPiece) continue;
    LOCKSTEP_RETURN_IF_ERROR(append(text));
    text.clear();
  }
  return append(text);
}

}  // namespace lockstep
