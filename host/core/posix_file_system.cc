#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <random>

#include "host/core/file_system.h"
#include "host/core/files.h"

namespace lockstep {
namespace {

Error write_error(const std::string& path) { return file_error("write", path, write_remedy()); }

class Descriptor {
 public:
  explicit Descriptor(int value) : value_(value) {}
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor() {
    if (value_ >= 0) ::close(value_);
  }
  int get() const { return value_; }
  bool ok() const { return value_ >= 0; }

 private:
  int value_;
};

class PosixAppendFile : public AppendFile {
 public:
  PosixAppendFile(int descriptor, std::string called)
      : descriptor_(descriptor), called_(std::move(called)) {}

 private:
  Status do_append(std::string_view bytes) override {
    while (!bytes.empty()) {
      const ssize_t written = ::write(descriptor_.get(), bytes.data(), bytes.size());
      if (written < 0 && errno == EINTR) continue;
      if (written <= 0) return write_error(called_);
      bytes.remove_prefix(static_cast<size_t>(written));
    }
    return {};
  }
  Status do_sync() override {
    if (::fsync(descriptor_.get()) != 0) return write_error(called_);
    return {};
  }

  Descriptor descriptor_;
  std::string called_;
};

}  // namespace

Status PosixFileSystem::read(const std::string& path, const Sink& sink) {
  const Descriptor descriptor(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!descriptor.ok()) return file_error("read", path);
  char buffer[1 << 16];
  while (true) {
    const ssize_t count = ::read(descriptor.get(), buffer, sizeof(buffer));
    if (count == 0) return {};
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return file_error("read", path);
    LOCKSTEP_RETURN_IF_ERROR(sink({buffer, static_cast<size_t>(count)}));
  }
}

Result<std::optional<uint64_t>> PosixFileSystem::size_of(const std::string& path) {
  struct stat info {};
  if (::stat(path.c_str(), &info) != 0) {
    if (errno == ENOENT || errno == ENOTDIR) return std::optional<uint64_t>();
    return file_error("read", path);
  }
  return std::optional<uint64_t>(static_cast<uint64_t>(info.st_size));
}

Result<std::vector<std::string>> PosixFileSystem::list(const std::string& folder) {
  std::error_code code;
  std::vector<std::string> names;
  std::filesystem::directory_iterator entry(folder, code);
  while (!code && entry != std::filesystem::directory_iterator()) {
    std::error_code of_entry;  // an entry that went away meanwhile is no file
    if (entry->is_regular_file(of_entry)) names.push_back(entry->path().filename().string());
    entry.increment(code);
  }
  if (code) {
    errno = code.value();
    return file_error("read the folder", folder);
  }
  std::sort(names.begin(), names.end());
  return names;
}

Result<std::unique_ptr<AppendFile>> PosixFileSystem::open_append(const std::string& path,
                                                                 const std::string& called) {
  const int descriptor = ::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (descriptor < 0) return write_error(called);
  return std::unique_ptr<AppendFile>(std::make_unique<PosixAppendFile>(descriptor, called));
}

Status PosixFileSystem::rename(const std::string& from, const std::string& to) {
  if (::rename(from.c_str(), to.c_str()) != 0) return write_error(to);
  return {};
}

Status PosixFileSystem::remove(const std::string& path) {
  if (::unlink(path.c_str()) != 0 && errno != ENOENT) {
    return file_error("remove", path, write_remedy());
  }
  return {};
}

Status PosixFileSystem::make_folder(const std::string& folder, const std::string& called) {
  if (::mkdir(folder.c_str(), 0755) == 0) return {};
  const int mkdir_errno = errno;
  if (folder_exists(folder)) return {};
  errno = mkdir_errno == EEXIST ? ENOTDIR : mkdir_errno;
  return file_error("make the folder", called, "choose a folder that this user may write");
}

Status PosixFileSystem::do_sync_folder(const std::string& folder) {
  const Descriptor descriptor(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!descriptor.ok()) {
    // Where this user may not write there is nothing of ours to sync.
    if (errno == EACCES && ::access(folder.c_str(), W_OK) != 0) return {};
    return file_error("sync the folder", folder);
  }
  if (::fsync(descriptor.get()) == 0) return {};
  if (errno == EINVAL || errno == EROFS) return {};  // a file system without such a thing
  return file_error("sync the folder", folder);
}

std::string PosixFileSystem::unique_name() {
  std::random_device random;
  return fmt::format("{}-{:08x}{:08x}", ::getpid(), random(), random());
}

}  // namespace lockstep
