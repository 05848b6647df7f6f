// `lockstep bench average`: the exchange of gradients alone, among processes over loopback.
#pragma once

#include <nlohmann/json.hpp>

#include "host/cli/commands.h"
#include "host/core/result.h"

namespace lockstep {

// Starts the processes and returns the median seconds of one average.
Result<nlohmann::json> bench_average(const nlohmann::json& values, Context& context);
// One of them; they find each other through files in --folder.
Result<nlohmann::json> bench_average_process(const nlohmann::json& values, Context& context);

}  // namespace lockstep
