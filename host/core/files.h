// Files: whole reads, and writes that are either there completely or not at all. What must survive
// a crash goes through file_system.h, which these are short forms of.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <utility>

#include "host/core/result.h"

namespace lockstep {

Result<std::string> read_file(const std::string& path);

// FileSystem::write_atomically on the machine's files.
Status write_file_atomically(const std::string& path, std::string_view contents);

// Makes the folder and its parents. Fails, naming the folder, where it is not writable.
Status make_writable_folder(const std::string& path);

bool file_exists(const std::string& path);
bool folder_exists(const std::string& path);

// "No such file or directory", for the calling thread's errno.
std::string errno_text();
// "cannot ACTION 'PATH': No such file or directory; REMEDY", for that errno too.
Error file_error(const std::string& action, const std::string& path,
                 const std::string& remedy = "");
// What to do about the errno of a write; empty where there is nothing to say.
std::string write_remedy();

// A lock that the process holds until it ends; a second process is refused.
class FileLock {
 public:
  static Result<FileLock> acquire(const std::string& path, const std::string& what);
  FileLock(FileLock&& other) noexcept : descriptor_(std::exchange(other.descriptor_, -1)) {}
  FileLock& operator=(FileLock&& other) noexcept {
    std::swap(descriptor_, other.descriptor_);
    return *this;
  }
  ~FileLock();

 private:
  explicit FileLock(int descriptor) : descriptor_(descriptor) {}
  int descriptor_;
};

}  // namespace lockstep
