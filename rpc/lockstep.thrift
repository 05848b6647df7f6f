// The control service of the coordinator. Mirrors host/cluster/messages.h, host/cluster/view.h and
// host/runtime/control.h, which explain the fields; host/cluster's kWireVersion rises with any
// change here. Digests are uint64s, carried as the i64 of the same bits.
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

struct Standing {
  1: i32 view
  2: i64 step
  3: bool begun
  4: i64 since
  5: i64 decided_epochs
}

struct HeldReport {
  1: i64 session
  2: i32 number
  3: Standing standing
}

struct PollRequest {
  1: i64 session
  2: i64 term
  3: i64 received
}

struct PartitionRange {
  1: i32 partitions_begin
  2: i32 partitions_end
}

struct Member {
  1: i64 session
  2: string name
  3: string address
  4: PartitionRange partitions
  5: list<PartitionRange> carried
  6: i64 step
}

struct StateRef {
  1: i64 step
  2: string object
  3: i64 digest
  4: i64 bytes
}

struct View {
  1: i32 number
  2: i64 first_step
  3: bool carries
  4: bool restores
  5: StateRef restore
  6: i32 donor
  7: i32 era
  8: i64 decided_epochs
  9: list<Member> members
  10: list<i32> slice_owners
  11: optional double learning_rate
}

struct PartitionSamples {
  1: i32 partition
  2: i32 rows
  3: list<i64> samples
}

struct StepReport {
  1: i64 session
  2: i32 era
  3: i64 step
  4: list<double> sums
  5: i64 digest
  6: list<PartitionSamples> partitions
}

struct ValidationPart {
  1: i64 batch
  2: i32 partition
  3: list<double> sums  // floats, widened
}

struct EpochReport {
  1: i64 session
  2: i32 era
  3: i64 epoch
  4: list<double> sums
  5: list<ValidationPart> validation
  6: i64 step
}

struct FaultReport {
  1: i64 session
  2: i64 accused
  3: i64 step
  4: string what
}

struct HoldEvent {
  1: i32 number
}

struct EpochEvent {
  1: i64 epoch
  2: bool go_on
  3: optional double learning_rate
}

struct SnapshotEvent {
  1: i64 step
}

struct CheckpointEvent {
  1: i64 step
}

struct StopEvent {
  1: i32 kind  // an ErrorKind
  2: bool completed
  3: string reason
}

union NodeEvent {
  1: HoldEvent hold
  2: View view
  3: EpochEvent epoch
  4: SnapshotEvent snapshot
  5: CheckpointEvent checkpoint
  6: StopEvent stop
}

struct PollReply {
  1: i64 term
  2: bool attach
  3: list<NodeEvent> events
}

// A part of a copy of a state.
struct StatePart {
  1: i64 session
  2: i64 step
  3: i64 offset
  4: i64 total
  5: binary bytes
}

// The newest durable state of the job.
struct NewestState {
  1: i64 step
  2: string object
  3: string job
  4: optional double learning_rate
}

struct BatchRange {
  1: i64 batches_begin
  2: i64 batches_end
}

struct WorkRequest {
  1: i64 session
  2: BatchRange done
}

struct WorkReply {
  1: BatchRange batches
  2: bool over
}

struct ResultPart {
  1: i64 session
  2: i32 array
  3: i64 offset
  4: binary bytes
}

service Coordinator {
  Welcome hello(1: Hello hello) throws (1: Refusal refusal)
  void join(1: JoinRequest request) throws (1: Refusal refusal)
  PollReply poll(1: PollRequest request) throws (1: Refusal refusal)
  void attach(1: i64 session, 2: Standing standing) throws (1: Refusal refusal)
  void report_held(1: HeldReport report) throws (1: Refusal refusal)
  void report_step(1: StepReport report) throws (1: Refusal refusal)
  void report_epoch(1: EpochReport report) throws (1: Refusal refusal)
  void report_fault(1: FaultReport report) throws (1: Refusal refusal)
  void upload(1: StatePart part) throws (1: Refusal refusal)
  binary fetch(1: i64 session, 2: string object, 3: i64 offset) throws (1: Refusal refusal)
  void ask_to_leave(1: i64 session) throws (1: Refusal refusal)
  void leave(1: i64 session) throws (1: Refusal refusal)
  string status() throws (1: Refusal refusal)
  NewestState newest_state() throws (1: Refusal refusal)
  binary read_state(1: string object, 2: i64 offset) throws (1: Refusal refusal)
  WorkReply next_batches(1: WorkRequest request) throws (1: Refusal refusal)
  void deliver(1: ResultPart part) throws (1: Refusal refusal)
}
