// How a run goes about its job: nodes, checkpoints, verification. None of it is part of the recipe,
// since none of it can change bits.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "host/core/result.h"
#include "host/job/options.h"

namespace lockstep {

struct NodeCounts {
  int start = 1;  // to start with
  int least = 1;  // to go on with; below it the job waits
  int most = 1;
  bool operator==(const NodeCounts&) const = default;
};

struct CheckpointInterval {
  int64_t ms = 60'000;  // 0: not by time
  int64_t steps = 0;    // 0: not by steps
  bool operator==(const CheckpointInterval&) const = default;
};

struct RunOptions {
  NodeCounts nodes;
  CheckpointInterval checkpoint_every;
  int keep_checkpoints = 3;
  int64_t verify_every = 1;  // steps; 0: never
  int lease_ms = 5000;
  bool keep_ledger = false;
};

// --nodes, --checkpoint-every, --keep-checkpoints, --verify-every, --lease.
std::vector<OptionSpec> run_options();
// Reads the values of those options. Errors name the flag and what it takes.
Result<RunOptions> run_options_from(const nlohmann::json& values);

// Why so many nodes cannot run a job that is not `exact`: two nodes must have the same bits, and
// one that takes over from another would compute others.
Status check_nodes(const NodeCounts& nodes, bool exact);

// "3": start with 3, go on with any of them. "2:4": start and go on with 2, up to 4 may join.
Result<NodeCounts> parse_nodes(const std::string& text);
// "60s", "500steps", "60" (seconds), "0" (only at the ends of epochs).
Result<CheckpointInterval> parse_checkpoint_every(const std::string& text);

}  // namespace lockstep
