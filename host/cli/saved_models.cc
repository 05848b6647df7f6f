#include "host/cli/saved_models.h"

#include <algorithm>
#include <utility>

#include "host/core/files.h"
#include "host/job/fit_job.h"

namespace lockstep {

Result<SavedModels> SavedModels::open(const Job& job, const std::string& folder,
                                      const RecoveredJob& recovered, const JobReport& report) {
  LOCKSTEP_ASSIGN(Callbacks callbacks, job_callbacks(job));
  SavedModels models(std::move(callbacks), job.steps_per_epoch(), folder);
  for (const CheckpointRecord& checkpoint : recovered.checkpoints) {
    models.objects_[checkpoint.state.step] = checkpoint.state.object;
  }
  const std::vector<EpochLogs>& logs = report.epoch_logs();
  for (size_t i = 0; i < std::min(logs.size(), recovered.epochs.size()); ++i) {
    LOCKSTEP_ASSIGN(const std::vector<Due> due,
                    models.due(std::span(logs).first(i + 1), recovered.epochs[i].done));
    for (const Due& one : due) {
      if (!file_exists(one.path)) models.waiting_.push_back(one);
    }
  }
  return models;
}

Result<std::vector<SavedModels::Due>> SavedModels::due(std::span<const EpochLogs> epochs,
                                                       const EpochDone& done) const {
  LOCKSTEP_ASSIGN(const std::vector<SavedModel> saved, callbacks_.saved_models(epochs));
  std::vector<Due> all;
  for (const SavedModel& model : saved) {
    all.push_back({folder_ + "/" + model.path, model.weights_only, std::ssize(epochs),
                   done.last_state(steps_per_epoch_), ""});
  }
  return all;
}

void SavedModels::observe(const CoordinatorAction& action, const JobReport& report) {
  if (const auto* checkpoint = std::get_if<CheckpointDone>(&action)) {
    objects_[checkpoint->step] = checkpoint->object;
  }
  const auto* epoch = std::get_if<EpochRecord>(&action);
  if (epoch == nullptr || failure_) return;
  auto more = due(report.epoch_logs(), epoch->done);
  if (!more.ok()) {
    failure_ = more.error();
    return;
  }
  waiting_.insert(waiting_.end(), more->begin(), more->end());
}

std::vector<SavedModels::Due> SavedModels::take() {
  std::vector<Due> ready;
  std::vector<Due> still;
  for (Due& one : waiting_) {
    const auto found = objects_.find(one.step);
    if (found != objects_.end()) one.object = found->second;
    (found != objects_.end() ? ready : still).push_back(std::move(one));
  }
  waiting_ = std::move(still);
  return ready;
}

}  // namespace lockstep
