// A program outside decides at the end of each epoch: an event asks it, and it answers with a line
// of JSON on a pipe. python/README.md has both.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "host/cluster/coordinator.h"
#include "host/core/result.h"
#include "host/job/job.h"

namespace lockstep {

// Thread-safe. Whoever owns it polls: it tells the questions that unasked() gives, calls asked(),
// and read().
class OutsideDecider {
 public:
  // `target`: the number of an open file descriptor, from which answers are read. It is the
  // caller's, and no child process inherits it. An answer is waited for `timeout_s` seconds.
  static Result<std::unique_ptr<OutsideDecider>> open(const std::string& target, int64_t timeout_s);

  // What the log of an earlier term holds is decided: nobody is asked again. Call first.
  void recall(const std::vector<EpochRecord>& epochs);
  // Every decision waits for an answer, which adds to what the job's callbacks decide: a stop of
  // either ends the job, and a rate in the answer holds instead of theirs. Outlives `facts`.
  void take_part(const Job& job, ClusterFacts* facts);

  // The end of an epoch that is to be decided and that nobody was asked about.
  std::optional<EpochDone> unasked() const;
  void asked(int64_t now_ms);
  // Takes what has come, without waiting: whether an answer was in it. Errors: an answer that is
  // none, one that did not come in time, a pipe that is closed.
  Result<bool> read(int64_t now_ms);

 private:
  struct Answer {
    EpochDone of;  // what was asked: the same again gets the same answer
    bool stop = false;
    std::optional<double> learning_rate;
  };

  OutsideDecider(int descriptor, int64_t timeout_s)
      : descriptor_(descriptor), timeout_s_(timeout_s) {}
  // Nothing: not yet.
  std::optional<Answer> answer_to(const EpochDone& done);
  Result<bool> take_lines();
  Status take(const std::string& line);
  Result<Answer> parse(const std::string& line) const;

  const int descriptor_;
  const int64_t timeout_s_;
  int64_t first_epoch_ = 0;  // as Keras counts
  bool rate_is_settable_ = true;

  mutable std::mutex mutex_;           // of what follows
  std::optional<EpochDone> question_;  // that waits for its answer
  std::optional<int64_t> asked_ms_;
  std::map<int64_t, Answer> answers_;  // by epoch
  std::string received_;               // an unfinished line
};

}  // namespace lockstep
