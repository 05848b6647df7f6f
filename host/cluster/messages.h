// What coordinator and nodes say to each other. Plain values; rpc/ carries them.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "host/cluster/view.h"
#include "host/core/metric_sums.h"
#include "host/core/partitions.h"
#include "host/core/result.h"

namespace lockstep {

// Of control and tensor messages; both ends must have the same.
inline constexpr int kWireVersion = 6;

// A node's first words.
struct Hello {
  int wire_version = kWireVersion;
  std::string version;  // LOCKSTEP_VERSION, for messages
  std::string name;     // a label
};

// The coordinator's answer: a session of its own, and the job.
struct Welcome {
  SessionId session = 0;
  int64_t term = 0;
  std::string job;  // the resolved job, JSON
};

struct OpDigest {
  std::string op;
  int64_t hash = 0;
  bool operator==(const OpDigest&) const = default;
};

// What a node must show before it may join.
struct JoinRequest {
  SessionId session = 0;
  std::string address;  // HOST:PORT of its tensor streams; an empty host means: as you see me
  int devices = 0;
  std::string device;  // description, for the report
  std::string numerics;
  std::string data_digest;
  std::string validation_digest;
  std::vector<OpDigest> canary;
};

// Where a node stands: said when it is asked to hold, and to a coordinator that was away.
struct Standing {
  int view = 0;        // the last that it adopted; 0: none
  int64_t step = -1;   // state[step] is here; -1: no state yet
  bool begun = false;  // it has begun to compute `step`
  int64_t since = -1;  // state[since] was given to it; from there on it has applied all itself
  int64_t decided_epochs = 0;
  bool operator==(const Standing&) const = default;
};

// "I hold": until the view of this number comes I apply no step.
struct HeldReport {
  SessionId session = 0;
  int number = 0;
  Standing standing;
};

// A node's sign of life, and what it has had of this term's events.
struct PollRequest {
  SessionId session = 0;
  int64_t term = 0;
  int64_t received = 0;
};

// The rows that a node contributed to a step, partition by partition: the ledger's entries.
struct PartitionSamples {
  int partition = 0;
  int rows = 0;
  std::vector<int64_t> samples;  // only where the job keeps a ledger
};

// One small report a step, when the node has applied it.
struct StepReport {
  SessionId session = 0;
  int era = 0;  // the view's: what was said before a restore does not count
  int64_t step = 0;
  MetricSums sums;      // over the global batch
  uint64_t digest = 0;  // of state[step + 1]; 0: not computed
  std::vector<PartitionSamples> partitions;
};

// The metrics of one partition of one validation batch. Its sums are floats.
struct ValidationPart {
  int64_t batch = 0;
  int partition = 0;
  MetricSums sums;
};

// Adds a batch: its partitions as floats in the order of the tree, whatever the order of `parts`.
// Each has as many sums as `sums`.
void add_batch(std::span<const ValidationPart> parts, int partitions, MetricSums* sums);

// When a node has applied an epoch's last step and measured partitions of the validation rows.
struct EpochReport {
  SessionId session = 0;
  int era = 0;  // as StepReport::era
  int64_t epoch = 0;
  int64_t step = 0;  // state[step] ends it: before its last step where the nodes cut it short
  MetricSums sums;   // over the epoch, the state's accumulators
  std::vector<ValidationPart> validation;
};

// A node's own failure, or what it sees of another's.
struct FaultReport {
  SessionId session = 0;
  SessionId accused = 0;  // 0: nobody else
  int64_t step = 0;
  std::string what;
};

// Batches [begin, end) of a data set, in the order of its rows.
struct BatchRange {
  int64_t begin = 0;
  int64_t end = 0;
  int64_t size() const { return end - begin; }
  bool empty() const { return begin == end; }
  bool operator==(const BatchRange&) const = default;
};

// Where nodes measure or predict: a node asks for batches. `done` are those that it was given
// before and whose results are delivered.
struct WorkRequest {
  SessionId session = 0;
  BatchRange done;
};
struct WorkReply {
  BatchRange batches;  // empty: none now, ask again
  bool over = false;   // there will be none
};

// Of what the batches that a node was given make of an array of results: bytes of the whole array
// from `offset` on. A node delivers the bytes of its batches in order.
struct ResultPart {
  SessionId session = 0;
  int array = 0;
  int64_t offset = 0;
  std::string bytes;
};

// What the coordinator tells a node, in order.
struct HoldEvent {  // a view is about to change: say where you stand and apply no step until it
                    // comes
  int number = 0;
};
struct ViewEvent {
  View view;
};
struct EpochEvent {  // what was decided at the end of an epoch (core/epoch_decision.h)
  int64_t epoch = 0;
  bool go_on = true;
  std::optional<double> learning_rate;
};
struct SnapshotEvent {  // send a copy of state[step] when it is here
  int64_t step = 0;     // 0: of the next that is
};
struct CheckpointEvent {  // state[step] is durable
  int64_t step = 0;
};
struct StopEvent {  // end now
  ErrorKind kind = ErrorKind::failed;
  bool completed = false;  // nothing went wrong
  std::string reason;
};
using NodeEvent =
    std::variant<HoldEvent, ViewEvent, EpochEvent, SnapshotEvent, CheckpointEvent, StopEvent>;

struct PollReply {
  int64_t term = 0;
  // The coordinator was away and does not know where this node stands: it shall say so (attach).
  bool attach = false;
  std::vector<NodeEvent> events;
};

}  // namespace lockstep
