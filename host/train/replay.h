// Steps of two runs computed again on this machine, to say where their bits part.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "host/core/file_system.h"
#include "host/core/result.h"
#include "host/runtime/device_team.h"

namespace lockstep {

// How the gradients of one step differ. Both runs cut its batch into the same partitions.
struct GradientDifference {
  std::vector<int> partitions;  // those that differ
  // Of the first of them: which rows of the batch it holds, and its first layer that differs.
  int64_t first_row = 0;
  int64_t end_row = 0;
  std::string layer;   // "" where only the loss or the metrics do
  int64_t values = 0;  // of that layer's gradients that differ
  double largest = 0;  // absolute difference
};

// One of the two runs, computed again up to and with the step at which they part.
struct ReplayedRun {
  int64_t from = 0;          // the step of the state that it was computed from
  bool as_recorded = false;  // the step ends with the digest that the run recorded
};

struct Replayed {
  ReplayedRun left;
  ReplayedRun right;
  bool same_partitions = false;  // else `gradients` says nothing
  std::optional<GradientDifference> gradients;
};

// Devices for numerics, as a job names them.
using NumericsFactory = std::function<DeviceFactory(const std::string& numerics)>;

// The runs' jobs, each from the newest state before `step` that it has kept, or from its start.
// `data`: where the data of both is; "": where each job says. Errors say what is missing, or that
// already a step before is not what the run recorded.
Result<Replayed> replay_step(FileSystem& files, const std::string& left, const std::string& right,
                             int64_t step, const std::string& data, const NumericsFactory& factory);

}  // namespace lockstep
