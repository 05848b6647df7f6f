// "Did you mean": the nearest known name, for messages.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace lockstep {

// The known name with the smallest edit distance to `name`, or "" where none is near.
std::string nearest_name(std::string_view name, const std::vector<std::string>& known);

// "unknown optimizer 'adm'; did you mean 'adam'? Known: adam, sgd"
std::string unknown_name_message(std::string_view what, std::string_view name,
                                 const std::vector<std::string>& known);

}  // namespace lockstep
