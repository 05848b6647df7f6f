#include "host/cli/run_store.h"

#include <fmt/format.h>
#include <stdlib.h>

#include <algorithm>
#include <filesystem>

#include "host/job/recipe.h"

namespace lockstep {

Result<TemporaryFolder> TemporaryFolder::create() {
  std::error_code code;
  const auto parent = std::filesystem::temp_directory_path(code);  // $TMPDIR, or /tmp
  if (code) return Error{"the folder for temporary files does not exist: set TMPDIR to one"};
  std::string path = (parent / "lockstep-XXXXXX").string();
  if (::mkdtemp(path.data()) == nullptr) {
    return file_error("make the folder", path, "set TMPDIR to a folder that can be written");
  }
  return TemporaryFolder(std::move(path));
}

TemporaryFolder::~TemporaryFolder() {
  std::error_code ignored;
  if (!path_.empty()) std::filesystem::remove_all(path_, ignored);
}

Status RunStore::open(const TrainingRequest& request, const Job& job) {
  if (request.keep_files) {
    const std::string path =
        request.output.empty() ? OutputFolder::default_path(job) : request.output;
    LOCKSTEP_ASSIGN(folder_, OutputFolder::open(path, job, request.resume));
    state_path_ = request.state.empty() ? OutputFolder::state_path(path) : request.state;
  } else {
    LOCKSTEP_ASSIGN(auto temporary, TemporaryFolder::create());
    state_path_ = temporary.path();
    temporary_.emplace(std::move(temporary));
  }
  LOCKSTEP_RETURN_IF_ERROR(lock(state_path_, "the state folder"));
  std::string checkpoints = request.checkpoints;
  if (!checkpoints.empty()) {
    LOCKSTEP_RETURN_IF_ERROR(lock(checkpoints, "the folder of checkpoints"));
    std::error_code ignored;
    if (std::filesystem::equivalent(checkpoints, state_path_, ignored)) checkpoints.clear();
  }
  if (!request.state.empty()) {
    LOCKSTEP_RETURN_IF_ERROR(check_recipe(state_path_, "the state folder", "--state", job, true));
  }
  const JournalOptions options{.state = state_path_,
                               .checkpoints = checkpoints,
                               .keep_checkpoints = request.run.keep_checkpoints,
                               .recipe_sha256 = lineage_sha256(job),
                               .steps_per_epoch = job.steps_per_epoch(),
                               .metrics = MetricTable(job)};
  LOCKSTEP_ASSIGN(journal_, Journal::open(file_system_, options));
  if (request.state.empty()) return {};
  return write_job(state_path_, job);
}

Status RunStore::lock(const std::string& path, const std::string& what) {
  LOCKSTEP_RETURN_IF_ERROR(make_writable_folder(path));
  const auto is_same = [&](const std::string& other) {
    std::error_code ignored;
    return std::filesystem::equivalent(path, other, ignored);
  };
  // One folder may be given for several things.
  if (std::any_of(locked_.begin(), locked_.end(), is_same)) return {};
  locked_.push_back(path);
  if (folder_ && is_same(folder_->path())) return {};
  LOCKSTEP_ASSIGN(auto held,
                  FileLock::acquire(path + "/.lock", fmt::format("{} '{}'", what, path)));
  locks_.push_back(std::move(held));
  return {};
}

Status RunStore::open_files(const TrainingRequest& request, JobReport& report) {
  RunFilesOptions options;
  if (folder_) options.digests = OutputFolder::digests_path(folder_->path());
  if (request.run.keep_ledger) options.ledger = state_path_ + "/ledger.jsonl";
  options.resumed = resumes();
  const auto& checkpoints = journal_->recovered().checkpoints;
  options.step = checkpoints.empty() ? 0 : checkpoints.back().state.step;
  LOCKSTEP_ASSIGN(auto files, RunFiles::open(file_system_, options, report));
  files_.emplace(std::move(files));
  return {};
}

}  // namespace lockstep
