// What the coordinator keeps on disk: its log, the states, and the checkpoints made of them.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "host/checkpoint/lineage.h"
#include "host/checkpoint/object_store.h"
#include "host/checkpoint/record_log.h"
#include "host/cluster/coordinator.h"
#include "host/cluster/records.h"
#include "host/core/file_system.h"
#include "host/job/metric_table.h"

namespace lockstep {

struct JournalOptions {
  std::string state;        // folder of the log
  std::string checkpoints;  // another folder for the objects, of this job alone; "": `state`
  int keep_checkpoints = 3;
  std::string recipe_sha256;
  int64_t steps_per_epoch = 1;
  MetricTable metrics;
};

// Thread-safe; one process at a time, which holds the folder's lock.
class Journal {
 public:
  // Makes or reads the folder and begins a new term. Fails where the log is of another recipe, or
  // damaged in a way that no crash explains, or where the folder of checkpoints is another job's.
  // `files` outlives the journal.
  static Result<std::unique_ptr<Journal>> open(FileSystem& files, const JournalOptions& options);

  int64_t term() const { return term_; }
  // What the log held, with checkpoints that are whole, the newest verified.
  const RecoveredJob& recovered() const { return recovered_; }
  // What was cut or left out, for people.
  const std::vector<std::string>& notes() const { return notes_; }

  // Where the job has no checkpoint yet, makes one of this state, from which it then begins. Call
  // before recovered() is used.
  Status begin_with(const std::string& state);

  // Durable when it returns. Never tried again after a failure.
  Status append(const JobRecord& record);
  // Writes the manifest and its record; then removes the checkpoints that are not kept.
  Result<CheckpointRecord> commit(const CommitCheckpoint& checkpoint);

  // Checks the bytes, hashes them, makes them durable. An error of kind `halted` is the disk's.
  Result<StateRef> store_state(const std::string& bytes);
  Result<std::string> read_state(const std::string& object) const { return objects_.read(object); }

 private:
  Journal(JournalOptions options, RecordLog log, ObjectStore objects);
  Status recover(const std::vector<LogRecord>& records);
  Status check_epochs() const;
  std::vector<std::string> kept_manifests() const;
  Status compact_if_long();

  const JournalOptions options_;
  mutable std::mutex mutex_;
  RecordLog log_;
  ObjectStore objects_;
  Lineage lineage_;
  int64_t term_ = 1;
  RecoveredJob recovered_;
  std::vector<JobRecord> records_;  // since the last compaction
  size_t compacted_ = 0;            // how many of them that one left
  std::vector<std::string> notes_;
  std::map<std::string, MetricSums> accumulators_;  // of states that are no checkpoints yet
};

}  // namespace lockstep
