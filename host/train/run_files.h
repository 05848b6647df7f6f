// The files of a run that grow while it goes on: the digest of every state, and the ledger.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "host/cluster/coordinator.h"
#include "host/core/file_system.h"
#include "host/train/digest_file.h"
#include "host/train/report.h"

namespace lockstep {

struct RunFilesOptions {
  std::string digests;  // file; "": none
  std::string ledger;   // file, where the report keeps a ledger; "": none
  bool resumed = false;
  int64_t step = 0;  // of the state from which it can go on
};

// Observes behind the report, whose ledger it writes. One thread at a time.
class RunFiles {
 public:
  // `files` and `report` outlive it. Where the run is resumed, the report's ledger is filled with
  // the entries of before.
  static Result<RunFiles> open(FileSystem& files, const RunFilesOptions& options,
                               JobReport& report);

  // A failure is kept: failure() says it, and nothing is written any more.
  void observe(const CoordinatorAction& action);
  // Writes out what is in memory: at checkpoints, and at the end.
  void flush();
  const std::optional<Error>& failure() const { return failure_; }

 private:
  explicit RunFiles(JobReport& report) : report_(&report) {}
  void keep(const Status& status);

  JobReport* report_;
  std::optional<DigestFile> digests_;
  std::unique_ptr<AppendFile> ledger_;
  std::optional<Error> failure_;
};

}  // namespace lockstep
