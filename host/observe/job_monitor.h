// What a running job is doing, for `lockstep status` and for monitoring systems: gathered from what
// happens, told as JSON.
#pragma once

#include <deque>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "host/cluster/coordinator.h"
#include "host/job/job.h"
#include "host/job/metric_table.h"

namespace lockstep {

// Not thread-safe. Moments are seconds since any fixed one.
class JobMonitor {
 public:
  explicit JobMonitor(const Job& job);
  void observe(const CoordinatorAction& action, double now);

  // The keys that a status has beside those of CoordinatorRuntime::status():
  //   job            what it trains: model, data, numerics, recipe, partitions, epochs, …
  //   epoch          from 0, or from the job's initial one
  //   step_seconds, samples_per_second      over the last steps; null before there are two
  //   samples        consumed since this coordinator began
  //   metrics        of this epoch so far, by name; validation: of the last one
  //   nodes          how many are working, spare, joining, and have been lost
  //   recoveries, restores                  how often; last_recoveries: the newest, first
  //   checkpoint_age_seconds                null before there is one
  nlohmann::json json(double now) const;

 private:
  void step_done(const StepDone& step, double now);
  void epoch_done(const EpochDone& epoch);
  void recovered(const Recovered& recovered);
  nlohmann::json nodes_json() const;
  nlohmann::json named(const MetricSums& sums) const;

  struct Moment {
    double seconds = 0;
    int64_t rows = 0;
  };

  const Job job_;
  const MetricTable metrics_;
  const std::string recipe_;
  std::deque<Moment> steps_;  // the last ones
  int64_t step_ = 0;
  int64_t samples_ = 0;
  MetricSums sums_;  // of this epoch
  bool summed_ = false;
  nlohmann::json last_metrics_;  // of the epoch before
  nlohmann::json validation_;
  std::set<SessionId> live_;
  std::map<SessionId, bool> members_;  // of the view: whether it has partitions
  int lost_ = 0;
  int recoveries_ = 0;
  int restores_ = 0;
  std::deque<nlohmann::json> last_recoveries_;
  double checkpoint_seconds_ = -1;  // when the newest became durable
};

}  // namespace lockstep
