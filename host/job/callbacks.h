// A job's callbacks, as Keras has them: what they decide at the end of an epoch follows from what
// was measured and decided before, and from nothing else, so that a coordinator that comes back
// takes the same decision from its log.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "host/core/epoch_decision.h"
#include "host/core/result.h"
#include "host/job/callback.h"

namespace lockstep {

struct DecidedEpoch {
  EpochLogs logs;
  EpochDecision decision;
};

class Callbacks {
 public:
  // `list`: as resolve_callbacks() has it.
  static Result<Callbacks> create(const nlohmann::json& list, CallbackContext context);

  // At the end of an epoch, after those of `before`, which are all there were.
  EpochDecision decide(const std::vector<DecidedEpoch>& before, const EpochLogs& now) const;
  // What is written at the end of the last of these epochs, which are all there were.
  Result<std::vector<SavedModel>> saved_models(std::span<const EpochLogs> epochs) const;
  // Of the job's first steps: those of epoch `epoch` as Keras counts. None: the optimizer's own.
  std::optional<double> first_learning_rate(int64_t epoch) const;

 private:
  std::vector<std::unique_ptr<Callback>> begin() const;

  nlohmann::json list_;
  CallbackContext context_;
};

// A job's list of callbacks, from Keras' objects, {"class_name": "EarlyStopping", "config": {…}},
// or from calls as Python writes them, "EarlyStopping(patience=3)": every key of each filled in.
// Errors name the callback and the nearest known name or key.
Result<nlohmann::json> resolve_callbacks(const nlohmann::json& list);

// Those that decide bits: they are part of the recipe.
nlohmann::json deciding_callbacks(const nlohmann::json& list);
// Whether the list has one of this class.
bool has_callback(const nlohmann::json& list, const std::string& class_name);

// "EarlyStopping(monitor='val_loss', patience=3), TerminateOnNaN()" as a list of objects. Values:
// numbers, True, False, None, words with or without quotes, JSON's objects and lists.
Result<nlohmann::json> parse_calls(const std::string& text);

}  // namespace lockstep
