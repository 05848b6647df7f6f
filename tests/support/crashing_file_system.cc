#include "tests/support/crashing_file_system.h"

#include <fmt/format.h>

#include <algorithm>

#include "host/core/rng.h"

namespace lockstep {
namespace {

Error broken(const std::string& action, const std::string& path, const std::string& why) {
  return {fmt::format("cannot {} '{}': {}", action, path, why)};
}

}  // namespace

class CrashingFileSystem::File : public AppendFile {
 public:
  File(CrashingFileSystem& files, std::shared_ptr<Inode> inode, std::string called)
      : files_(files), life_(files.life_), inode_(std::move(inode)), called_(std::move(called)) {}

 private:
  Status do_append(std::string_view bytes) override {
    if (life_ != files_.life_) return broken("write", called_, "its process is dead");
    return files_.append(*inode_, bytes, called_);
  }

  Status do_sync() override {
    if (life_ != files_.life_) return broken("write", called_, "its process is dead");
    bool fails = false;
    LOCKSTEP_RETURN_IF_ERROR(files_.begin_sync(called_, fails));
    if (files_.lies_) return {};
    std::replace(inode_->bytes.begin(), inode_->bytes.end(), Byte::dirty,
                 fails ? Byte::lost : Byte::synced);
    if (fails) return broken("write", called_, "Input/output error");
    return {};
  }

  CrashingFileSystem& files_;
  const uint64_t life_;
  const std::shared_ptr<Inode> inode_;
  const std::string called_;
};

// --- operations ---

Status CrashingFileSystem::fail_where_stopped(const std::string& action,
                                              const std::string& path) const {
  if (stopped()) return broken(action, path, "the file system has stopped");
  return {};
}

Status CrashingFileSystem::begin(const std::string& action, const std::string& path) {
  if (!stopped()) ++operations_;
  return fail_where_stopped(action, path);
}

Status CrashingFileSystem::begin_sync(const std::string& path, bool& fails) {
  LOCKSTEP_RETURN_IF_ERROR(begin("sync", path));
  fails = syncs_++ == failing_sync_;
  return {};
}

Status CrashingFileSystem::append(Inode& inode, std::string_view bytes, const std::string& called) {
  LOCKSTEP_RETURN_IF_ERROR(begin("write", called));
  const uint64_t before = used();
  const uint64_t room = capacity_ > before ? capacity_ - before : 0;
  const std::string_view fitting = bytes.substr(0, std::min<uint64_t>(room, bytes.size()));
  inode.contents += fitting;
  inode.bytes.resize(inode.contents.size(), Byte::dirty);
  if (fitting.size() == bytes.size()) return {};
  return broken("write", called, "No space left on device");
}

bool CrashingFileSystem::has_folder(const std::string& folder) const {
  if (folder == "." || folder == "/") return true;
  const auto found = now_.find(folder);
  return found != now_.end() && found->second == nullptr;
}

uint64_t CrashingFileSystem::used() const {
  uint64_t bytes = 0;
  for (const auto& [path, inode] : now_) bytes += inode == nullptr ? 0 : inode->contents.size();
  return bytes;
}

Status CrashingFileSystem::read(const std::string& path, const Sink& sink) {
  LOCKSTEP_RETURN_IF_ERROR(fail_where_stopped("read", path));
  const auto found = now_.find(path);
  if (found == now_.end()) return broken("read", path, "No such file or directory");
  if (found->second == nullptr) return broken("read", path, "Is a directory");
  // Small pieces, so that tests see several.
  const std::string contents = found->second->contents;
  for (size_t begin = 0; begin < contents.size(); begin += 100) {
    LOCKSTEP_RETURN_IF_ERROR(sink(std::string_view(contents).substr(begin, 100)));
  }
  return {};
}

Result<std::optional<uint64_t>> CrashingFileSystem::size_of(const std::string& path) {
  LOCKSTEP_RETURN_IF_ERROR(fail_where_stopped("read", path));
  const auto found = now_.find(path);
  if (found == now_.end() || found->second == nullptr) return std::optional<uint64_t>();
  return std::optional<uint64_t>(found->second->contents.size());
}

Result<std::vector<std::string>> CrashingFileSystem::list(const std::string& folder) {
  LOCKSTEP_RETURN_IF_ERROR(fail_where_stopped("read the folder", folder));
  if (!has_folder(folder)) return broken("read the folder", folder, "No such file or directory");
  std::vector<std::string> names;
  for (const auto& [path, inode] : now_) {
    if (inode != nullptr && folder_of(path) == folder) {
      names.push_back(path.substr(path.rfind('/') + 1));
    }
  }
  return names;
}

Result<std::unique_ptr<AppendFile>> CrashingFileSystem::open_append(const std::string& path,
                                                                    const std::string& called) {
  LOCKSTEP_RETURN_IF_ERROR(fail_where_stopped("write", called));
  if (!has_folder(folder_of(path))) return broken("write", called, "No such file or directory");
  if (has_folder(path)) return broken("write", called, "Is a directory");
  if (!now_.contains(path)) {
    LOCKSTEP_RETURN_IF_ERROR(begin("write", called));
    changes_.push_back({folder_of(path), "", path, std::make_shared<Inode>()});
    apply(changes_.back(), now_);
  }
  return std::unique_ptr<AppendFile>(std::make_unique<File>(*this, now_.at(path), called));
}

Status CrashingFileSystem::rename(const std::string& from, const std::string& to) {
  LOCKSTEP_RETURN_IF_ERROR(begin("write", to));
  const auto found = now_.find(from);
  if (found == now_.end()) return broken("write", to, "No such file or directory");
  if (has_folder(to)) return broken("write", to, "Is a directory");
  changes_.push_back({folder_of(to), from, to, found->second});
  apply(changes_.back(), now_);
  return {};
}

Status CrashingFileSystem::remove(const std::string& path) {
  LOCKSTEP_RETURN_IF_ERROR(begin("remove", path));
  if (!now_.contains(path)) return {};
  changes_.push_back({folder_of(path), path, "", nullptr});
  apply(changes_.back(), now_);
  return {};
}

Status CrashingFileSystem::make_folder(const std::string& folder, const std::string& called) {
  LOCKSTEP_RETURN_IF_ERROR(fail_where_stopped("make the folder", called));
  if (has_folder(folder)) return {};
  LOCKSTEP_RETURN_IF_ERROR(begin("make the folder", called));
  if (now_.contains(folder) || !has_folder(folder_of(folder))) {
    return broken("make the folder", called, "Not a directory");
  }
  changes_.push_back({folder_of(folder), "", folder, nullptr});
  apply(changes_.back(), now_);
  return {};
}

Status CrashingFileSystem::do_sync_folder(const std::string& folder) {
  bool fails = false;
  LOCKSTEP_RETURN_IF_ERROR(begin_sync(folder, fails));
  if (!has_folder(folder)) return broken("sync the folder", folder, "No such file or directory");
  if (fails) return broken("sync the folder", folder, "Input/output error");
  if (lies_) return {};
  for (const Change& change : changes_) {
    if (change.folder == folder) apply(change, durable_);
  }
  std::erase_if(changes_, [&](const Change& change) { return change.folder == folder; });
  return {};
}

// --- crashes ---

void CrashingFileSystem::apply(const Change& change, Entries& entries) {
  entries.erase(change.erased);
  if (!change.added.empty()) entries[change.added] = change.inode;
}

uint64_t CrashingFileSystem::draw(uint64_t below) { return derive_key(seed_, 0, draws_++) % below; }

void CrashingFileSystem::tear(Inode& inode) {
  auto& bytes = inode.bytes;
  const auto last_synced = std::find(bytes.rbegin(), bytes.rend(), Byte::synced);
  const auto safe = static_cast<uint64_t>(bytes.rend() - last_synced);
  const uint64_t end = safe + draw(bytes.size() - safe + 1);
  inode.contents.resize(end);
  bytes.resize(end);
  // The file may have grown on the disk before its last blocks got there.
  const uint64_t zeros_from = draw(2) == 0 ? end : safe + draw(end - safe + 1);
  for (uint64_t at = 0; at < end; ++at) {
    const bool zero = bytes[at] == Byte::lost || (bytes[at] == Byte::dirty && at >= zeros_from);
    if (zero) inode.contents[at] = '\0';
    bytes[at] = Byte::synced;
  }
}

void CrashingFileSystem::crash() {
  for (const Change& change : changes_) {
    if (draw(2) == 0) apply(change, durable_);
  }
  changes_.clear();
  // What lies in a folder that was lost is lost too; parents come first in the map.
  now_.clear();
  for (const auto& [path, inode] : durable_) {
    if (!has_folder(folder_of(path))) continue;
    if (inode != nullptr) tear(*inode);
    now_[path] = inode;
  }
  durable_ = now_;
  restart();
}

void CrashingFileSystem::restart() {
  ++life_;
  stop_at_ = kNever;
  forget_failures();
}

// --- for tests ---

void CrashingFileSystem::flip(const std::string& path, uint64_t offset, uint8_t mask) {
  std::string& contents = now_.at(path)->contents;
  if (offset < contents.size()) contents[offset] = static_cast<char>(contents[offset] ^ mask);
}

void CrashingFileSystem::put(const std::string& path, std::string_view contents) {
  const std::vector<Byte> bytes(contents.size(), Byte::synced);
  now_[path] = std::make_shared<Inode>(Inode{std::string(contents), bytes});
  durable_[path] = now_[path];
}

std::vector<std::string> CrashingFileSystem::paths() const {
  std::vector<std::string> paths;
  for (const auto& [path, inode] : now_) {
    if (inode != nullptr) paths.push_back(path);
  }
  return paths;
}

std::string CrashingFileSystem::contents(const std::string& path) const {
  const auto found = now_.find(path);
  return found == now_.end() || found->second == nullptr ? "" : found->second->contents;
}

}  // namespace lockstep
