// What a poll brings.
#include <fmt/format.h>

#include <utility>

#include "rpc/convert.h"
#include "rpc/convert_checks.h"

namespace lockstep {
namespace {

struct EventToWire {
  wire::NodeEvent event;
  void operator()(const HoldEvent& hold) {
    wire::HoldEvent wired;
    wired.__set_number(hold.number);
    event.__set_hold(wired);
  }
  void operator()(const ViewEvent& view) { event.__set_view(to_wire(view.view)); }
  void operator()(const EpochEvent& epoch) {
    wire::EpochEvent wired;
    wired.__set_epoch(epoch.epoch);
    wired.__set_go_on(epoch.go_on);
    if (epoch.learning_rate) wired.__set_learning_rate(*epoch.learning_rate);
    event.__set_epoch(wired);
  }
  void operator()(const SnapshotEvent& snapshot) {
    wire::SnapshotEvent wired;
    wired.__set_step(snapshot.step);
    event.__set_snapshot(wired);
  }
  void operator()(const CheckpointEvent& checkpoint) {
    wire::CheckpointEvent wired;
    wired.__set_step(checkpoint.step);
    event.__set_checkpoint(wired);
  }
  void operator()(const StopEvent& stop) {
    wire::StopEvent wired;
    wired.__set_kind(static_cast<int32_t>(stop.kind));
    wired.__set_completed(stop.completed);
    wired.__set_reason(stop.reason);
    event.__set_stop(wired);
  }
};

Result<NodeEvent> stop_from_wire(const wire::StopEvent& stop) {
  if (!is_error_kind(stop.kind)) {
    return refused_error(fmt::format("bad message: stop.kind is {}, must be 1 to 4", stop.kind));
  }
  return NodeEvent(StopEvent{static_cast<ErrorKind>(stop.kind), stop.completed, stop.reason});
}

Result<NodeEvent> epoch_from_wire(const wire::EpochEvent& epoch) {
  LOCKSTEP_RETURN_IF_ERROR(not_negative("epoch.epoch", epoch.epoch));
  EpochEvent event{epoch.epoch, epoch.go_on, std::nullopt};
  if (epoch.__isset.learning_rate) {
    LOCKSTEP_ASSIGN(event.learning_rate,
                    rate_from_wire("epoch.learning_rate", epoch.learning_rate));
  }
  return NodeEvent(event);
}

Result<NodeEvent> event_from_wire(const wire::NodeEvent& event) {
  const auto& is_set = event.__isset;
  const int kinds =
      is_set.hold + is_set.view + is_set.epoch + is_set.snapshot + is_set.checkpoint + is_set.stop;
  if (kinds != 1) {
    return refused_error(
        fmt::format("bad message: event has {} known kinds, must have exactly one", kinds));
  }
  if (is_set.hold) {
    LOCKSTEP_RETURN_IF_ERROR(not_negative("hold.number", event.hold.number));
    return NodeEvent(HoldEvent{event.hold.number});
  }
  if (is_set.view) {
    LOCKSTEP_ASSIGN(View view, from_wire(event.view));
    return NodeEvent(ViewEvent{std::move(view)});
  }
  if (is_set.epoch) return epoch_from_wire(event.epoch);
  if (is_set.snapshot) {
    LOCKSTEP_RETURN_IF_ERROR(not_negative("snapshot.step", event.snapshot.step));
    return NodeEvent(SnapshotEvent{event.snapshot.step});
  }
  if (is_set.checkpoint) {
    LOCKSTEP_RETURN_IF_ERROR(not_negative("checkpoint.step", event.checkpoint.step));
    return NodeEvent(CheckpointEvent{event.checkpoint.step});
  }
  return stop_from_wire(event.stop);
}

}  // namespace

wire::PollReply to_wire(const PollReply& reply) {
  wire::PollReply wired;
  wired.__set_term(reply.term);
  wired.__set_attach(reply.attach);
  wired.events.reserve(reply.events.size());
  for (const NodeEvent& event : reply.events) {
    EventToWire conversion;
    std::visit(conversion, event);
    wired.events.push_back(std::move(conversion.event));
  }
  return wired;
}

Result<PollReply> from_wire(const wire::PollReply& reply) {
  LOCKSTEP_RETURN_IF_ERROR(not_negative("reply.term", reply.term));
  PollReply result{reply.term, reply.attach, {}};
  result.events.reserve(reply.events.size());
  for (const wire::NodeEvent& each : reply.events) {
    LOCKSTEP_ASSIGN(NodeEvent event, event_from_wire(each));
    result.events.push_back(std::move(event));
  }
  return result;
}

}  // namespace lockstep
