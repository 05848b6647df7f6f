// The part of a file system that state which must survive needs. Abstract, so that tests can stop
// it after any operation. What is made of several operations is written once, here.
// Errors name the file and say what the system said. Any thread; a file belongs to one thread.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "host/core/result.h"

namespace lockstep {

// A file that only grows. Its destructor closes it and syncs nothing.
// After the first failure it refuses everything: any part of the bytes may be in the file, and
// after a failed fsync the kernel takes for written what is not, so a second one would lie.
class AppendFile {
 public:
  virtual ~AppendFile() = default;
  Status append(std::string_view bytes);
  Status sync();

 private:
  virtual Status do_append(std::string_view bytes) = 0;
  virtual Status do_sync() = 0;
  Status keep_failure(Status status);

  std::optional<Error> failed_;
};

class FileSystem;

// A file under a temporary name, which its destructor removes unless it was committed.
class NewFile {
 public:
  NewFile(NewFile&&) noexcept = default;
  NewFile& operator=(NewFile&&) = delete;
  ~NewFile();
  Status append(std::string_view bytes) { return file_->append(bytes); }
  // Syncs, gives it its name in the folder (in place of a file of that name), syncs the folder.
  // Call once. After an error the file may be there or not.
  Status commit(const std::string& name);

 private:
  friend class FileSystem;
  NewFile(FileSystem& files, std::string folder, std::string path, std::unique_ptr<AppendFile> file)
      : files_(&files),
        folder_(std::move(folder)),
        path_(std::move(path)),
        file_(std::move(file)) {}

  FileSystem* files_;
  std::string folder_;
  std::string path_;
  std::unique_ptr<AppendFile> file_;
};

class FileSystem {
 public:
  using Sink = std::function<Status(std::string_view)>;

  FileSystem() = default;
  FileSystem(const FileSystem&) = delete;
  FileSystem& operator=(const FileSystem&) = delete;
  virtual ~FileSystem() = default;

  // Hands the file over in pieces; ends at the sink's first error, which it returns.
  virtual Status read(const std::string& path, const Sink& sink) = 0;
  // Bytes; nothing where there is no such file. An error where that cannot be told.
  virtual Result<std::optional<uint64_t>> size_of(const std::string& path) = 0;
  // The names of the files in the folder, sorted.
  virtual Result<std::vector<std::string>> list(const std::string& folder) = 0;
  // Makes the file where it is missing. Errors speak of `called`.
  virtual Result<std::unique_ptr<AppendFile>> open_append(const std::string& path,
                                                          const std::string& called) = 0;
  // Until sync_folder() these two may be undone by a crash. Removing what is not there is fine.
  virtual Status rename(const std::string& from, const std::string& to) = 0;
  virtual Status remove(const std::string& path) = 0;

  // Never tried again on a folder where it has failed once.
  Status sync_folder(const std::string& folder);
  // The folder and its parents, all synced, whoever made them.
  Status make_folders(const std::string& folder);
  Result<std::string> read(const std::string& path);
  Result<NewFile> create(const std::string& folder, const std::string& called);
  Status write_atomically(const std::string& path, std::string_view contents);
  // Never the same twice, in any process on any machine.
  virtual std::string unique_name() = 0;
  // What create() left behind in a process that died. Only for the one that owns the folder.
  Status remove_temporaries(const std::string& folder);

 protected:
  // For a test's file system, where a new process begins.
  void forget_failures();

 private:
  // One level; fine where it is there. Errors speak of `called`.
  virtual Status make_folder(const std::string& folder, const std::string& called) = 0;
  virtual Status do_sync_folder(const std::string& folder) = 0;

  std::mutex mutex_;
  std::map<std::string, Error> failed_folders_;
};

class PosixFileSystem : public FileSystem {
 public:
  using FileSystem::read;
  Status read(const std::string& path, const Sink& sink) override;
  Result<std::optional<uint64_t>> size_of(const std::string& path) override;
  Result<std::vector<std::string>> list(const std::string& folder) override;
  Result<std::unique_ptr<AppendFile>> open_append(const std::string& path,
                                                  const std::string& called) override;
  Status rename(const std::string& from, const std::string& to) override;
  Status remove(const std::string& path) override;
  std::string unique_name() override;

 private:
  Status make_folder(const std::string& folder, const std::string& called) override;
  Status do_sync_folder(const std::string& folder) override;
};

// "a/b" of "a/b/c", "." of "c".
std::string folder_of(const std::string& path);

}  // namespace lockstep
