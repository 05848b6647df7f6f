// A coordinator's status as a page of text for people.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace lockstep {

// `status` is what the coordinator answers; keys that it lacks are left out.
std::string status_table(const nlohmann::json& status);

}  // namespace lockstep
