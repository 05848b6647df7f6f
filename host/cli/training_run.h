// One run of a job: what training.cc and training_models.cc share.
#pragma once

#include <chrono>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "host/cli/local_nodes.h"
#include "host/cli/outside_decider.h"
#include "host/cli/run_store.h"
#include "host/cli/saved_models.h"
#include "host/cli/training.h"
#include "host/observe/epoch_files.h"
#include "host/observe/job_monitor.h"
#include "host/observe/progress.h"
#include "host/observe/prometheus.h"
#include "host/runtime/coordinator_runtime.h"
#include "host/runtime/state_file.h"
#include "host/train/resolve.h"

namespace lockstep {

// One run: the observer fills it under the coordinator's lock, the main thread watches over it.
class Training {
 public:
  Training(const TrainingRequest& request, Context& context)
      : request_(request),
        context_(context),
        coordinator_([this](const CoordinatorAction& action) { observe(action); },
                     [this] { return describe(); }) {}

  Result<TrainingOutcome> run();

 private:
  void observe(const CoordinatorAction& action);
  nlohmann::json describe();
  Status serve_metrics();
  void say(const std::string& line);
  void note(const std::string& text);
  template <class T>
  T copy_of(const T& value) {  // of what the lock protects
    const std::lock_guard lock(mutex_);
    return value;
  }
  Status export_model(const CheckpointDone& checkpoint, int64_t epoch, const std::string& name);
  Status export_interrupted();
  Status export_models();
  Status save_models();
  Status write_histograms();
  Result<std::string> keras_json();
  Status ask_outside();
  Status hear_outside();
  Status flush_events();
  Status prepare();
  void say_plan();
  int devices_of_node() const;
  Status start_nodes();
  Status start_coordinator();
  void watch();
  std::optional<Error> look_around();
  Result<StateView> final_state(const CoordinatorResult& result);
  Status write_files(const Status& status, const StateView& state);
  Result<std::string> keras_file(const StateView& state, int64_t epochs);
  std::optional<double> learning_rate_after(int64_t epochs);
  Result<TrainingOutcome> outcome(const StateView& state);

  const TrainingRequest& request_;
  Context& context_;
  using Clock = std::chrono::steady_clock;
  const Clock::time_point begin_ = Clock::now();
  ResolvedJob resolved_;
  RunStore store_;
  PosixFileSystem file_system_;  // of the files below
  std::optional<LocalNodes> nodes_;
  std::string faults_;
  std::string sha256_;
  int64_t exported_step_ = -1;
  std::string averaged_;  // the final weights, where they are a moving average

  std::mutex mutex_;  // of what follows; taken inside the coordinator's lock, never around it
  std::optional<JobReport> report_;
  std::optional<Progress> progress_;
  std::optional<JobMonitor> monitor_;
  std::optional<JobEvents> events_;
  std::vector<CheckpointDone> to_export_;     // since the main thread looked
  CheckpointDone newest_;                     // step 0: none yet
  std::optional<EpochFiles> epoch_files_;     // none for a run without a folder
  std::optional<SavedModels> saved_models_;   // the same
  std::map<SessionId, std::string> present_;  // names of nodes that have joined and not left
  std::set<std::string> worked_;  // nodes that did some work since the main thread looked
  bool begun_ = false;            // a view was made
  double first_step_ = 0;
  double last_step_ = 0;

  std::unique_ptr<OutsideDecider> decider_;  // none: nobody is asked
  CoordinatorRuntime coordinator_;           // its threads call observe() and describe()
  std::unique_ptr<HttpServer> metrics_;      // the last: its threads ask the coordinator
};

}  // namespace lockstep
