// The states that an output folder still holds.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "host/core/file_system.h"
#include "host/core/result.h"

namespace lockstep {

// Object ids of the whole ones, by step. What is damaged is left out.
std::map<int64_t, std::string> kept_states(FileSystem& files, const std::string& run);
// One of them: bytes as host/runtime/state_file.h has them.
Result<std::string> read_kept_state(FileSystem& files, const std::string& run,
                                    const std::string& id);

}  // namespace lockstep
