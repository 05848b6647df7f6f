// What is decided once at the end of an epoch, for the whole cluster and for good: a record of the
// coordinator's log. Whoever decides, a job's callbacks or somebody outside, decides with this.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace lockstep {

struct EpochDecision {
  bool stop = false;  // the job ends here, whatever epochs were to come
  // Of the steps from here on, a float32; none: the optimizer's own, to the last bit.
  std::optional<double> learning_rate;
  // Epochs of the job, counted from 0, whose last states are kept: rising.
  std::vector<int64_t> keep;
  // If the job ends here its weights are those of this epoch's end; none: the last state's.
  std::optional<int64_t> best;
  std::vector<std::string> notes;  // for people
  bool operator==(const EpochDecision&) const = default;
};

}  // namespace lockstep
