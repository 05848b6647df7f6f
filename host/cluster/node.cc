#include "host/cluster/node.h"

namespace lockstep {

NodeAction NodeMachine::next() const {
  if (stop_) return *stop_;
  if (!view_) return AwaitEvent{};
  if (!peers_connected_) return ConnectPeers{*view_};
  if (upload_asked_) return UploadWeights{};
  if (training_over_) {
    if (!final_reported_) return ReportFinal{};
    return AwaitEvent{};
  }
  const int64_t trained_epochs = step_ / steps_per_epoch_;
  if (trained_epochs > measured_epochs_) return MeasureEpoch{measured_epochs_};
  if (measured_epochs_ > decided_epochs_) return AwaitEvent{};
  return TrainStep{step_};
}

void NodeMachine::event(const NodeEvent& event) {
  if (const auto* made = std::get_if<ViewEvent>(&event)) {
    if (view_ && made->view.number <= view_->number) return;
    view_ = made->view;
    peers_connected_ = false;
  } else if (const auto* decision = std::get_if<EpochDecision>(&event)) {
    if (decision->epoch != decided_epochs_) return;
    ++decided_epochs_;
    if (!decision->go_on || decided_epochs_ == epochs_) training_over_ = true;
  } else if (std::holds_alternative<UploadEvent>(event)) {
    upload_asked_ = true;
  } else if (const auto* stop = std::get_if<StopEvent>(&event)) {
    if (!stop_) stop_ = LeaveJob{stop->kind, stop->completed, stop->reason};
  }
}

void NodeMachine::fail(ErrorKind kind, const std::string& reason) {
  if (!stop_) stop_ = LeaveJob{kind, false, reason};
}

PartitionRange NodeMachine::partitions() const {
  if (!view_) return {};
  for (const Member& member : view_->members) {
    if (member.session == session_) return member.partitions;
  }
  return {};
}

}  // namespace lockstep
