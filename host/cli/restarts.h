// When a process that failed is started again. Pure.
#pragma once

#include <cstdint>
#include <optional>

namespace lockstep {

class RestartPolicy {
 public:
  static constexpr int kFirstDelayMs = 200;  // doubles with each failure
  static constexpr int kLongestDelayMs = 5'000;
  static constexpr int64_t kLongLifeMs = 30'000;  // after which all is forgotten
  static constexpr int kMaxRestarts = 5;          // in a row, without any work done

  // The milliseconds to wait after a process that lived so long and did some work or none;
  // nothing where it is given up.
  std::optional<int> after_failure(int64_t lived_ms, bool worked);

 private:
  int idle_failures_ = 0;
  int delay_ms_ = kFirstDelayMs;
};

}  // namespace lockstep
