// A coordinator's status as a page of text for people.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace lockstep {

// What a status, or a part of it, has under a key; null where it has none.
nlohmann::json status_member(const nlohmann::json& object, const char* key);

// `status` is what the coordinator answers; keys that it lacks are left out.
std::string status_table(const nlohmann::json& status);

}  // namespace lockstep
