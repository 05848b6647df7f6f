// An append-only log of opaque records: what a coordinator has decided. README.md has the format.
// One owner, which holds the folder's lock; one thread.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "host/checkpoint/note.h"
#include "host/core/file_system.h"
#include "host/core/result.h"

namespace lockstep {

struct LogRecord {
  uint64_t term = 0;
  uint64_t index = 0;  // goes on counting when the log is compacted
  std::string body;
  bool operator==(const LogRecord&) const = default;
};

struct LogContents {
  std::vector<LogRecord> records;
  std::vector<Note> notes;  // the tail that was left out, if there is one

  uint64_t first_index = 0;
  uint64_t first_term = 0;   // no record has an earlier one
  uint64_t last_term = 0;    // of the last record, or first_term
  uint64_t last_hash = 0;    // of the last record, or of the header
  uint64_t whole_bytes = 0;  // of the file: the rest is the tail
  uint64_t next_index() const { return first_index + records.size(); }
};

// Reads a log and changes nothing. A bad end with nothing valid after it is what a crash leaves of
// an append that nobody was told of: it is left out. Anything else is an error.
Result<LogContents> read_log(FileSystem& files, const std::string& path);

class RecordLog {
 public:
  struct Opened;

  // Makes the log, or reads it and writes what is whole as a new file: what an earlier process
  // could not sync may be in the kernel's memory only, and no later fsync would tell.
  static Result<Opened> open(FileSystem& files, const std::string& path);

  // One write, one fsync; returns the record's index. The term may not go back. After an error the
  // record may be in the log or not, and the log refuses everything until it is opened again.
  Result<uint64_t> append(uint64_t term, std::string_view body);

  // Replaces all records by these, all or nothing. Errors as for append.
  Status compact(uint64_t term, const std::vector<std::string>& bodies);

  uint64_t term() const { return term_; }  // of the last record, 0 before the first ever
  uint64_t next_index() const { return next_index_; }
  uint64_t bytes() const { return bytes_; }  // of the file, to decide when to compact

 private:
  RecordLog(FileSystem& files, std::string path) : files_(&files), path_(std::move(path)) {}
  Status replace(uint64_t first_index, uint64_t first_term, const std::vector<LogRecord>& records);
  Status check_term(uint64_t term) const;

  FileSystem* files_;
  std::string path_;
  std::unique_ptr<AppendFile> file_;
  std::optional<Error> failed_;
  uint64_t term_ = 0;
  uint64_t next_index_ = 0;
  uint64_t last_hash_ = 0;
  uint64_t bytes_ = 0;
};

struct RecordLog::Opened {
  RecordLog log;
  std::vector<LogRecord> records;
  std::vector<Note> notes;
};

}  // namespace lockstep
