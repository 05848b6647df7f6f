// Immutable files named by the SHA-256 of their contents: `objects/<64 hex digits>`. An object is
// there completely or not at all; damage is found when it is read. README.md has the rules.
// Any thread; a writer belongs to one thread.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "host/core/digest.h"
#include "host/core/file_system.h"
#include "host/core/result.h"

namespace lockstep {

// 64 lower-case hex digits, so no path out of the folder.
bool is_object_id(std::string_view text);

// Hashes while it writes. Without finish() nothing is left behind.
class ObjectWriter {
 public:
  explicit ObjectWriter(NewFile file) : file_(std::move(file)), hash_(std::make_unique<Sha256>()) {}
  Status append(std::string_view bytes);
  // The object's id, once it is durable. An object that is there already is written again, which
  // heals a damaged one. Call once.
  Result<std::string> finish();
  uint64_t bytes() const { return bytes_; }

 private:
  NewFile file_;
  std::unique_ptr<Sha256> hash_;
  uint64_t bytes_ = 0;
};

class ObjectStore {
 public:
  // For the one process that owns the folder: makes it, and removes what dead writers left.
  static Result<ObjectStore> open(FileSystem& files, const std::string& folder);
  // For readers, and for writers beside the owner.
  ObjectStore(FileSystem& files, std::string folder) : files_(&files), folder_(std::move(folder)) {}

  Result<ObjectWriter> create() const;
  Result<std::string> put(std::string_view bytes) const;

  // An error names the file and says whether it is missing or damaged.
  Result<std::string> read(const std::string& id) const;
  // In pieces. They are known to be right only when this has returned without an error.
  Status read(const std::string& id, const FileSystem::Sink& sink) const;
  Status verify(const std::string& id) const;

  // Bytes; nothing where the object is missing.
  Result<std::optional<uint64_t>> size_of(const std::string& id) const;
  Result<std::vector<std::string>> list() const;  // ids, sorted
  // Missing ones are fine.
  Status remove(const std::vector<std::string>& ids) const;

  std::string path(const std::string& id) const { return folder_ + "/" + id; }
  const std::string& folder() const { return folder_; }

 private:
  FileSystem* files_;
  std::string folder_;
};

}  // namespace lockstep
