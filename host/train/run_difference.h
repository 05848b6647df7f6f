// Where the bits of two runs part: from their recipes, the digests of their states, and the
// checkpoints that they have in common. Computes nothing again: replay.h does.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "host/core/file_system.h"
#include "host/core/result.h"
#include "host/graph/graph.h"
#include "host/job/job.h"
#include "host/job/recipe.h"

namespace lockstep {

// How the weights of a layer differ between two states of the same step.
struct LayerDifference {
  std::string layer;          // the first, in the order of the model, with weights that differ
  int64_t weights = 0;        // of it that differ
  double largest = 0;         // absolute difference
  std::string largest_layer;  // of all layers
  double largest_of_all = 0;
};

struct RunDifference {
  std::vector<RecipeDifference> recipe;  // `theirs` is the left run, `mine` the right one
  int64_t left_steps = 0;
  int64_t right_steps = 0;
  int64_t compared_steps = 0;  // those of which both know the digest
  // state[step + 1] is the first that differs.
  std::optional<int64_t> step;
  // The newest checkpoint that both have before the difference, and the first that they have
  // after it.
  std::optional<int64_t> common_before;
  std::optional<int64_t> common_after;
  std::optional<LayerDifference> layer;  // in the latter
  bool optimizer_only = false;           // its weights are the same, its slots are not

  bool same() const { return !step && left_steps == right_steps; }
};

using ParametersOf = std::function<Result<std::vector<Parameter>>(const Job&)>;

// Two output folders. An error where nothing can be compared. Checkpoints that are damaged are
// left out.
Result<RunDifference> compare_runs(FileSystem& files, const std::string& left,
                                   const std::string& right, const ParametersOf& parameters_of);

// The first layer whose weights differ; nothing where none does. Both have all the parameters.
std::optional<LayerDifference> compare_weights(const std::vector<Parameter>& parameters,
                                               std::string_view left, std::string_view right);

}  // namespace lockstep
