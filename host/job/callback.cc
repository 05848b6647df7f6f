#include "host/job/callback.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "host/core/suggest.h"

namespace lockstep {
std::optional<float> EpochLogs::value(const std::string& name) const {
  const auto found = values.find(name);
  if (found == values.end()) return std::nullopt;
  return static_cast<float>(found->second);
}

void CallbackScope::set_rate(double rate) {
  learning_rate = static_cast<float>(rate);
  rate_was_set = true;
}

std::vector<std::string> CallbackContext::names() const {
  std::vector<std::string> names = metrics;
  if (!has_validation) return names;
  for (const std::string& metric : metrics) names.push_back("val_" + metric);
  return names;
}

Result<int64_t> whole_number(const nlohmann::json& config, const char* key, int64_t least) {
  const int64_t value = config.at(key);
  if (value >= least) return value;
  return usage_error(fmt::format("{} must be at least {}, not {}", key, least, value));
}

Status check_rate_is_settable(const CallbackContext& context) {
  if (!context.rate_is_schedule) return {};
  return usage_error(
      "the optimizer's learning rate is a schedule, which nothing may change; give it a number");
}

Result<Monitor> Monitor::create(const nlohmann::json& config, const CallbackContext& context) {
  Monitor monitor;
  monitor.name_ = config.at("monitor");
  const auto names = context.names();
  if (std::find(names.begin(), names.end(), monitor.name_) == names.end()) {
    const bool lacks_validation = !context.has_validation && monitor.name_.starts_with("val_");
    return usage_error(unknown_name_message("monitor", monitor.name_, names) +
                       (lacks_validation
                            ? "; the job has no validation: --validation-split or --validation-data"
                            : ""));
  }
  const std::string mode = config.at("mode");
  if (mode != "auto" && mode != "min" && mode != "max") {
    return usage_error(fmt::format("mode must be auto, min or max, not '{}'", mode));
  }
  const std::string metric =
      monitor.name_.starts_with("val_") ? monitor.name_.substr(4) : monitor.name_;
  const auto& rising = context.rising;
  const bool rises = std::find(rising.begin(), rising.end(), metric) != rising.end();
  monitor.rises_ = mode == "max" || (mode == "auto" && rises);
  monitor.min_delta_ = std::fabs(config.at("min_delta").get<double>());
  return monitor;
}

// Keras takes the difference in double and compares float32s.
bool Monitor::improves(float value, std::optional<float> than) const {
  if (!than) return true;
  const double wide = value;
  return rises_ ? static_cast<float>(wide - min_delta_) > *than
                : static_cast<float>(wide + min_delta_) < *than;
}

std::vector<ConfigKey> monitor_keys() {
  return {{"monitor", KeyKind::text, "val_loss"},
          {"mode", KeyKind::text, "auto"},
          {"min_delta", KeyKind::number, 0.0}};
}

}  // namespace lockstep
