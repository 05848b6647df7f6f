#include "host/core/file_system.h"

#include <fmt/format.h>

#include <filesystem>

#include "host/core/planted.h"

namespace lockstep {
namespace {

constexpr std::string_view kTemporaryPrefix = "lockstep-";
constexpr std::string_view kTemporarySuffix = ".tmp";

std::string join(const std::string& folder, std::string_view name) {
  if (folder == ".") return std::string(name);
  return fmt::format("{}{}{}", folder, folder.ends_with('/') ? "" : "/", name);
}

}  // namespace

std::string folder_of(const std::string& path) {
  const std::string folder = std::filesystem::path(path).parent_path().string();
  return folder.empty() ? "." : folder;
}

Status AppendFile::keep_failure(Status status) {
  if (!status.ok()) failed_ = status.error();
  return status;
}

Status AppendFile::append(std::string_view bytes) {
  if (failed_) return *failed_;
  return keep_failure(do_append(bytes));
}

Status AppendFile::sync() {
  if (failed_) return *failed_;
  if (planted(Bug::fsync_retried) && do_sync().ok()) return {};
  return keep_failure(do_sync());
}

NewFile::~NewFile() {
  if (file_ == nullptr) return;
  // What cannot be removed now is removed by the next owner of the folder.
  static_cast<void>(files_->remove(path_));
}

Status NewFile::commit(const std::string& name) {
  LOCKSTEP_RETURN_IF_ERROR(file_->sync());
  LOCKSTEP_RETURN_IF_ERROR(files_->rename(path_, join(folder_, name)));
  file_ = nullptr;
  if (planted(Bug::rename_unsynced)) return {};
  return files_->sync_folder(folder_);
}

Status FileSystem::sync_folder(const std::string& folder) {
  {
    const std::lock_guard lock(mutex_);
    const auto failed = failed_folders_.find(folder);
    if (failed != failed_folders_.end()) return failed->second;
  }
  Status status = do_sync_folder(folder);
  if (!status.ok()) {
    const std::lock_guard lock(mutex_);
    failed_folders_.emplace(folder, status.error());
  }
  return status;
}

void FileSystem::forget_failures() {
  const std::lock_guard lock(mutex_);
  failed_folders_.clear();
}

Status FileSystem::make_folders(const std::string& folder) {
  std::filesystem::path path;
  for (const auto& part : std::filesystem::path(folder)) {
    if (part.empty()) continue;
    path /= part;
    LOCKSTEP_RETURN_IF_ERROR(make_folder(path.string(), folder));
    // A process may have died between making it and this.
    LOCKSTEP_RETURN_IF_ERROR(sync_folder(folder_of(path.string())));
  }
  return {};
}

Result<std::string> FileSystem::read(const std::string& path) {
  LOCKSTEP_ASSIGN(const auto size, size_of(path));
  std::string contents;
  contents.reserve(size.value_or(0));
  LOCKSTEP_RETURN_IF_ERROR(read(path, [&](std::string_view piece) -> Status {
    contents += piece;
    return {};
  }));
  return contents;
}

Result<NewFile> FileSystem::create(const std::string& folder, const std::string& called) {
  const std::string path =
      join(folder, fmt::format("{}{}{}", kTemporaryPrefix, unique_name(), kTemporarySuffix));
  LOCKSTEP_ASSIGN(auto file, open_append(path, called));
  return NewFile(*this, folder, path, std::move(file));
}

Status FileSystem::write_atomically(const std::string& path, std::string_view contents) {
  LOCKSTEP_ASSIGN(NewFile file, create(folder_of(path), path));
  LOCKSTEP_RETURN_IF_ERROR(file.append(contents));
  return file.commit(std::filesystem::path(path).filename().string());
}

Status FileSystem::remove_temporaries(const std::string& folder) {
  LOCKSTEP_ASSIGN(const auto names, list(folder));
  for (const std::string& name : names) {
    if (!name.starts_with(kTemporaryPrefix) || !name.ends_with(kTemporarySuffix)) continue;
    LOCKSTEP_RETURN_IF_ERROR(remove(join(folder, name)));
  }
  return {};
}

}  // namespace lockstep
