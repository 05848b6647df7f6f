// The files that CSVLogger and TensorBoard ask for, in the output folder; they grow with each
// epoch.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "host/core/file_system.h"
#include "host/core/result.h"
#include "host/job/job.h"
#include "host/train/report.h"

namespace lockstep {

class EpochFiles {
 public:
  // For the callbacks of the job. `files` and `report` outlive it. `session`: part of the event
  // files' names, another for each run into the same folder. Errors name the callback.
  static Result<EpochFiles> open(FileSystem& files, const Job& job, const std::string& folder,
                                 const std::string& session, const JobReport& report);

  // Behind the report. A failure is kept: failure() says it, and nothing is written any more.
  void observe(const CoordinatorAction& action);
  const std::optional<Error>& failure() const { return failure_; }

 private:
  struct Csv {
    std::string path, separator;
  };
  struct Board {
    std::unique_ptr<AppendFile> train, validation;  // the latter once there is something for it
    std::string folder;
  };

  EpochFiles(FileSystem& files, const JobReport& report) : files_(&files), report_(&report) {}
  Status write(const EpochLogs& logs);
  Status append_scalars(const EpochLogs& logs, Board* board);
  Result<std::unique_ptr<AppendFile>> begin_event_file(const std::string& folder);

  FileSystem* files_;
  const JobReport* report_;
  std::string session_;
  std::vector<Csv> csvs_;
  std::vector<Board> boards_;
  std::optional<Error> failure_;
};

}  // namespace lockstep
