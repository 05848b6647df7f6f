// One job run from its options: the coordinator in this process, nodes as its children or
// elsewhere.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "host/cli/commands.h"
#include "host/cli/monitoring.h"
#include "host/core/result.h"
#include "host/job/run_options.h"
#include "host/observe/events.h"
#include "host/train/report.h"

namespace lockstep {

struct TrainingRequest {
  nlohmann::json options;  // job options, defaults filled in
  RunOptions run;
  bool spawn_nodes = true;  // false: nodes are started by hand, and may still be there
  std::string device = "auto";
  int devices = 0;  // of each spawned node; 0: a fair share of this machine
  Address listen{"127.0.0.1", 0};
  std::string output;              // "": the default folder
  std::string state;               // folder of the log; "": in the output folder
  std::string checkpoints;         // folder of the states; "": the log's
  std::string ledger;              // file; "": none
  bool resume = false;             // goes on with what the folders hold
  bool epoch_models = false;       // writes the model of each epoch's end
  std::vector<std::string> notes;  // on the options, for people
  EventStream* events = nullptr;   // outlives the run; nothing: nobody reads any
  std::string decisions;           // descriptor on which somebody decides; "": nobody does
  int64_t decision_timeout_s = 0;  // for each of their decisions
  Monitoring monitoring;
  bool keep_files = true;  // false: all in a temporary folder, removed at the end
  std::optional<int64_t>
      kill_node_at_step;  // a spawned node is killed, to show that no bit changes
};

struct TrainingOutcome {
  std::string weights_sha256;
  std::vector<float> weights;
  Job job;
  double seconds = 0;  // of training, first step to last decision
  double seconds_to_first_step = 0;
  std::string faults;  // "node-1 killed at step 150"; "": none were made
};

Result<TrainingOutcome> run_training(const TrainingRequest& request, Context& context);

}  // namespace lockstep
