// The command line: flags over LOCKSTEP_ variables over a job file over defaults.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "host/core/result.h"
#include "host/job/options.h"
#include "host/tensor/shape.h"

namespace lockstep {

// The values of all options by key; absent ones hold their defaults. Knows --key value, --key=value
// and, for booleans, --key and --no-key. With an option "job", that file's keys come in between;
// it may only hold job options. `base` wins over the defaults.
Result<nlohmann::json> parse_arguments(const std::vector<OptionSpec>& options,
                                       const std::vector<std::string>& arguments,
                                       const nlohmann::json& base = nlohmann::json::object());

// The shape that the texts of a list are: ["224", "224", "3"]. `flag`: for messages.
Result<Shape> shape_from(const nlohmann::json& texts, const std::string& flag);

// One line an option.
std::string options_help(const std::vector<OptionSpec>& options);

}  // namespace lockstep
