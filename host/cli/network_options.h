// --tls and --insecure, for every command that talks over a network.
#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "host/cli/commands.h"
#include "host/core/result.h"
#include "host/job/options.h"

namespace lockstep {

// For commands that only ask: `listens` is false.
std::vector<OptionSpec> network_options(bool listens);

// Gives the context the network that the values ask for. `log` gets warnings and who was refused,
// from any thread, for as long as the network lives.
Status use_network(const nlohmann::json& values, Context& context,
                   std::function<void(const std::string&)> log);

}  // namespace lockstep
