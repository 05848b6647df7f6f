#include "host/core/files.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <system_error>

namespace lockstep {
namespace {

Error file_error(const std::string& action, const std::string& path, const std::string& remedy) {
  return {fmt::format("cannot {} '{}': {}{}", action, path, errno_text(),
                      remedy.empty() ? "" : "; " + remedy)};
}

Status write_all(int descriptor, std::string_view contents) {
  while (!contents.empty()) {
    const ssize_t written = ::write(descriptor, contents.data(), contents.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return Error{errno_text()};
    contents.remove_prefix(static_cast<size_t>(written));
  }
  return {};
}

std::string remedy_for_write() {
  if (errno == ENOSPC) return "free some space on that disk, or choose another folder";
  if (errno == EACCES || errno == EROFS) return "choose a folder that this user may write";
  return "";
}

void sync_folder_of(const std::string& path) {
  const std::string folder = std::filesystem::path(path).parent_path().string();
  const int descriptor = ::open(folder.empty() ? "." : folder.c_str(), O_RDONLY | O_DIRECTORY);
  if (descriptor < 0) return;
  ::fsync(descriptor);
  ::close(descriptor);
}

}  // namespace

std::string errno_text() { return std::generic_category().message(errno); }

Result<std::string> read_file(const std::string& path) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) return file_error("read", path, "");
  std::string contents;
  struct stat info {};
  if (::fstat(descriptor, &info) == 0) contents.reserve(static_cast<size_t>(info.st_size));
  char buffer[1 << 16];
  ssize_t count = 0;
  while ((count = ::read(descriptor, buffer, sizeof(buffer))) != 0) {
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) break;
    contents.append(buffer, static_cast<size_t>(count));
  }
  const int read_errno = errno;
  ::close(descriptor);
  errno = read_errno;
  if (count < 0) return file_error("read", path, "");
  return contents;
}

Status write_file_atomically(const std::string& path, std::string_view contents) {
  const std::string temporary = fmt::format("{}.{}.tmp", path, ::getpid());
  const int descriptor = ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (descriptor < 0) return file_error("write", path, remedy_for_write());
  const bool ok = write_all(descriptor, contents).ok() && ::fsync(descriptor) == 0;
  const int write_errno = errno;
  ::close(descriptor);
  errno = write_errno;
  if (!ok || ::rename(temporary.c_str(), path.c_str()) != 0) {
    const Error error = file_error("write", path, remedy_for_write());
    ::unlink(temporary.c_str());
    return error;
  }
  sync_folder_of(path);
  return {};
}

Status make_writable_folder(const std::string& path) {
  std::error_code code;
  std::filesystem::create_directories(path, code);
  if (code) {
    return Error{
        fmt::format("cannot make the folder '{}': {}; choose a folder that this user may "
                    "write",
                    path, code.message())};
  }
  if (!folder_exists(path)) return Error{fmt::format("'{}' is not a folder", path)};
  if (::access(path.c_str(), W_OK | X_OK) != 0) {
    return file_error("write to the folder", path, "choose a folder that this user may write");
  }
  return {};
}

bool file_exists(const std::string& path) {
  std::error_code code;
  return std::filesystem::is_regular_file(path, code);
}

bool folder_exists(const std::string& path) {
  std::error_code code;
  return std::filesystem::is_directory(path, code);
}

Result<FileLock> FileLock::acquire(const std::string& path, const std::string& what) {
  const int descriptor = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (descriptor < 0) return file_error("open the lock", path, remedy_for_write());
  if (::flock(descriptor, LOCK_EX | LOCK_NB) != 0) {
    ::close(descriptor);
    return Error{
        fmt::format("{} is in use by another process (it holds '{}'); wait for it or "
                    "choose another",
                    what, path)};
  }
  return FileLock(descriptor);
}

FileLock::~FileLock() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

}  // namespace lockstep
