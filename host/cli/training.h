// One job run from its options: the coordinator in this process, nodes as its children or
// elsewhere.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "host/cli/commands.h"
#include "host/core/result.h"
#include "host/train/report.h"

namespace lockstep {

struct TrainingRequest {
  nlohmann::json options;  // job options, defaults filled in
  int nodes = 1;
  bool spawn_nodes = true;  // false: nodes are started by hand
  std::string device = "auto";
  int devices = 0;  // of each spawned node; 0: a fair share of this machine
  Address listen{"127.0.0.1", 0};
  std::string output;  // "": the default folder
  std::string ledger;  // file; "": none
  bool keep_files = true;
};

struct TrainingOutcome {
  std::string weights_sha256;
  std::vector<float> weights;
  Job job;
  double seconds = 0;  // of training, first step to last decision
  double seconds_to_first_step = 0;
};

Result<TrainingOutcome> run_training(const TrainingRequest& request, Context& context);

}  // namespace lockstep
