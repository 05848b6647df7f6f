// A node as a state machine: what it does next follows from what it was told and what it has done.
// No sockets, no threads, no clock. One owner, one thread at a time.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <variant>

#include "host/cluster/messages.h"

namespace lockstep {

// What the runtime shall do next, one at a time; it answers with the matching call.
struct AwaitEvent {};  // nothing to do before the coordinator speaks
struct ConnectPeers {
  View view;
};  // -> peers_connected
struct TrainStep {
  int64_t step = 0;
};  // -> step_applied
struct MeasureEpoch {
  int64_t epoch = 0;
};                        // validate and report -> epoch_measured
struct ReportFinal {};    // -> final_reported
struct UploadWeights {};  // -> uploaded
struct LeaveJob {
  ErrorKind kind = ErrorKind::failed;
  bool completed = false;
  std::string reason;
};
using NodeAction = std::variant<AwaitEvent, ConnectPeers, TrainStep, MeasureEpoch, ReportFinal,
                                UploadWeights, LeaveJob>;

class NodeMachine {
 public:
  NodeMachine(SessionId session, int64_t steps_per_epoch, int64_t epochs)
      : session_(session), steps_per_epoch_(steps_per_epoch), epochs_(epochs) {}

  // What to do now. Stays the same until one of the calls below changes it.
  NodeAction next() const;

  // What the coordinator said.
  void event(const NodeEvent& event);
  // The runtime has done what `next` asked for.
  void peers_connected() { peers_connected_ = true; }
  void step_applied() { ++step_; }
  void epoch_measured() { ++measured_epochs_; }
  void final_reported() { final_reported_ = true; }
  void uploaded() { upload_asked_ = false; }
  // The node itself cannot go on.
  void fail(ErrorKind kind, const std::string& reason);

  int64_t step() const { return step_; }
  const std::optional<View>& view() const { return view_; }
  // This node's partitions under the view.
  PartitionRange partitions() const;
  bool stopping() const { return stop_.has_value(); }

 private:
  const SessionId session_;
  const int64_t steps_per_epoch_;
  const int64_t epochs_;
  std::optional<View> view_;
  bool peers_connected_ = false;
  int64_t step_ = 0;             // the next to be trained: state[step_] is here
  int64_t measured_epochs_ = 0;  // reported to the coordinator
  int64_t decided_epochs_ = 0;   // the coordinator said how to go on
  bool training_over_ = false;
  bool final_reported_ = false;
  bool upload_asked_ = false;
  std::optional<LeaveJob> stop_;
};

}  // namespace lockstep
