// Between the messages of host/cluster and host/runtime and Thrift's structs. What comes from the
// wire is checked: a number out of its range is an error of kind `refused` that names the field.
// What numbers mean together (a step that is not this one's) is for the receiver.
#pragma once

#include "host/cluster/messages.h"
#include "host/core/result.h"
#include "host/runtime/control.h"
#include "wire/lockstep_types.h"

namespace lockstep {

wire::Hello to_wire(const Hello& hello);
wire::Welcome to_wire(const Welcome& welcome);
wire::JoinRequest to_wire(const JoinRequest& request);
wire::Standing to_wire(const Standing& standing);
wire::HeldReport to_wire(const HeldReport& report);
wire::PollRequest to_wire(const PollRequest& request);
wire::StepReport to_wire(const StepReport& report);
wire::EpochReport to_wire(const EpochReport& report);
wire::FaultReport to_wire(const FaultReport& report);
wire::View to_wire(const View& view);
wire::PollReply to_wire(const PollReply& reply);
wire::StatePart to_wire(const StatePart& part);
wire::NewestState to_wire(const NewestState& state);
wire::WorkRequest to_wire(const WorkRequest& request);
wire::WorkReply to_wire(const WorkReply& reply);
wire::ResultPart to_wire(const ResultPart& part);
wire::Refusal to_wire(const Error& error);

Result<Hello> from_wire(const wire::Hello& hello);
Result<Welcome> from_wire(const wire::Welcome& welcome);
Result<JoinRequest> from_wire(const wire::JoinRequest& request);
Result<Standing> from_wire(const wire::Standing& standing);
Result<HeldReport> from_wire(const wire::HeldReport& report);
Result<PollRequest> from_wire(const wire::PollRequest& request);
Result<StepReport> from_wire(const wire::StepReport& report);
Result<EpochReport> from_wire(const wire::EpochReport& report);
Result<FaultReport> from_wire(const wire::FaultReport& report);
Result<View> from_wire(const wire::View& view);
Result<PollReply> from_wire(const wire::PollReply& reply);
Result<StatePart> from_wire(const wire::StatePart& part);
Result<NewestState> from_wire(const wire::NewestState& state);
Result<WorkRequest> from_wire(const wire::WorkRequest& request);
Result<WorkReply> from_wire(const wire::WorkReply& reply);
Result<ResultPart> from_wire(const wire::ResultPart& part);
// A kind that is unknown here becomes `failed`.
Error from_wire(const wire::Refusal& refusal);

Status check_session(int64_t session);
Status check_fetch(int64_t session, int64_t offset);

}  // namespace lockstep
