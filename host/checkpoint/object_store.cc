#include "host/checkpoint/object_store.h"

#include <fmt/format.h>

#include <algorithm>

namespace lockstep {
namespace {

Status check_id(std::string_view id) {
  if (is_object_id(id)) return {};
  return Error{fmt::format("'{}' is not the id of an object: that has 64 hex digits", id)};
}

}  // namespace

bool is_object_id(std::string_view text) {
  return text.size() == 64 && std::all_of(text.begin(), text.end(), [](char c) {
           return ('0' <= c && c <= '9') || ('a' <= c && c <= 'f');
         });
}

Status ObjectWriter::append(std::string_view bytes) {
  hash_->update(bytes);
  bytes_ += bytes.size();
  return file_.append(bytes);
}

Result<std::string> ObjectWriter::finish() {
  const std::string id = hash_->hex();
  LOCKSTEP_RETURN_IF_ERROR(file_.commit(id));
  return id;
}

Result<ObjectStore> ObjectStore::open(FileSystem& files, const std::string& folder) {
  LOCKSTEP_RETURN_IF_ERROR(files.make_folders(folder));
  LOCKSTEP_RETURN_IF_ERROR(files.remove_temporaries(folder));
  return ObjectStore(files, folder);
}

Result<ObjectWriter> ObjectStore::create() const {
  LOCKSTEP_ASSIGN(NewFile file, files_->create(folder_, folder_));
  return ObjectWriter(std::move(file));
}

Result<std::string> ObjectStore::put(std::string_view bytes) const {
  LOCKSTEP_ASSIGN(ObjectWriter writer, create());
  LOCKSTEP_RETURN_IF_ERROR(writer.append(bytes));
  return writer.finish();
}

Status ObjectStore::read(const std::string& id, const FileSystem::Sink& sink) const {
  LOCKSTEP_RETURN_IF_ERROR(check_id(id));
  Sha256 hash;
  LOCKSTEP_RETURN_IF_ERROR(files_->read(path(id), [&](std::string_view piece) {
    hash.update(piece);
    return sink(piece);
  }));
  const std::string found = hash.hex();
  if (found == id) return {};
  return Error{
      fmt::format("the object '{}' is damaged: its contents have the SHA-256 {}; restore "
                  "it from a copy, or go on from an older checkpoint",
                  path(id), found)};
}

Result<std::string> ObjectStore::read(const std::string& id) const {
  LOCKSTEP_ASSIGN(const auto size, size_of(id));
  std::string bytes;
  bytes.reserve(size.value_or(0));
  LOCKSTEP_RETURN_IF_ERROR(read(id, [&](std::string_view piece) -> Status {
    bytes += piece;
    return {};
  }));
  return bytes;
}

Status ObjectStore::verify(const std::string& id) const {
  return read(id, [](std::string_view) { return Status(); });
}

Result<std::optional<uint64_t>> ObjectStore::size_of(const std::string& id) const {
  LOCKSTEP_RETURN_IF_ERROR(check_id(id));
  return files_->size_of(path(id));
}

Result<std::vector<std::string>> ObjectStore::list() const {
  LOCKSTEP_ASSIGN(auto ids, files_->list(folder_));
  std::erase_if(ids, [](const std::string& name) { return !is_object_id(name); });
  return ids;
}

Status ObjectStore::remove(const std::vector<std::string>& ids) const {
  for (const std::string& id : ids) {
    LOCKSTEP_RETURN_IF_ERROR(check_id(id));
    LOCKSTEP_RETURN_IF_ERROR(files_->remove(path(id)));
  }
  return ids.empty() ? Status() : files_->sync_folder(folder_);
}

}  // namespace lockstep
