// The files that CSVLogger and TensorBoard ask for, in the output folder; they grow with each
// epoch.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "host/core/file_system.h"
#include "host/core/result.h"
#include "host/job/job.h"
#include "host/observe/event_file.h"
#include "host/train/report.h"

namespace lockstep {

class EpochFiles {
 public:
  // For the callbacks of the job. `files` and `report` outlive it. `session`: part of the event
  // files' names, another for each run into the same folder. `model_json`: the model as Keras'
  // to_json() says it. Errors name the callback.
  static Result<EpochFiles> open(FileSystem& files, const Job& job, const std::string& folder,
                                 const std::string& session, std::string model_json,
                                 const JobReport& report);

  // Behind the report. A failure is kept: failure() says it, and nothing is written any more.
  void observe(const CoordinatorAction& action);
  // States whose weights are wanted for histograms, since the last call.
  struct Due {
    std::string object;
    int64_t epoch = 0;  // as people count, from 0
  };
  std::vector<Due> take_due() { return std::exchange(due_, {}); }
  // `weights`: by their names. A failure is kept.
  void add_histograms(const Due& due, const std::vector<TaggedValues>& weights);
  const std::optional<Error>& failure() const { return failure_; }

 private:
  struct Csv {
    std::string path, separator;
  };
  struct Board {
    std::unique_ptr<AppendFile> train, validation;  // the latter once there is something for it
    std::string folder;
    int64_t histogram_freq = 0;  // epochs; 0: none
    bool write_graph = true;
    bool wants_histograms(int64_t epoch) const {
      return histogram_freq > 0 && epoch % histogram_freq == 0;
    }
  };

  EpochFiles(FileSystem& files, const Job& job, std::string model_json, const JobReport& report)
      : files_(&files),
        report_(&report),
        model_json_(std::move(model_json)),
        initial_epoch_(job.initial_epoch),
        steps_per_epoch_(job.steps_per_epoch()) {}
  Status write(const EpochLogs& logs);
  Status append_scalars(const EpochLogs& logs, Board* board);
  Status begin_training(Board* board);
  Result<std::unique_ptr<AppendFile>> begin_event_file(const std::string& folder);

  FileSystem* files_;
  const JobReport* report_;
  std::string model_json_;
  int64_t initial_epoch_ = 0;
  int64_t steps_per_epoch_ = 1;
  std::string session_;
  std::vector<Csv> csvs_;
  std::vector<Board> boards_;
  std::vector<Due> due_;
  std::optional<Error> failure_;
};

}  // namespace lockstep
