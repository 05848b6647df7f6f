// The folder of a job's results. Nothing in it is ever overwritten by another job.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "host/core/files.h"
#include "host/core/result.h"
#include "host/graph/graph.h"
#include "host/job/job.h"
#include "host/train/report.h"

namespace lockstep {

class OutputFolder {
 public:
  // Makes the folder, locks it for the life of the object, and writes job.json. Refuses a folder
  // that cannot be written, one of another recipe, and one that holds a completed run. With
  // `resume` the number of epochs may be raised, a completed run's too; without it a folder with
  // states in it is refused.
  static Result<OutputFolder> open(const std::string& path, const Job& job, bool resume);

  // Where a run keeps its log and its states by default.
  static std::string state_path(const std::string& path) { return path + "/checkpoints"; }
  static std::string digests_path(const std::string& path) { return path + "/digests.bin"; }

  // "lockstep-runs/20260131-120000-seed-cnn"
  static std::string default_path(const Job& job);

  Status write_report(const JobReport& report) const;
  Status write_weights(const Graph& graph, const std::string& weights,
                       const std::string& recipe_sha256) const;
  // The trained model as Keras reads it.
  Status write_model(const std::string& keras_file) const;
  const std::string& path() const { return path_; }

 private:
  OutputFolder(std::string path, FileLock lock) : path_(std::move(path)), lock_(std::move(lock)) {}
  std::string path_;
  FileLock lock_;
};

// Whether the folder's job.json, if there is one, is of this job; with `resume` a job of fewer
// epochs will do. Errors name all that differs; `what` and `flag` are the folder in their words.
Status check_recipe(const std::string& path, const std::string& what, const std::string& flag,
                    const Job& job, bool resume);
Status write_job(const std::string& path, const Job& job);

// The job of a folder that a run left behind: its job.json, and what that says.
Result<nlohmann::json> read_job_json(const std::string& folder);
Result<Job> read_job(const std::string& folder);

}  // namespace lockstep
