// The coordinator as a state machine: (state, message, time) -> (state, actions). No sockets, no
// threads, no clock. One owner, one thread at a time.
//
// A view changes in two moves. Every member is asked to hold: it says where it stands and applies
// no step from then on. When all have said so, the view is made from exact knowledge, logged, and
// sent. Deaths, joins, leaves, a rollback and the coordinator's own return all go this one way.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <variant>
#include <vector>

#include "host/cluster/consumption.h"
#include "host/cluster/joining.h"
#include "host/cluster/messages.h"
#include "host/cluster/records.h"
#include "host/core/result.h"

namespace lockstep {

// What the machine must know of the job.
struct ClusterFacts {
  std::string job;  // JSON, handed to every node
  std::string recipe_sha256;
  int start_nodes = 1;  // to start with
  int min_nodes = 1;    // to go on with; below it the job waits
  int max_nodes = 1;
  int partitions = 1;
  int64_t batch_size = 1;
  int64_t train_rows = 0;
  int64_t validation_rows = 0;
  int64_t epochs = 1;
  int64_t steps_of_epoch = 0;  // 0: a pass over the rows
  int64_t first_batch = 0;     // of its pass: that of step 0
  int slices = 1;
  int64_t metric_sums = 0;  // accumulators of its metrics
  std::string numerics;
  std::string data_digest;
  std::string validation_digest;
  std::string version;
  int lease_ms = 5000;
  int64_t checkpoint_every_ms = 60'000;  // 0: not by time
  int64_t checkpoint_every_steps = 0;    // 0: not by steps
  int64_t verify_every = 1;              // steps between comparisons of state digests; 0: never
  // Whether an epoch is measured on the validation rows; none: each is.
  std::function<bool(int64_t epoch)> validates;
  // Takes the decision at an epoch's end; none: the job trains all its epochs. For the same
  // arguments it decides the same. Nothing: it is not decided yet, the nodes wait, and each tick
  // asks again.
  std::function<std::optional<EpochDecision>(const std::vector<EpochRecord>& before,
                                             const EpochDone& done)>
      decide;
  std::optional<double> learning_rate;  // as EpochDecision's, of the first steps

  int64_t batches_per_pass() const { return (train_rows + batch_size - 1) / batch_size; }
  int64_t steps_per_epoch() const {
    return steps_of_epoch > 0 ? steps_of_epoch : batches_per_pass();
  }
  int64_t rows_of_step(int64_t step) const;
  int64_t validation_rows_of(int64_t epoch) const {
    return validates && !validates(epoch) ? 0 : validation_rows;
  }
};

// What the runtime carries out, in order. Nothing behind an AppendRecord happens before the record
// is durable.
struct AppendRecord {
  JobRecord record;
};
struct SendEvent {
  SessionId session = 0;
  NodeEvent event;
};
struct NodeJoined {
  Member member;
  std::string device;
  int devices = 0;
};
struct ViewMade {
  View view;
};
// Told once a step, when the first member has applied it.
struct StepDone {
  int64_t step = 0;
  int64_t rows = 0;
  MetricSums sums;
  uint64_t digest = 0;  // of the state after it
};
// Samples that are counted now, by whoever contributed them; each (step, partition) once.
struct SamplesConsumed {
  SessionId session = 0;  // 0: nobody lived to tell, but the step was applied
  int64_t step = 0;
  std::vector<PartitionSamples> partitions;
};
// Write the manifest that makes this state a checkpoint and log it, then call checkpoint_durable.
struct CommitCheckpoint {
  StateRef state;
  int64_t samples_consumed = 0;
  std::vector<EpochRecord> epochs;
  bool is_final = false;  // training is over with it
};
struct CheckpointDone {
  int64_t step = 0;
  std::string object;  // of the state
};
// The job goes on from an earlier state.
struct Restored {
  int64_t step = 0;
  int64_t samples_consumed = 0;
  std::string why;
};
struct NodeLeft {
  SessionId session = 0;
  int64_t step = 0;  // steps that it had applied
  std::string why;
};
// Steps go on after a member was lost.
struct Recovered {
  SessionId session = 0;
  std::string name;
  std::string why;
  int64_t step = 0;    // the first that was applied without it
  double seconds = 0;  // from its death, as seen here, to that step
  int partitions = 0;  // partition-steps that others computed again
};
struct JobCompleted {
  StateRef state;
};
struct JobFailed {
  ErrorKind kind = ErrorKind::failed;
  std::string reason;
};
using CoordinatorAction =
    std::variant<AppendRecord, SendEvent, NodeJoined, ViewMade, StepDone, SamplesConsumed,
                 EpochRecord, CommitCheckpoint, CheckpointDone, Restored, NodeLeft, Recovered,
                 JobCompleted, JobFailed>;
using CoordinatorActions = std::vector<CoordinatorAction>;

class Coordinator {
 public:
  // gathering: nodes come, the job has not begun or has too few. changing: members hold.
  enum class Phase { gathering, changing, training, finishing, completed, failed };

  // `recovered` is what the log held; its members may come back for a lease where `may_return`.
  Coordinator(ClusterFacts facts, int64_t term, const RecoveredJob& recovered, bool may_return,
              int64_t now_ms);

  Phase phase() const { return phase_; }
  bool ended() const { return phase_ == Phase::completed || phase_ == Phase::failed; }
  int64_t term() const { return term_; }
  const View& view() const { return view_; }
  int64_t steps_done() const { return steps_done_; }
  const std::vector<CheckpointRecord>& checkpoints() const { return checkpoints_; }
  // As EpochDecision's, of the steps that follow state[step]; where the epoch that it ends is not
  // decided yet, of those before.
  std::optional<double> learning_rate_at(int64_t step) const;

  // Replies are values; what else must happen is appended to `actions`.
  Result<Welcome> hello(const Hello& hello, int64_t now_ms);
  // An error of kind `failed`: who said hello to a coordinator before this one may do so again.
  Status join(const JoinRequest& request, int64_t now_ms, CoordinatorActions* actions);
  // A sign of life. True: the node is known from before this term and shall attach.
  Result<bool> renew(SessionId session, int64_t now_ms);
  Status attach(SessionId session, const Standing& standing, int64_t now_ms,
                CoordinatorActions* actions);
  Status held(const HeldReport& report, int64_t now_ms, CoordinatorActions* actions);
  Status step_applied(const StepReport& report, int64_t now_ms, CoordinatorActions* actions);
  Status epoch_measured(const EpochReport& report, CoordinatorActions* actions);
  // A copy of a state is durable in the object store; its digest was computed from what is there.
  Status snapshot_stored(SessionId session, const StateRef& state, CoordinatorActions* actions);
  void checkpoint_durable(const CheckpointRecord& record, CoordinatorActions* actions);
  Status fault(const FaultReport& report, int64_t now_ms, CoordinatorActions* actions);
  // A node wants to go; it hands over first and is told when it may.
  Status ask_to_leave(SessionId session, CoordinatorActions* actions);
  // A node has gone.
  Status leave(SessionId session, int64_t now_ms, CoordinatorActions* actions);
  void connection_lost(SessionId session, int64_t now_ms);
  // Ends the job from outside (a signal, a full disk).
  void stop(ErrorKind kind, const std::string& reason, CoordinatorActions* actions);
  // The same, failed, once the state in which the nodes are now is durable; at once where that is
  // nothing new. The caller bounds the time, with stop().
  void interrupt(const std::string& reason, CoordinatorActions* actions);
  void tick(int64_t now_ms, CoordinatorActions* actions);

 private:
  struct Node {
    Hello hello;
    JoinRequest join;
    bool joined = false;
    bool attached = true;  // false: of an earlier term, and has not come back yet
    bool left = false;
    bool leaving = false;
    int64_t lease_ends_ms = 0;  // once it has joined: data may take any time to load
    int64_t steps = 0;          // applied, as reported
    bool asked_to_hold = false;
    std::optional<Standing> held;
    int64_t since = -1;  // as Standing::since
    bool live() const { return joined && !left; }
  };
  struct Death {
    SessionId session = 0;
    std::string name;
    std::string why;
    int64_t at_ms = 0;
    int partitions = 0;
  };
  struct Complaint {
    SessionId from = 0;
    SessionId accused = 0;
  };

  // Membership and views: coordinator.cc.
  Result<Node*> member(SessionId session);
  std::vector<OpDigest> expected_canary() const;  // none: whatever comes first
  JoinTerms join_terms() const;
  void change_view(CoordinatorActions* actions);
  void make_view_if_held(CoordinatorActions* actions);
  void announce(const View& previous, CoordinatorActions* actions);
  void node_died(SessionId session, const std::string& how, int64_t now_ms,
                 CoordinatorActions* actions);
  void expel(SessionId session, ErrorKind kind, const std::string& why, int64_t now_ms,
             CoordinatorActions* actions);
  void settle_complaints(int64_t now_ms, CoordinatorActions* actions);
  void finish_leaving(int64_t step, CoordinatorActions* actions);
  void let_leave(const std::function<bool(SessionId)>& may_go, CoordinatorActions* actions);
  void ask_hand_over(CoordinatorActions* actions);
  void hand_over_if_kept(CoordinatorActions* actions);
  void fail(ErrorKind kind, const std::string& reason, CoordinatorActions* actions);
  void send_to_all(const NodeEvent& event, CoordinatorActions* actions);
  bool all_reported_digest(int64_t step) const;
  int live_count() const;
  bool room_may_come(int64_t now_ms) const;
  bool all_attached() const;
  bool too_few_work() const;  // without those that leave
  int working_count() const;
  std::string node_text(SessionId session) const;

  // Steps, epochs, checkpoints: coordinator_reports.cc.
  void count_samples(const StepReport& report, CoordinatorActions* actions);
  void count_applied(CoordinatorActions* actions);
  void compare_digests(int64_t step, int64_t now_ms, CoordinatorActions* actions);
  void corrupted(int64_t step, int64_t now_ms, CoordinatorActions* actions);
  void restored(CoordinatorActions* actions);
  Status check_sums(SessionId session, const MetricSums& sums) const;
  bool is_measured(int64_t batch, int partition) const;
  Status add_validation(const EpochReport& report);
  bool validation_is_whole() const;
  EpochDone summarize_epoch(const EpochReport& report) const;
  void decide_epoch_if_whole(CoordinatorActions* actions);
  bool goes_on_after(const EpochRecord& epoch) const;
  bool is_over() const { return !epochs_.empty() && !goes_on_after(epochs_.back()); }
  // As EpochDecision's, after so many decisions.
  std::optional<double> learning_rate_after(int64_t decided) const;
  EpochEvent event_of(const EpochRecord& epoch) const;
  int64_t end_of_epochs() const;  // the last state of the newest that is decided
  void plan_snapshot(CoordinatorActions* actions);
  void ask_snapshot(int64_t step, CoordinatorActions* actions);
  void ask_another(CoordinatorActions* actions);
  void commit_snapshot_if_agreed(CoordinatorActions* actions);
  void complete_if_durable(CoordinatorActions* actions);
  StateRef newest_state() const;

  const ClusterFacts facts_;
  const int64_t term_;
  Phase phase_ = Phase::gathering;
  int64_t sessions_ = 0;  // of this term
  std::map<SessionId, Node> nodes_;
  View view_;
  std::optional<CanaryRecord> canary_;  // of those that made the first view
  bool started_ = false;                // nodes hold a state, or may
  bool resumed_ = false;                // an earlier term began the job
  int hold_ = 0;  // the number of the view that is being prepared, or was last
  bool restore_wanted_ = false;
  std::string restore_why_;
  std::vector<Death> deaths_;  // since the last step
  std::vector<Complaint> complaints_;
  int64_t verdict_ms_ = 0;

  int64_t steps_done_ = 0;
  std::vector<EpochRecord> epochs_;
  std::optional<EpochReport> epoch_report_;  // of the epoch that is being measured: any member's
  // This epoch's validation, by (batch, partition).
  std::map<std::pair<int64_t, int>, ValidationPart> validation_;
  Consumption consumption_;
  std::map<int64_t, std::map<SessionId, uint64_t>> digests_;  // of state[step + 1], by step
  int corruptions_ = 0;                                       // that no majority could settle
  std::vector<CheckpointRecord> checkpoints_;
  std::optional<StateRef> snapshot_;  // stored, waits for agreement
  SessionId snapshot_from_ = 0;
  std::set<SessionId> doubted_;  // their copies were of other states than what they had reported
  bool committing_ = false;
  std::optional<std::string> interrupted_;     // why
  int64_t interrupted_at_ = 0;                 // steps that were done then
  int64_t hand_over_at_ = 0;                   // when the last that work asked to leave
  int64_t planned_snapshot_ = 0;               // asked for in this view
  int64_t snapshot_asked_ms_ = -1;             // by time
  std::optional<int64_t> most_until_durable_;  // steps, of a checkpoint of this process
  int64_t checkpoint_ms_ = -1;                 // the last, or when training began
};

}  // namespace lockstep
