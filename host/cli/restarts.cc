#include "host/cli/restarts.h"

#include <algorithm>

namespace lockstep {

std::optional<int> RestartPolicy::after_failure(int64_t lived_ms, bool worked) {
  const bool lived_long = lived_ms >= kLongLifeMs;
  if (lived_long) delay_ms_ = kFirstDelayMs;
  if (lived_long || worked) idle_failures_ = 0;
  if (++idle_failures_ > kMaxRestarts) return std::nullopt;
  const int delay_ms = delay_ms_;
  delay_ms_ = std::min(2 * delay_ms_, kLongestDelayMs);
  return delay_ms;
}

}  // namespace lockstep
