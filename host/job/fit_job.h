// What a job says as Keras' fit has it: epochs, their steps, their validation, callbacks.
#pragma once

#include <nlohmann/json.hpp>

#include "host/core/result.h"
#include "host/job/callbacks.h"
#include "host/job/job.h"

namespace lockstep {

// epochs, initial_epoch, steps_per_epoch, validation_freq and callbacks, from options or from a
// job's JSON, where all but epochs may be left out. Errors name the option and the remedy.
Status read_fit_options(const nlohmann::json& json, Job* job);
// Those of them that decide bits and are not as they are by default, but for epochs.
nlohmann::json fit_options_json(const Job& job);

// An error where a callback does not go with the rest of the job.
Result<Callbacks> job_callbacks(const Job& job);

// Whether a step leaves a loss that is no number, and every node ends its epoch there:
// TerminateOnNaN. `loss` is the epoch's until now.
bool ends_at_loss(const Job& job, double loss);

}  // namespace lockstep
