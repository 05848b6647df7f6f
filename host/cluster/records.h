// What the coordinator must not forget: the records of its log, and what follows from them.
#pragma once

#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "host/cluster/messages.h"
#include "host/cluster/view.h"
#include "host/core/epoch_decision.h"
#include "host/core/metric_sums.h"
#include "host/core/result.h"

namespace lockstep {

// The end of an epoch: the sums of its metrics.
struct EpochDone {
  int64_t epoch = 0;
  MetricSums sums;
  MetricSums validation;  // none without validation
  // Where the nodes ended it before its last step: it ends with state[cut_at]. 0: they did not.
  int64_t cut_at = 0;

  // The state with which it ends.
  int64_t last_state(int64_t steps_per_epoch) const {
    return cut_at > 0 ? cut_at : (epoch + 1) * steps_per_epoch;
  }
  bool operator==(const EpochDone&) const = default;
};

struct RunRecord {
  std::string recipe_sha256;
  bool operator==(const RunRecord&) const = default;
};
struct TermRecord {  // its term is the log's
  bool operator==(const TermRecord&) const = default;
};
struct ViewRecord {
  View view;
  bool operator==(const ViewRecord&) const = default;
};
struct EpochRecord {
  EpochDone done;
  EpochDecision decision;
  bool operator==(const EpochRecord&) const = default;
};
struct CheckpointRecord {
  StateRef state;
  std::string manifest;  // object id
  int64_t samples_consumed = 0;
  bool operator==(const CheckpointRecord&) const = default;
};
// What the nodes that began the job computed of its canary: nodes that come when all of these are
// gone must compute the same.
struct CanaryRecord {
  std::string version;  // of Lockstep
  std::vector<OpDigest> ops;
  bool operator==(const CanaryRecord&) const = default;
};
struct EndRecord {
  bool operator==(const EndRecord&) const = default;
};
using JobRecord = std::variant<RunRecord, TermRecord, CanaryRecord, ViewRecord, EpochRecord,
                               CheckpointRecord, EndRecord>;

// JSON, one line.
std::string encode_record(const JobRecord& record);
Result<JobRecord> decode_record(const std::string& body);
// For people: "VIEW 3 from step 120: 2 members". The caller may say what sums of metrics mean.
std::string describe_record(const JobRecord& record, const DescribeSums& describe_sums = {});

// What a coordinator knows when it comes back.
struct RecoveredJob {
  std::string recipe_sha256;  // "": a new log
  std::optional<CanaryRecord> canary;
  std::optional<View> view;
  std::vector<EpochRecord> epochs;
  std::vector<CheckpointRecord> checkpoints;  // oldest first
  bool ended = false;
};
RecoveredJob recover_job(const std::vector<JobRecord>& records, int64_t steps_per_epoch);

// Whether the state is the last of an epoch that the newest decision keeps.
bool is_kept(int64_t step, const std::vector<EpochRecord>& epochs, int64_t steps_per_epoch);
// The state whose weights are the job's, if the last of `epochs` is its last: none where it is not
// among the checkpoints.
std::optional<StateRef> final_state(const std::vector<EpochRecord>& epochs,
                                    const std::vector<CheckpointRecord>& checkpoints,
                                    int64_t steps_per_epoch);

// The fewest records from which the same job recovers.
std::vector<JobRecord> compacted(const RecoveredJob& job);

}  // namespace lockstep
