// A file system in memory that breaks when a test says so. On crash() it loses whatever was not
// synced, as much of it as the seed says; two with one seed behave the same. One thread.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "host/core/file_system.h"

namespace lockstep {

class CrashingFileSystem : public FileSystem {
 public:
  static constexpr uint64_t kNever = ~uint64_t{0};

  explicit CrashingFileSystem(uint64_t seed) : seed_(seed) {}

  // --- what breaks ---

  // After `count` more operations that change something, all operations fail until crash().
  void stop_after(uint64_t count) { stop_at_ = count == kNever ? kNever : operations_ + count; }
  // The machine dies and comes back. Of every file the synced bytes are there, and a prefix of the
  // others, its end perhaps zeros; each rename, creation, removal and folder since the last sync
  // of its folder has happened or not. Files opened before refuse everything.
  void crash();
  // The process dies, the machine does not: nothing is lost, open files refuse everything.
  void restart();
  // The fsync, of a file or folder, after `count` others fails, once. The bytes of a file that it
  // should have made durable never will be, though they can be read until crash() and a later
  // fsync succeeds.
  void fail_sync_after(uint64_t count) { failing_sync_ = syncs_ + count; }
  // A disk that says it has synced and has not: a test that notices nothing is worth nothing.
  void lie_about_syncs() { lies_ = true; }
  // Bytes that fit. A write that does not fit writes what does.
  void set_capacity(uint64_t bytes) { capacity_ = bytes; }
  // Damages a file, durably. No-op past its end.
  void flip(const std::string& path, uint64_t offset, uint8_t mask);
  // Replaces or makes a file, durably, without counting.
  void put(const std::string& path, std::string_view contents);

  // --- what happened ---

  uint64_t operations() const { return operations_; }  // that changed something
  uint64_t syncs() const { return syncs_; }
  bool stopped() const { return operations_ > stop_at_; }
  std::vector<std::string> paths() const;
  std::string contents(const std::string& path) const;  // empty where there is no file

  // --- FileSystem ---

  using FileSystem::read;
  Status read(const std::string& path, const Sink& sink) override;
  Result<std::optional<uint64_t>> size_of(const std::string& path) override;
  Result<std::vector<std::string>> list(const std::string& folder) override;
  Result<std::unique_ptr<AppendFile>> open_append(const std::string& path,
                                                  const std::string& called) override;
  Status rename(const std::string& from, const std::string& to) override;
  Status remove(const std::string& path) override;

 private:
  class File;
  enum class Byte : char { synced, dirty, lost };
  struct Inode {
    std::string contents;
    std::vector<Byte> bytes;  // the state of each
  };
  using Entries = std::map<std::string, std::shared_ptr<Inode>>;  // a folder's inode is null
  // A change of a folder that is not durable yet.
  struct Change {
    std::string folder;
    std::string erased;
    std::string added;
    std::shared_ptr<Inode> inode;
  };

  Status make_folder(const std::string& folder, const std::string& called) override;
  Status do_sync_folder(const std::string& folder) override;
  std::string unique_name() override { return std::to_string(++names_); }

  Status begin(const std::string& action, const std::string& path);
  Status begin_sync(const std::string& path, bool& fails);
  Status fail_where_stopped(const std::string& action, const std::string& path) const;
  Status append(Inode& inode, std::string_view bytes, const std::string& called);
  bool has_folder(const std::string& folder) const;
  uint64_t used() const;
  uint64_t draw(uint64_t below);
  void tear(Inode& inode);
  static void apply(const Change& change, Entries& entries);

  uint64_t seed_;
  uint64_t draws_ = 0;
  uint64_t names_ = 0;
  uint64_t life_ = 0;  // raised by crash(): files of an earlier one are dead
  uint64_t operations_ = 0;
  uint64_t stop_at_ = kNever;
  uint64_t syncs_ = 0;
  uint64_t failing_sync_ = kNever;
  uint64_t capacity_ = kNever;
  bool lies_ = false;
  Entries now_;
  Entries durable_;
  std::vector<Change> changes_;  // from durable_ to now_
};

}  // namespace lockstep
