// The folder of a job's results. Nothing in it is ever overwritten by another job.
#pragma once

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
  // of another recipe, one that holds a completed run, and one that cannot be written.
  static Result<OutputFolder> open(const std::string& path, const Job& job);

  // "lockstep-runs/20260131-120000-seed-cnn"
  static std::string default_path(const Job& job);

  Status write_report(const JobReport& report) const;
  Status write_weights(const Graph& graph, const std::string& weights,
                       const std::string& recipe_sha256) const;
  const std::string& path() const { return path_; }

 private:
  OutputFolder(std::string path, FileLock lock) : path_(std::move(path)), lock_(std::move(lock)) {}
  std::string path_;
  FileLock lock_;
};

// The job of a folder that a run left behind.
Result<Job> read_job(const std::string& folder);

}  // namespace lockstep
