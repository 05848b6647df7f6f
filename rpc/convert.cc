#include "rpc/convert.h"

#include <fmt/format.h>

#include <utility>

#include "rpc/convert_checks.h"

namespace lockstep {
namespace {

Result<PartitionSamples> samples_from_wire(const wire::PartitionSamples& samples) {
  LOCKSTEP_RETURN_IF_ERROR(not_negative("step.partitions.partition", samples.partition));
  LOCKSTEP_RETURN_IF_ERROR(not_negative("step.partitions.rows", samples.rows));
  for (const int64_t sample : samples.samples) {
    LOCKSTEP_RETURN_IF_ERROR(not_negative("step.partitions.samples", sample));
  }
  return PartitionSamples{samples.partition, samples.rows, samples.samples};
}

Result<ValidationPart> part_from_wire(const wire::ValidationPart& part) {
  LOCKSTEP_RETURN_IF_ERROR(not_negative("epoch.validation.batch", part.batch));
  LOCKSTEP_RETURN_IF_ERROR(not_negative("epoch.validation.partition", part.partition));
  LOCKSTEP_RETURN_IF_ERROR(at_most_sums("epoch.validation.sums", part.sums.size()));
  return ValidationPart{part.batch, part.partition, part.sums};
}

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

wire::Standing to_wire(const Standing& standing) {
  wire::Standing wired;
  wired.__set_view(standing.view);
  wired.__set_step(standing.step);
  wired.__set_begun(standing.begun);
  wired.__set_since(standing.since);
  wired.__set_decided_epochs(standing.decided_epochs);
  return wired;
}

wire::HeldReport to_wire(const HeldReport& report) {
  wire::HeldReport wired;
  wired.__set_session(report.session);
  wired.__set_number(report.number);
  wired.__set_standing(to_wire(report.standing));
  return wired;
}

wire::PollRequest to_wire(const PollRequest& request) {
  wire::PollRequest wired;
  wired.__set_session(request.session);
  wired.__set_term(request.term);
  wired.__set_received(request.received);
  return wired;
}

wire::StepReport to_wire(const StepReport& report) {
  wire::StepReport wired;
  wired.__set_session(report.session);
  wired.__set_era(report.era);
  wired.__set_step(report.step);
  wired.__set_sums(report.sums);
  wired.__set_digest(static_cast<int64_t>(report.digest));
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
  wired.__set_era(report.era);
  wired.__set_epoch(report.epoch);
  wired.__set_step(report.step);
  wired.__set_sums(report.sums);
  wired.validation.reserve(report.validation.size());
  for (const ValidationPart& each : report.validation) {
    wire::ValidationPart part;
    part.__set_batch(each.batch);
    part.__set_partition(each.partition);
    part.__set_sums(each.sums);
    wired.validation.push_back(std::move(part));
  }
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

wire::StatePart to_wire(const StatePart& part) {
  wire::StatePart wired;
  wired.__set_session(part.session);
  wired.__set_step(part.step);
  wired.__set_offset(part.offset);
  wired.__set_total(part.total);
  wired.__set_bytes(part.bytes);
  return wired;
}

wire::NewestState to_wire(const NewestState& state) {
  wire::NewestState wired;
  wired.__set_step(state.step);
  wired.__set_object(state.object);
  wired.__set_job(state.job);
  if (state.learning_rate) wired.__set_learning_rate(*state.learning_rate);
  return wired;
}

Result<NewestState> from_wire(const wire::NewestState& state) {
  LOCKSTEP_RETURN_IF_ERROR(not_negative("newest_state.step", state.step));
  NewestState result{state.step, state.object, state.job, {}};
  if (state.__isset.learning_rate) {
    LOCKSTEP_ASSIGN(result.learning_rate,
                    rate_from_wire("newest_state.learning_rate", state.learning_rate));
  }
  return result;
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

Result<Standing> from_wire(const wire::Standing& standing) {
  LOCKSTEP_RETURN_IF_ERROR(not_negative("standing.view", standing.view));
  LOCKSTEP_RETURN_IF_ERROR(at_least("standing.step", standing.step, -1));
  LOCKSTEP_RETURN_IF_ERROR(at_least("standing.since", standing.since, -1));
  LOCKSTEP_RETURN_IF_ERROR(not_negative("standing.decided_epochs", standing.decided_epochs));
  return Standing{standing.view, standing.step, standing.begun, standing.since,
                  standing.decided_epochs};
}

Result<HeldReport> from_wire(const wire::HeldReport& report) {
  LOCKSTEP_RETURN_IF_ERROR(not_negative("held.session", report.session));
  LOCKSTEP_RETURN_IF_ERROR(not_negative("held.number", report.number));
  LOCKSTEP_ASSIGN(const Standing standing, from_wire(report.standing));
  return HeldReport{report.session, report.number, standing};
}

Result<PollRequest> from_wire(const wire::PollRequest& request) {
  LOCKSTEP_RETURN_IF_ERROR(not_negative("poll.session", request.session));
  LOCKSTEP_RETURN_IF_ERROR(not_negative("poll.term", request.term));
  LOCKSTEP_RETURN_IF_ERROR(not_negative("poll.received", request.received));
  return PollRequest{request.session, request.term, request.received};
}

Result<StepReport> from_wire(const wire::StepReport& report) {
  LOCKSTEP_RETURN_IF_ERROR(not_negative("step.session", report.session));
  LOCKSTEP_RETURN_IF_ERROR(not_negative("step.era", report.era));
  LOCKSTEP_RETURN_IF_ERROR(not_negative("step.step", report.step));
  LOCKSTEP_RETURN_IF_ERROR(at_most_sums("step.sums", report.sums.size()));
  StepReport result{report.session,
                    report.era,
                    report.step,
                    report.sums,
                    static_cast<uint64_t>(report.digest),
                    {}};
  for (const wire::PartitionSamples& each : report.partitions) {
    LOCKSTEP_ASSIGN(PartitionSamples samples, samples_from_wire(each));
    result.partitions.push_back(std::move(samples));
  }
  return result;
}

Result<EpochReport> from_wire(const wire::EpochReport& report) {
  LOCKSTEP_RETURN_IF_ERROR(not_negative("epoch.session", report.session));
  LOCKSTEP_RETURN_IF_ERROR(not_negative("epoch.era", report.era));
  LOCKSTEP_RETURN_IF_ERROR(not_negative("epoch.epoch", report.epoch));
  LOCKSTEP_RETURN_IF_ERROR(not_negative("epoch.step", report.step));
  LOCKSTEP_RETURN_IF_ERROR(at_most_sums("epoch.sums", report.sums.size()));
  EpochReport result{report.session, report.era, report.epoch, report.step, report.sums, {}};
  result.validation.reserve(report.validation.size());
  for (const wire::ValidationPart& each : report.validation) {
    LOCKSTEP_ASSIGN(ValidationPart part, part_from_wire(each));
    result.validation.push_back(std::move(part));
  }
  return result;
}

Result<FaultReport> from_wire(const wire::FaultReport& report) {
  LOCKSTEP_RETURN_IF_ERROR(not_negative("fault.session", report.session));
  LOCKSTEP_RETURN_IF_ERROR(not_negative("fault.accused", report.accused));
  LOCKSTEP_RETURN_IF_ERROR(not_negative("fault.step", report.step));
  return FaultReport{report.session, report.accused, report.step, report.what};
}

Result<StatePart> from_wire(const wire::StatePart& part) {
  LOCKSTEP_RETURN_IF_ERROR(not_negative("upload.session", part.session));
  LOCKSTEP_RETURN_IF_ERROR(not_negative("upload.step", part.step));
  LOCKSTEP_RETURN_IF_ERROR(not_negative("upload.offset", part.offset));
  LOCKSTEP_RETURN_IF_ERROR(not_negative("upload.total", part.total));
  const auto bytes = static_cast<int64_t>(part.bytes.size());
  if (part.offset > part.total - bytes) {
    return refused_error(
        fmt::format("bad message: upload.offset is {}, must be at most {}: upload.total is {} and "
                    "the part has {} bytes",
                    part.offset, part.total - bytes, part.total, bytes));
  }
  return StatePart{part.session, part.step, part.offset, part.total, part.bytes};
}

Error from_wire(const wire::Refusal& refusal) {
  const ErrorKind kind =
      is_error_kind(refusal.kind) ? static_cast<ErrorKind>(refusal.kind) : ErrorKind::failed;
  return {refusal.message, kind};
}

Status check_session(int64_t session) { return not_negative("session", session); }

Status check_fetch(int64_t session, int64_t offset) {
  LOCKSTEP_RETURN_IF_ERROR(check_session(session));
  return not_negative("fetch.offset", offset);
}

}  // namespace lockstep
