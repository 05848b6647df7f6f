#include "rpc/convert.h"

#include <fmt/format.h>

#include <utility>

namespace lockstep {
namespace {

Status not_negative(const char* field, int64_t value) {
  if (value >= 0) return {};
  return refused_error(fmt::format("bad message: {} is {}, must not be negative", field, value));
}

bool is_error_kind(int32_t kind) {
  return kind >= static_cast<int32_t>(ErrorKind::failed) &&
         kind <= static_cast<int32_t>(ErrorKind::refused);
}

Result<Member> from_wire(const wire::Member& member) {
  LOCKSTEP_RETURN_IF_ERROR(not_negative("view.members.session", member.session));
  LOCKSTEP_RETURN_IF_ERROR(not_negative("view.members.partitions_begin", member.partitions_begin));
  if (member.partitions_end < member.partitions_begin) {
    return refused_error(
        fmt::format("bad message: view.members.partitions_end is {}, must not be below "
                    "partitions_begin, {}",
                    member.partitions_end, member.partitions_begin));
  }
  return Member{member.session,
                member.name,
                member.address,
                {member.partitions_begin, member.partitions_end}};
}

Result<PartitionSamples> from_wire(const wire::PartitionSamples& samples) {
  LOCKSTEP_RETURN_IF_ERROR(not_negative("step.partitions.partition", samples.partition));
  LOCKSTEP_RETURN_IF_ERROR(not_negative("step.partitions.rows", samples.rows));
  for (const int64_t sample : samples.samples) {
    LOCKSTEP_RETURN_IF_ERROR(not_negative("step.partitions.samples", sample));
  }
  return PartitionSamples{samples.partition, samples.rows, samples.samples};
}

Result<ValidationPart> from_wire(const wire::ValidationPart& part) {
  LOCKSTEP_RETURN_IF_ERROR(not_negative("epoch.validation.batch", part.batch));
  LOCKSTEP_RETURN_IF_ERROR(not_negative("epoch.validation.partition", part.partition));
  LOCKSTEP_RETURN_IF_ERROR(not_negative("epoch.validation.rows", part.rows));
  LOCKSTEP_RETURN_IF_ERROR(not_negative("epoch.validation.correct", part.correct));
  return ValidationPart{part.batch, part.partition, part.rows, static_cast<float>(part.loss_sum),
                        part.correct};
}

struct EventToWire {
  wire::NodeEvent event;
  void operator()(const ViewEvent& view) { event.__set_view(to_wire(view.view)); }
  void operator()(const EpochDecision& decision) {
    wire::EpochDecision wired;
    wired.__set_epoch(decision.epoch);
    wired.__set_go_on(decision.go_on);
    event.__set_epoch_decision(wired);
  }
  void operator()(const UploadEvent&) { event.__set_upload({}); }
  void operator()(const StopEvent& stop) {
    wire::StopEvent wired;
    wired.__set_kind(static_cast<int32_t>(stop.kind));
    wired.__set_completed(stop.completed);
    wired.__set_reason(stop.reason);
    event.__set_stop(wired);
  }
};

}  // namespace

wire::Hello to_wire(const Hello& hello) {
  wire::Hello wired;
  wired.__set_wire_version(hello.wire_version);
  wired.__set_version(hello.version);
  wired.__set_name(hello.name);
  return wired;
}

wire::Welcome to_wire(const Welcome& welcome) {
  wire::Welcome wired;
  wired.__set_session(welcome.session);
  wired.__set_term(welcome.term);
  wired.__set_job(welcome.job);
  return wired;
}

wire::JoinRequest to_wire(const JoinRequest& request) {
  wire::JoinRequest wired;
  wired.__set_session(request.session);
  wired.__set_address(request.address);
  wired.__set_devices(request.devices);
  wired.__set_device(request.device);
  wired.__set_numerics(request.numerics);
  wired.__set_data_digest(request.data_digest);
  wired.__set_validation_digest(request.validation_digest);
  for (const OpDigest& digest : request.canary) {
    wire::OpDigest op;
    op.__set_op(digest.op);
    op.__set_hash(digest.hash);
    wired.canary.push_back(std::move(op));
  }
  return wired;
}

wire::StepReport to_wire(const StepReport& report) {
  wire::StepReport wired;
  wired.__set_session(report.session);
  wired.__set_view(report.view);
  wired.__set_step(report.step);
  wired.__set_loss_sum(report.loss_sum);
  wired.__set_correct(report.correct);
  for (const PartitionSamples& each : report.partitions) {
    wire::PartitionSamples samples;
    samples.__set_partition(each.partition);
    samples.__set_rows(each.rows);
    samples.__set_samples(each.samples);
    wired.partitions.push_back(std::move(samples));
  }
  return wired;
}

wire::EpochReport to_wire(const EpochReport& report) {
  wire::EpochReport wired;
  wired.__set_session(report.session);
  wired.__set_epoch(report.epoch);
  wired.__set_loss_sum(report.loss_sum);
  wired.__set_correct(report.correct);
  wired.__set_rows(report.rows);
  wired.validation.reserve(report.validation.size());
  for (const ValidationPart& each : report.validation) {
    wire::ValidationPart part;
    part.__set_batch(each.batch);
    part.__set_partition(each.partition);
    part.__set_rows(each.rows);
    part.__set_loss_sum(each.loss_sum);
    part.__set_correct(each.correct);
    wired.validation.push_back(std::move(part));
  }
  return wired;
}

wire::FinalReport to_wire(const FinalReport& report) {
  wire::FinalReport wired;
  wired.__set_session(report.session);
  wired.__set_weights_sha256(report.weights_sha256);
  return wired;
}

wire::FaultReport to_wire(const FaultReport& report) {
  wire::FaultReport wired;
  wired.__set_session(report.session);
  wired.__set_accused(report.accused);
  wired.__set_step(report.step);
  wired.__set_what(report.what);
  return wired;
}

wire::View to_wire(const View& view) {
  wire::View wired;
  wired.__set_number(view.number);
  wired.__set_first_step(view.first_step);
  for (const Member& each : view.members) {
    wire::Member member;
    member.__set_session(each.session);
    member.__set_name(each.name);
    member.__set_address(each.address);
    member.__set_partitions_begin(each.partitions.begin);
    member.__set_partitions_end(each.partitions.end);
    wired.members.push_back(std::move(member));
  }
  wired.slice_owners.assign(view.slice_owners.begin(), view.slice_owners.end());
  return wired;
}

wire::NodeEvent to_wire(const NodeEvent& event) {
  EventToWire conversion;
  std::visit(conversion, event);
  return std::move(conversion.event);
}

wire::Refusal to_wire(const Error& error) {
  wire::Refusal refusal;
  refusal.__set_kind(static_cast<int32_t>(error.kind));
  refusal.__set_message(error.message);
  return refusal;
}

Result<Hello> from_wire(const wire::Hello& hello) {
  return Hello{hello.wire_version, hello.version, hello.name};
}

Result<Welcome> from_wire(const wire::Welcome& welcome) {
  LOCKSTEP_RETURN_IF_ERROR(not_negative("welcome.session", welcome.session));
  LOCKSTEP_RETURN_IF_ERROR(not_negative("welcome.term", welcome.term));
  return Welcome{welcome.session, welcome.term, welcome.job};
}

Result<JoinRequest> from_wire(const wire::JoinRequest& request) {
  LOCKSTEP_RETURN_IF_ERROR(not_negative("join.session", request.session));
  LOCKSTEP_RETURN_IF_ERROR(not_negative("join.devices", request.devices));
  JoinRequest result{
      request.session,  request.address,     request.devices,           request.device,
      request.numerics, request.data_digest, request.validation_digest, {}};
  for (const wire::OpDigest& digest : request.canary) {
    result.canary.push_back({digest.op, digest.hash});
  }
  return result;
}

Result<StepReport> from_wire(const wire::StepReport& report) {
  LOCKSTEP_RETURN_IF_ERROR(not_negative("step.session", report.session));
  LOCKSTEP_RETURN_IF_ERROR(not_negative("step.view", report.view));
  LOCKSTEP_RETURN_IF_ERROR(not_negative("step.step", report.step));
  LOCKSTEP_RETURN_IF_ERROR(not_negative("step.correct", report.correct));
  StepReport result{report.session, report.view, report.step, report.loss_sum, report.correct, {}};
  for (const wire::PartitionSamples& each : report.partitions) {
    LOCKSTEP_ASSIGN(PartitionSamples samples, from_wire(each));
    result.partitions.push_back(std::move(samples));
  }
  return result;
}

Result<EpochReport> from_wire(const wire::EpochReport& report) {
  LOCKSTEP_RETURN_IF_ERROR(not_negative("epoch.session", report.session));
  LOCKSTEP_RETURN_IF_ERROR(not_negative("epoch.epoch", report.epoch));
  LOCKSTEP_RETURN_IF_ERROR(not_negative("epoch.correct", report.correct));
  LOCKSTEP_RETURN_IF_ERROR(not_negative("epoch.rows", report.rows));
  EpochReport result{report.session, report.epoch, report.loss_sum,
                     report.correct, report.rows,  {}};
  result.validation.reserve(report.validation.size());
  for (const wire::ValidationPart& each : report.validation) {
    LOCKSTEP_ASSIGN(const ValidationPart part, from_wire(each));
    result.validation.push_back(part);
  }
  return result;
}

Result<FinalReport> from_wire(const wire::FinalReport& report) {
  LOCKSTEP_RETURN_IF_ERROR(not_negative("final.session", report.session));
  return FinalReport{report.session, report.weights_sha256};
}

Result<FaultReport> from_wire(const wire::FaultReport& report) {
  LOCKSTEP_RETURN_IF_ERROR(not_negative("fault.session", report.session));
  LOCKSTEP_RETURN_IF_ERROR(not_negative("fault.accused", report.accused));
  LOCKSTEP_RETURN_IF_ERROR(not_negative("fault.step", report.step));
  return FaultReport{report.session, report.accused, report.step, report.what};
}

Result<View> from_wire(const wire::View& view) {
  LOCKSTEP_RETURN_IF_ERROR(not_negative("view.number", view.number));
  LOCKSTEP_RETURN_IF_ERROR(not_negative("view.first_step", view.first_step));
  View result{view.number, view.first_step, {}, {}};
  for (const wire::Member& each : view.members) {
    LOCKSTEP_ASSIGN(Member member, from_wire(each));
    result.members.push_back(std::move(member));
  }
  for (const int32_t owner : view.slice_owners) {
    if (owner < 0 || static_cast<size_t>(owner) >= view.members.size()) {
      return refused_error(fmt::format(
          "bad message: view.slice_owners has {}, must be below the number of members, {}", owner,
          view.members.size()));
    }
    result.slice_owners.push_back(owner);
  }
  return result;
}

Result<NodeEvent> from_wire(const wire::NodeEvent& event) {
  const auto& is_set = event.__isset;
  const int kinds = is_set.view + is_set.epoch_decision + is_set.upload + is_set.stop;
  if (kinds != 1) {
    return refused_error(
        fmt::format("bad message: event has {} known kinds, must have exactly one", kinds));
  }
  if (is_set.view) {
    LOCKSTEP_ASSIGN(View view, from_wire(event.view));
    return NodeEvent(ViewEvent{std::move(view)});
  }
  if (is_set.epoch_decision) {
    LOCKSTEP_RETURN_IF_ERROR(not_negative("epoch_decision.epoch", event.epoch_decision.epoch));
    return NodeEvent(EpochDecision{event.epoch_decision.epoch, event.epoch_decision.go_on});
  }
  if (is_set.upload) return NodeEvent(UploadEvent{});
  if (!is_error_kind(event.stop.kind)) {
    return refused_error(
        fmt::format("bad message: stop.kind is {}, must be 1 to 4", event.stop.kind));
  }
  return NodeEvent(
      StopEvent{static_cast<ErrorKind>(event.stop.kind), event.stop.completed, event.stop.reason});
}

Result<std::vector<NodeEvent>> from_wire(const std::vector<wire::NodeEvent>& events) {
  std::vector<NodeEvent> result;
  result.reserve(events.size());
  for (const wire::NodeEvent& each : events) {
    LOCKSTEP_ASSIGN(NodeEvent event, from_wire(each));
    result.push_back(std::move(event));
  }
  return result;
}

Error from_wire(const wire::Refusal& refusal) {
  const ErrorKind kind =
      is_error_kind(refusal.kind) ? static_cast<ErrorKind>(refusal.kind) : ErrorKind::failed;
  return {refusal.message, kind};
}

Status check_session(int64_t session) { return not_negative("session", session); }

Status check_upload(int64_t session, int64_t offset) {
  LOCKSTEP_RETURN_IF_ERROR(check_session(session));
  return not_negative("upload.offset", offset);
}

}  // namespace lockstep
