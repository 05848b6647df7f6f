// The files that ModelCheckpoint writes, where it has a filepath: models of states that are
// durable.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "host/cluster/coordinator.h"
#include "host/job/callbacks.h"
#include "host/train/report.h"

namespace lockstep {

class SavedModels {
 public:
  // Files that a run which goes on should have left in the folder, and has not, come first.
  // `report` knows what was recovered.
  static Result<SavedModels> open(const Job& job, const std::string& folder,
                                  const RecoveredJob& recovered, const JobReport& report);

  // Behind the report.
  void observe(const CoordinatorAction& action, const JobReport& report);
  const std::optional<Error>& failure() const { return failure_; }

  struct Due {
    std::string path;
    bool weights_only = false;
    int64_t epochs = 0;  // that have ended
    int64_t step = 0;    // of the state
    std::string object;
  };
  // Those whose state is durable, once each.
  std::vector<Due> take();

 private:
  SavedModels(Callbacks callbacks, int64_t steps_per_epoch, std::string folder)
      : callbacks_(std::move(callbacks)),
        steps_per_epoch_(steps_per_epoch),
        folder_(std::move(folder)) {}
  // What is to be written at the end of the last of these epochs.
  Result<std::vector<Due>> due(std::span<const EpochLogs> epochs, const EpochDone& done) const;

  Callbacks callbacks_;
  int64_t steps_per_epoch_ = 1;
  std::string folder_;
  std::map<int64_t, std::string> objects_;  // of durable states, by step
  std::vector<Due> waiting_;
  std::optional<Error> failure_;
};

}  // namespace lockstep
