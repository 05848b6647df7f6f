// Two recipes against each other, and what of a recipe a state depends on.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "host/job/job.h"

namespace lockstep {

// The hash of the recipe without `epochs`: no state depends on how many epochs are to come, so a
// run may go on from the states of a shorter one.
std::string lineage_sha256(const Job& job);

// A key of the recipe that differs ("optimizer.learning_rate"), with both values as short text.
struct RecipeDifference {
  std::string key;
  std::string theirs;
  std::string mine;
};

// All of them, in the order of the keys. Both may hold more than the recipe, as job.json does.
std::vector<RecipeDifference> recipe_differences(const nlohmann::json& theirs,
                                                 const nlohmann::json& mine);

// "batch_size: 32 there, 16 here; seed: 0 there, 1 here".
std::string there_and_here(const std::vector<RecipeDifference>& differences);

}  // namespace lockstep
