#include "host/runtime/journal.h"

#include <fmt/format.h>

#include <algorithm>

#include "host/core/digest.h"
#include "host/runtime/state_file.h"

namespace lockstep {
namespace {

constexpr size_t kLongLog = 2000;  // records

std::map<std::string, std::vector<double>> history_of(const std::vector<EpochRecord>& epochs,
                                                      const MetricTable& metrics) {
  std::map<std::string, std::vector<double>> history;
  for (const EpochRecord& epoch : epochs) {
    metrics.append(epoch.done.sums, "", &history);
    if (epoch.done.validation.empty()) continue;
    metrics.append(epoch.done.validation, "val_", &history);
  }
  return history;
}

// An owner removes what its log does not know, so a folder of checkpoints has one: the same words
// stand there and beside the log.
Status claim(FileSystem& files, const JournalOptions& options) {
  const std::string mine = options.state + "/checkpoints-owner";
  const std::string theirs = options.checkpoints + "/owner";
  LOCKSTEP_ASSIGN(const auto mine_size, files.size_of(mine));
  LOCKSTEP_ASSIGN(const auto their_size, files.size_of(theirs));
  LOCKSTEP_ASSIGN(const auto foreign_log, files.size_of(options.checkpoints + "/log"));
  LOCKSTEP_ASSIGN(const auto own_log, files.size_of(options.state + "/log"));
  std::string owner;
  if (mine_size) {
    LOCKSTEP_ASSIGN(owner, files.read(mine));
  }
  bool is_mine = !foreign_log;
  if (their_size) {
    LOCKSTEP_ASSIGN(const std::string other, files.read(theirs));
    is_mine = is_mine && mine_size && other == owner;
  } else if (!own_log) {
    LOCKSTEP_RETURN_IF_ERROR(files.make_folders(options.checkpoints + "/objects"));
    LOCKSTEP_ASSIGN(const auto objects, files.list(options.checkpoints + "/objects"));
    is_mine = is_mine && objects.empty();
  }
  if (!is_mine) {
    return Error{
        fmt::format("--checkpoints {}: it holds the checkpoints of another job, which this one "
                    "would remove; choose another folder, or empty it if that job is not needed",
                    options.checkpoints)};
  }
  if (their_size) return {};
  if (!mine_size) {
    owner = files.unique_name() + "\n";
    LOCKSTEP_RETURN_IF_ERROR(files.write_atomically(mine, owner));
  }
  return files.write_atomically(theirs, owner);
}

}  // namespace

Journal::Journal(JournalOptions options, RecordLog log, ObjectStore objects)
    : options_(std::move(options)),
      log_(std::move(log)),
      objects_(std::move(objects)),
      lineage_(objects_, {}) {}

Result<std::unique_ptr<Journal>> Journal::open(FileSystem& files, const JournalOptions& options) {
  LOCKSTEP_RETURN_IF_ERROR(files.make_folders(options.state));
  if (!options.checkpoints.empty()) {  // first: a job that is refused has begun nothing
    LOCKSTEP_RETURN_IF_ERROR(files.make_folders(options.checkpoints));
    LOCKSTEP_RETURN_IF_ERROR(claim(files, options));
  }
  LOCKSTEP_ASSIGN(auto opened, RecordLog::open(files, options.state + "/log"));
  const std::string& folder = options.checkpoints.empty() ? options.state : options.checkpoints;
  LOCKSTEP_ASSIGN(auto objects, ObjectStore::open(files, folder + "/objects"));
  std::unique_ptr<Journal> journal(new Journal(options, std::move(opened.log), std::move(objects)));
  for (const Note& note : opened.notes) journal->notes_.push_back(note.text());
  LOCKSTEP_RETURN_IF_ERROR(journal->recover(opened.records));
  return journal;
}

Status Journal::recover(const std::vector<LogRecord>& records) {
  for (const LogRecord& record : records) {
    LOCKSTEP_ASSIGN(JobRecord decoded, decode_record(record.body));
    records_.push_back(std::move(decoded));
  }
  recovered_ = recover_job(records_, options_.steps_per_epoch);
  term_ = static_cast<int64_t>(log_.term()) + 1;
  if (recovered_.recipe_sha256.empty()) {
    LOCKSTEP_RETURN_IF_ERROR(append(RunRecord{options_.recipe_sha256}));
  } else if (recovered_.recipe_sha256 != options_.recipe_sha256) {
    return Error{
        fmt::format("the state folder '{}' belongs to another recipe ({}, this job's is "
                    "{}); choose another folder, or give the job as it was",
                    options_.state, recovered_.recipe_sha256.substr(0, 12),
                    options_.recipe_sha256.substr(0, 12))};
  }
  LOCKSTEP_RETURN_IF_ERROR(check_epochs());
  std::vector<std::string> manifests;
  for (const CheckpointRecord& each : recovered_.checkpoints) manifests.push_back(each.manifest);
  lineage_ = Lineage(objects_, manifests);
  LOCKSTEP_ASSIGN(const auto newest, lineage_.newest_whole());
  for (const Note& note : newest.notes) notes_.push_back(note.text());
  std::vector<CheckpointRecord>& kept = recovered_.checkpoints;
  while (newest.found && !kept.empty() && kept.back().manifest != newest.found->id) kept.pop_back();
  manifests.resize(kept.size());
  lineage_ = Lineage(objects_, manifests);
  LOCKSTEP_RETURN_IF_ERROR(lineage_.sweep({}));
  return append(TermRecord{});
}

// Metrics of the same recipe may be made of other sums in another version.
Status Journal::check_epochs() const {
  for (const EpochRecord& epoch : recovered_.epochs) {
    for (const MetricSums* sums : {&epoch.done.sums, &epoch.done.validation}) {
      const bool none = sums == &epoch.done.validation && sums->empty();
      if (none || std::ssize(*sums) == options_.metrics.size()) continue;
      return Error{
          fmt::format("the log in '{}' holds {} sums of metrics for epoch {}, this job has {}; use "
                      "the version of Lockstep that wrote it",
                      options_.state, sums->size(), epoch.done.epoch + 1, options_.metrics.size())};
    }
  }
  return {};
}

Status Journal::append(const JobRecord& record) {
  const std::lock_guard lock(mutex_);
  LOCKSTEP_RETURN_IF_ERROR(log_.append(static_cast<uint64_t>(term_), encode_record(record)));
  records_.push_back(record);
  return {};
}

Result<StateRef> Journal::store_state(const std::string& bytes) {
  LOCKSTEP_ASSIGN(const StateView state, decode_state(bytes));
  StateRef ref{state.header.step, "", digest_of_state(state), static_cast<int64_t>(bytes.size())};
  auto object = objects_.put(bytes);
  if (!object.ok()) return Error{object.error().message, ErrorKind::halted};
  ref.object = std::move(object).value();
  const std::lock_guard lock(mutex_);
  accumulators_[ref.object] = state.header.sums;
  return ref;
}

Result<CheckpointRecord> Journal::commit(const CommitCheckpoint& commit) {
  CheckpointRecord record{commit.state, "", commit.samples_consumed};
  {
    const std::lock_guard lock(mutex_);
    Checkpoint checkpoint;
    checkpoint.recipe_sha256 = options_.recipe_sha256;
    checkpoint.step = commit.state.step;
    checkpoint.parent = lineage_.ids().empty() ? "" : lineage_.ids().back();
    checkpoint.state = commit.state.object;
    checkpoint.state_bytes = static_cast<uint64_t>(commit.state.bytes);
    checkpoint.state_digest = hex64(commit.state.digest);
    checkpoint.epoch = static_cast<int64_t>(commit.epochs.size());
    checkpoint.accumulators = accumulators_[commit.state.object];
    checkpoint.history = history_of(commit.epochs, options_.metrics);
    checkpoint.samples_consumed = commit.samples_consumed;
    checkpoint.is_final = commit.is_final;
    accumulators_.erase(commit.state.object);
    LOCKSTEP_ASSIGN(record.manifest, lineage_.commit(checkpoint));
  }
  LOCKSTEP_RETURN_IF_ERROR(append(record));
  const std::lock_guard lock(mutex_);
  LOCKSTEP_ASSIGN(const auto gone,
                  lineage_.prune(static_cast<size_t>(options_.keep_checkpoints), kept_manifests()));
  LOCKSTEP_RETURN_IF_ERROR(compact_if_long());
  return record;
}

Status Journal::begin_with(const std::string& state) {
  if (recovered_.view || !recovered_.checkpoints.empty()) return {};
  LOCKSTEP_ASSIGN(const StateRef ref, store_state(state));
  LOCKSTEP_ASSIGN(auto record, commit({ref, 0, {}}));
  recovered_.checkpoints.push_back(std::move(record));
  return {};
}

// Of the checkpoints that the newest decision keeps.
std::vector<std::string> Journal::kept_manifests() const {
  const RecoveredJob job = recover_job(records_, options_.steps_per_epoch);
  std::vector<std::string> kept;
  for (const CheckpointRecord& checkpoint : job.checkpoints) {
    if (is_kept(checkpoint.state.step, job.epochs, options_.steps_per_epoch)) {
      kept.push_back(checkpoint.manifest);
    }
  }
  return kept;
}

// Records of checkpoints that are gone stay out of a compacted log.
Status Journal::compact_if_long() {
  if (records_.size() < std::max(kLongLog, 2 * compacted_)) return {};
  RecoveredJob job = recover_job(records_, options_.steps_per_epoch);
  const auto& ids = lineage_.ids();
  std::erase_if(job.checkpoints, [&](const CheckpointRecord& checkpoint) {
    return std::find(ids.begin(), ids.end(), checkpoint.manifest) == ids.end();
  });
  records_ = compacted(job);
  compacted_ = records_.size();
  std::vector<std::string> bodies;
  for (const JobRecord& record : records_) bodies.push_back(encode_record(record));
  return log_.compact(static_cast<uint64_t>(term_), bodies);
}

}  // namespace lockstep
