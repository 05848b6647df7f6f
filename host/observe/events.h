// What a program reads while a command runs: one JSON object a line. python/README.md lists them.
#pragma once

#include <chrono>
#include <nlohmann/json.hpp>
#include <string>

#include "host/cluster/coordinator.h"
#include "host/core/result.h"
#include "host/job/job.h"
#include "host/job/metric_table.h"

namespace lockstep {

// The number of a file descriptor that the parent process has passed on; no child of this process
// inherits it. `flag` is named in errors.
Result<int> passed_descriptor(const std::string& flag, const std::string& text);

// Lines for whoever reads the other end of a pipe. say() never waits: lines are kept until the
// main thread writes them. Not thread-safe.
class EventStream {
 public:
  // "-" is standard output, a number an open file descriptor, which no child process inherits.
  static Result<EventStream> open(const std::string& target);
  EventStream(EventStream&& other) noexcept;
  EventStream& operator=(EventStream&&) = delete;
  ~EventStream() = default;  // the descriptor is the caller's

  // `event` is an object; NaN and infinities become null.
  void say(const std::string& name, nlohmann::json event);
  // Whether so much waits that what is not needed should be left out.
  bool is_full() const;
  // Writes what the reader takes without waiting. An error: there is no reader any more.
  Status flush();
  // Writes all, for at most `timeout_ms`.
  Status finish(int timeout_ms);

 private:
  explicit EventStream(int descriptor) : descriptor_(descriptor) {}
  Status write_piece();
  bool can_write(int timeout_ms) const;

  int descriptor_ = -1;
  std::string waiting_;
};

// A job's events, from what the coordinator does. Called under its lock.
class JobEvents {
 public:
  // `stream` outlives it.
  JobEvents(const Job& job, EventStream& stream);
  // The first: what the job is. `parameters`: all weights of the model.
  void resolved(int64_t parameters, const std::string& output);
  void observe(const CoordinatorAction& action);
  // Asks for the decision at an epoch's end.
  void ask(const EpochDone& epoch);

 private:
  using Clock = std::chrono::steady_clock;
  void step_done(const StepDone& step);
  void epoch_done(const EpochDone& epoch);
  void begin_epoch();
  nlohmann::json logs_of(const EpochDone& epoch) const;
  nlohmann::json logs(const MetricSums& sums, const std::string& prefix) const;
  const std::string& name_of(SessionId session) { return names_[session]; }

  const Job job_;
  const MetricTable metrics_;
  EventStream& stream_;
  std::map<SessionId, std::string> names_;
  MetricSums sums_;  // of the epoch so far
  Clock::time_point epoch_begin_ = Clock::now();
  Clock::time_point last_step_{};
};

}  // namespace lockstep
