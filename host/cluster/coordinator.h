// The coordinator as a state machine: (state, message, time) -> (state, actions). No sockets, no
// threads, no clock. One owner, one thread at a time.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "host/cluster/messages.h"
#include "host/core/result.h"

namespace lockstep {

// What the machine must know of the job.
struct ClusterFacts {
  std::string job;  // JSON, handed to every node
  int nodes = 1;    // the number to start with
  int partitions = 1;
  int64_t batch_size = 1;
  int64_t train_rows = 0;
  int64_t validation_rows = 0;
  int64_t epochs = 1;
  int slices = 1;
  std::string numerics;
  std::string data_digest;
  std::string validation_digest;
  std::string version;
  int lease_ms = 5000;
  int64_t steps_per_epoch() const { return (train_rows + batch_size - 1) / batch_size; }
  int64_t rows_of_step(int64_t step) const;
};

// What the runtime carries out.
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
  double loss_sum = 0;
  int64_t correct = 0;
};
// Samples counted by whoever contributed them.
struct SamplesConsumed {
  int64_t step = 0;
  std::vector<PartitionSamples> partitions;
};
struct EpochDone {
  int64_t epoch = 0;
  double loss = 0;  // means over rows
  double accuracy = 0;
  bool has_validation = false;
  double validation_loss = 0;
  double validation_accuracy = 0;
};
struct NodeLeft {
  SessionId session = 0;
  int64_t step = 0;  // steps that it had applied
  std::string why;
};
struct JobCompleted {};
struct JobFailed {
  ErrorKind kind = ErrorKind::failed;
  std::string reason;
};
using CoordinatorAction = std::variant<SendEvent, NodeJoined, ViewMade, StepDone, SamplesConsumed,
                                       EpochDone, NodeLeft, JobCompleted, JobFailed>;
using CoordinatorActions = std::vector<CoordinatorAction>;

class Coordinator {
 public:
  enum class Phase { gathering, training, finishing, uploading, completed, failed };

  Coordinator(ClusterFacts facts, int64_t term);

  Phase phase() const { return phase_; }
  bool ended() const { return phase_ == Phase::completed || phase_ == Phase::failed; }
  int64_t term() const { return term_; }
  const View& view() const { return view_; }
  const std::string& failure() const { return failure_; }
  int64_t steps_done() const { return steps_done_; }

  // Replies are values; what else must happen is appended to `actions`.
  Result<Welcome> hello(const Hello& hello, int64_t now_ms);
  Status join(const JoinRequest& request, int64_t now_ms, CoordinatorActions* actions);
  Status renew(SessionId session, int64_t now_ms);  // a poll
  Status step_applied(const StepReport& report, CoordinatorActions* actions);
  Status epoch_measured(const EpochReport& report, CoordinatorActions* actions);
  Status finished(const FinalReport& report, CoordinatorActions* actions);
  // The final weights are here and whole: `sha256` over them.
  Status uploaded(SessionId session, const std::string& sha256, CoordinatorActions* actions);
  Status fault(const FaultReport& report, CoordinatorActions* actions);
  Status leave(SessionId session, CoordinatorActions* actions);
  void connection_lost(SessionId session, CoordinatorActions* actions);
  // Ends the job from outside (a signal, a full disk).
  void stop(ErrorKind kind, const std::string& reason, CoordinatorActions* actions);
  void tick(int64_t now_ms, CoordinatorActions* actions);

 private:
  struct Node {
    Hello hello;
    JoinRequest join;
    std::string address;
    bool joined = false;
    bool left = false;
    int64_t lease_ends_ms = 0;
    int64_t steps = 0;   // applied
    int64_t epochs = 0;  // measured
    std::string weights_sha256;
  };

  Result<Node*> member(SessionId session);
  Status check_canary(const JoinRequest& request) const;
  Status check_join(const JoinRequest& request) const;
  void make_view(CoordinatorActions* actions);
  void node_died(SessionId session, const std::string& how, CoordinatorActions* actions);
  void fail(ErrorKind kind, const std::string& reason, CoordinatorActions* actions);
  void send_to_all(const NodeEvent& event, CoordinatorActions* actions);
  Status add_validation(const EpochReport& report);
  EpochDone summarize_epoch(const EpochReport& report) const;
  int joined_count() const;
  std::string node_text(SessionId session) const;

  const ClusterFacts facts_;
  const int64_t term_;
  Phase phase_ = Phase::gathering;
  std::string failure_;
  SessionId last_session_ = 0;
  std::map<SessionId, Node> nodes_;
  View view_;
  int64_t steps_done_ = 0;
  int64_t epochs_done_ = 0;
  // This epoch's validation, by (batch, partition).
  std::map<std::pair<int64_t, int>, ValidationPart> validation_;
};

}  // namespace lockstep
