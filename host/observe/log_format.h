// Log lines for machines: one JSON object a line.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace lockstep {

// Where a process stands when it says something.
struct LogFields {
  std::string job;   // the recipe's hash, shortened; "" before there is one
  std::string node;  // "coordinator", or the node's name
  int64_t term = 0;
  int64_t view = 0;
  int64_t step = 0;
};

// {"time": "2026-01-31T12:00:00.123Z", "job": …, "node": …, "term": …, "view": …, "step": …,
// "message": …} and a newline.
std::string json_log_line(const LogFields& fields, const std::string& message,
                          std::chrono::system_clock::time_point now);

// The first digits of a recipe's hash, by which a log names its job.
std::string short_job(const std::string& recipe_sha256);

}  // namespace lockstep
