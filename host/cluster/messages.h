// What coordinator and nodes say to each other. Plain values; rpc/ carries them.
#pragma once

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "host/core/partitions.h"
#include "host/core/result.h"

namespace lockstep {

// Of control and tensor messages; both ends must have the same.
inline constexpr int kWireVersion = 1;

using SessionId = int64_t;

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

struct Member {
  SessionId session = 0;
  std::string name;
  std::string address;
  PartitionRange partitions;  // empty: a spare, which holds the state and owns nothing
  bool operator==(const Member&) const = default;
};

// Who computes what from which step on, who owns which slice.
struct View {
  int number = 0;
  int64_t first_step = 0;
  std::vector<Member> members;    // in the order of their sessions
  std::vector<int> slice_owners;  // for each slice an index into members
  bool operator==(const View&) const = default;
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
  int view = 0;
  int64_t step = 0;
  double loss_sum = 0;  // over the global batch
  int64_t correct = 0;
  std::vector<PartitionSamples> partitions;
};

// The two metrics of one partition of one validation batch.
struct ValidationPart {
  int64_t batch = 0;
  int partition = 0;
  int rows = 0;
  float loss_sum = 0;
  int64_t correct = 0;
};

// When a node has applied an epoch's last step and measured its share of the validation rows.
struct EpochReport {
  SessionId session = 0;
  int64_t epoch = 0;
  double loss_sum = 0;  // over the epoch, the state's accumulator
  int64_t correct = 0;
  int64_t rows = 0;
  std::vector<ValidationPart> validation;
};

// When a node has finished the job.
struct FinalReport {
  SessionId session = 0;
  std::string weights_sha256;
};

// A node's own failure, or what it sees of another's.
struct FaultReport {
  SessionId session = 0;
  SessionId accused = 0;  // 0: nobody else
  int64_t step = 0;
  std::string what;
};

// What the coordinator tells a node, in order.
struct ViewEvent {
  View view;
};
struct EpochDecision {
  int64_t epoch = 0;
  bool go_on = true;
};
struct UploadEvent {};  // send me the final weights
struct StopEvent {      // end now
  ErrorKind kind = ErrorKind::failed;
  bool completed = false;  // nothing went wrong
  std::string reason;
};
using NodeEvent = std::variant<ViewEvent, EpochDecision, UploadEvent, StopEvent>;

}  // namespace lockstep
