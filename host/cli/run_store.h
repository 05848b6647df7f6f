// Where a run keeps what it leaves behind and what it is recovered from.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "host/cli/training.h"
#include "host/core/file_system.h"
#include "host/core/files.h"
#include "host/runtime/journal.h"
#include "host/train/output_folder.h"
#include "host/train/report.h"
#include "host/train/run_files.h"

namespace lockstep {

// A new folder under $TMPDIR or /tmp, removed with all that is in it by the destructor.
class TemporaryFolder {
 public:
  static Result<TemporaryFolder> create();
  TemporaryFolder(TemporaryFolder&& other) noexcept : path_(std::exchange(other.path_, "")) {}
  TemporaryFolder& operator=(TemporaryFolder&&) = delete;
  ~TemporaryFolder();
  const std::string& path() const { return path_; }

 private:
  explicit TemporaryFolder(std::string path) : path_(std::move(path)) {}
  std::string path_;
};

// The output folder, the journal, and the files that grow. Not movable: the journal refers to the
// file system in it.
class RunStore {
 public:
  // Fails where the folders hold another job, or a run and the request does not resume.
  Status open(const TrainingRequest& request, const Job& job);
  // Once the report knows what the journal held.
  Status open_files(const TrainingRequest& request, JobReport& report);

  const std::optional<OutputFolder>& folder() const { return folder_; }  // none for a run without
  const std::string& state_path() const { return state_path_; }
  Journal& journal() { return *journal_; }
  RunFiles& files() { return *files_; }
  bool resumes() const { return journal_->recovered().view.has_value(); }

 private:
  Status lock(const std::string& path, const std::string& what);

  PosixFileSystem file_system_;
  std::optional<TemporaryFolder> temporary_;
  std::optional<OutputFolder> folder_;
  std::string state_path_;
  std::vector<std::string> locked_;  // folders of log and states
  std::vector<FileLock> locks_;
  std::unique_ptr<Journal> journal_;
  std::optional<RunFiles> files_;
};

}  // namespace lockstep
