// Runs a scenario with a defect in a process of its own, to see whether the defect is found.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

namespace lockstep::emulated {

struct Verdict {
  bool found = false;
  std::string how;  // the last words of the process, where it didn't return
};

// `scenario` returns whether the results are right. Found: it ends the process, or returns false.
Verdict watch(const std::function<bool()>& scenario);

// With seeds from 1 on, until it is found three times.
struct Tally {
  int found = 0, tried = 0;
  std::string how;  // of the first that was found
};
Tally watch_seeds(const std::function<bool(uint64_t seed)>& scenario);

}  // namespace lockstep::emulated
