#include "host/core/files.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <system_error>

#include "host/core/file_system.h"

namespace lockstep {

std::string errno_text() { return std::generic_category().message(errno); }

Error file_error(const std::string& action, const std::string& path, const std::string& remedy) {
  return {fmt::format("cannot {} '{}': {}{}", action, path, errno_text(),
                      remedy.empty() ? "" : "; " + remedy)};
}

std::string write_remedy() {
  if (errno == ENOSPC || errno == EDQUOT)
    return "free some space on that disk, or choose another folder";
  if (errno == EACCES || errno == EROFS) return "choose a folder that this user may write";
  return "";
}

Result<std::string> read_file(const std::string& path) { return PosixFileSystem().read(path); }

Status write_file_atomically(const std::string& path, std::string_view contents) {
  return PosixFileSystem().write_atomically(path, contents);
}

Status make_writable_folder(const std::string& path) {
  LOCKSTEP_RETURN_IF_ERROR(PosixFileSystem().make_folders(path));
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
  if (descriptor < 0) return file_error("open the lock", path, write_remedy());
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
