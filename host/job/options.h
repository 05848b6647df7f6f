// The options of a job and of the commands: one table for flags, LOCKSTEP_ variables and job files.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "host/core/result.h"

namespace lockstep {

enum class OptionType { text, integer, number, boolean, list, object, outputs, integers, calls };

struct OptionSpec {
  std::string key;  // "batch_size": --batch-size, LOCKSTEP_BATCH_SIZE
  OptionType type = OptionType::text;
  nlohmann::json default_value;  // null: none
  std::string placeholder;       // for --help
  std::string help;
};

// Keras' words and ours that make up a job.
std::vector<OptionSpec> job_options();

// The object in which every option has its default.
nlohmann::json default_values(const std::vector<OptionSpec>& options);

std::string flag_name(const OptionSpec& option);         // "--batch-size"
std::string environment_name(const OptionSpec& option);  // "LOCKSTEP_BATCH_SIZE"

// A value given as text, as its JSON value of the option's type; `source` names it in messages.
Result<nlohmann::json> parse_option_text(const OptionSpec& option, const std::string& text,
                                         const std::string& source);

// Checks a JSON object against the specs: unknown keys, wrong types.
Status check_option_object(const std::vector<OptionSpec>& options, const nlohmann::json& object,
                           const std::string& source);

// The most steps that any option takes.
inline constexpr int64_t kMaxSteps = int64_t{1} << 40;

Status check_range(const char* flag, int64_t value, int64_t least, int64_t most);

}  // namespace lockstep
