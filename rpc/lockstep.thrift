// The control service of the coordinator. Mirrors host/cluster/messages.h, which explains the
// fields; host/cluster's kWireVersion rises with any change here.
namespace cpp lockstep.wire

// An expected failure; `kind` is an ErrorKind.
exception Refusal {
  1: i32 kind
  2: string message
}

struct Hello {
  1: i32 wire_version
  2: string version
  3: string name
}

struct Welcome {
  1: i64 session
  2: i64 term
  3: string job
}

struct OpDigest {
  1: string op
  2: i64 hash
}

struct JoinRequest {
  1: i64 session
  2: string address
  3: i32 devices
  4: string device
  5: string numerics
  6: string data_digest
  7: string validation_digest
  8: list<OpDigest> canary
}

struct Member {
  1: i64 session
  2: string name
  3: string address
  4: i32 partitions_begin
  5: i32 partitions_end
}

struct View {
  1: i32 number
  2: i64 first_step
  3: list<Member> members
  4: list<i32> slice_owners
}

struct PartitionSamples {
  1: i32 partition
  2: i32 rows
  3: list<i64> samples
}

struct StepReport {
  1: i64 session
  2: i32 view
  3: i64 step
  4: double loss_sum
  5: i64 correct
  6: list<PartitionSamples> partitions
}

struct ValidationPart {
  1: i64 batch
  2: i32 partition
  3: i32 rows
  4: double loss_sum  // a float, widened
  5: i64 correct
}

struct EpochReport {
  1: i64 session
  2: i64 epoch
  3: double loss_sum
  4: i64 correct
  5: i64 rows
  6: list<ValidationPart> validation
}

struct FinalReport {
  1: i64 session
  2: string weights_sha256
}

struct FaultReport {
  1: i64 session
  2: i64 accused
  3: i64 step
  4: string what
}

struct EpochDecision {
  1: i64 epoch
  2: bool go_on
}

struct UploadEvent {
}

struct StopEvent {
  1: i32 kind  // an ErrorKind
  2: bool completed
  3: string reason
}

union NodeEvent {
  1: View view
  2: EpochDecision epoch_decision
  3: UploadEvent upload
  4: StopEvent stop
}

service Coordinator {
  Welcome hello(1: Hello hello) throws (1: Refusal refusal)
  void join(1: JoinRequest request) throws (1: Refusal refusal)
  list<NodeEvent> poll(1: i64 session) throws (1: Refusal refusal)
  void report_step(1: StepReport report) throws (1: Refusal refusal)
  void report_epoch(1: EpochReport report) throws (1: Refusal refusal)
  void report_final(1: FinalReport report) throws (1: Refusal refusal)
  void report_fault(1: FaultReport report) throws (1: Refusal refusal)
  void upload(1: i64 session, 2: i64 offset, 3: binary bytes) throws (1: Refusal refusal)
  void leave(1: i64 session) throws (1: Refusal refusal)
  string status() throws (1: Refusal refusal)
}
