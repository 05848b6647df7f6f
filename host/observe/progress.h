// What a person sees while a job runs: a progress bar on a terminal, plain lines elsewhere.
#pragma once

#include <chrono>
#include <cstdio>
#include <string>

#include "host/cluster/coordinator.h"
#include "host/job/job.h"

namespace lockstep {

// Writes to standard error. Not thread-safe: the coordinator calls it under its lock.
class Progress {
 public:
  // Colour and the moving bar only where `stream` is a terminal and NO_COLOR is not set.
  // `begin` is when the command began.
  Progress(const Job& job, std::FILE* stream, std::chrono::steady_clock::time_point begin);
  void observe(const CoordinatorAction& action);
  void line(const std::string& text);

 private:
  using Clock = std::chrono::steady_clock;
  void step_done(const StepDone& step);
  void epoch_done(const EpochDone& epoch);
  void draw(const StepDone& step);
  void clear();

  const Job job_;
  std::FILE* const stream_;
  const std::chrono::steady_clock::time_point begin_;
  const bool terminal_;
  const bool colour_;
  Clock::time_point epoch_begin_ = Clock::now();
  Clock::time_point last_drawn_{};
  double loss_sum_ = 0;
  int64_t correct_ = 0;
  int64_t rows_ = 0;
  bool drawn_ = false;
};

}  // namespace lockstep
