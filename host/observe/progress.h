// What a person sees while a job runs: a progress bar on a terminal, plain lines elsewhere.
#pragma once

#include <chrono>
#include <cstdio>
#include <map>
#include <optional>
#include <set>
#include <string>

#include "host/cluster/coordinator.h"
#include "host/job/job.h"
#include "host/job/metric_table.h"
#include "host/observe/log_format.h"

namespace lockstep {

// Writes to standard error. Not thread-safe: the coordinator calls it under its lock.
class Progress {
 public:
  // Colour and the moving bar only where `stream` is a terminal and NO_COLOR is not set.
  // `begin` is when the command began.
  // With `json` each line is an object for machines, and there is no bar.
  Progress(const Job& job, std::FILE* stream, std::chrono::steady_clock::time_point begin,
           bool json = false);
  // The coordinator's term, for lines of JSON.
  void set_term(int64_t term) { fields_.term = term; }
  // The job was begun by a coordinator of before: the first view says from where it goes on.
  // `former`: its last view, if it had made one.
  void resumed(int64_t term, const std::optional<View>& former);
  void observe(const CoordinatorAction& action);
  void line(const std::string& text);

 private:
  using Clock = std::chrono::steady_clock;
  void node_joined(const NodeJoined& joined);
  void view_made(const View& view);
  void node_left(const NodeLeft& left);
  void recovered(const Recovered& recovered);
  void restored(const Restored& restored);
  void step_done(const StepDone& step);
  void epoch_done(const EpochDone& epoch);
  void begin_counting();
  void draw(const StepDone& step);
  void clear();
  std::string name_of(SessionId session) const;

  const Job job_;
  const MetricTable metrics_;
  const bool json_;
  LogFields fields_;
  std::FILE* const stream_;
  const std::chrono::steady_clock::time_point begin_;
  const bool terminal_;
  const bool colour_;
  std::map<SessionId, std::string> names_;
  std::set<SessionId> live_;
  std::set<SessionId> spares_;
  std::optional<int64_t> resumed_term_;
  bool begun_ = false;  // the first view was made
  bool over_ = false;
  bool first_step_told_ = false;
  Clock::time_point last_drawn_{};
  // Since the epoch began here, or went on from an earlier state.
  Clock::time_point epoch_begin_ = Clock::now();
  MetricSums sums_;
  int64_t rows_ = 0;
  bool drawn_ = false;
};

}  // namespace lockstep
