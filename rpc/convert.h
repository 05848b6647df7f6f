// Between the messages of host/cluster and Thrift's structs. What comes from the wire is checked:
// a number out of its range is an error of kind `refused` that names the field. What numbers mean
// together (a step that is not this one's) is for the receiver.
#pragma once

#include <vector>

#include "host/cluster/messages.h"
#include "host/core/result.h"
#include "wire/lockstep_types.h"

namespace lockstep {

wire::Hello to_wire(const Hello& hello);
wire::Welcome to_wire(const Welcome& welcome);
wire::JoinRequest to_wire(const JoinRequest& request);
wire::StepReport to_wire(const StepReport& report);
wire::EpochReport to_wire(const EpochReport& report);
wire::FinalReport to_wire(const FinalReport& report);
wire::FaultReport to_wire(const FaultReport& report);
wire::View to_wire(const View& view);
wire::NodeEvent to_wire(const NodeEvent& event);
wire::Refusal to_wire(const Error& error);

Result<Hello> from_wire(const wire::Hello& hello);
Result<Welcome> from_wire(const wire::Welcome& welcome);
Result<JoinRequest> from_wire(const wire::JoinRequest& request);
Result<StepReport> from_wire(const wire::StepReport& report);
Result<EpochReport> from_wire(const wire::EpochReport& report);
Result<FinalReport> from_wire(const wire::FinalReport& report);
Result<FaultReport> from_wire(const wire::FaultReport& report);
Result<View> from_wire(const wire::View& view);
Result<NodeEvent> from_wire(const wire::NodeEvent& event);
Result<std::vector<NodeEvent>> from_wire(const std::vector<wire::NodeEvent>& events);
// A kind that is unknown here becomes `failed`.
Error from_wire(const wire::Refusal& refusal);

Status check_session(int64_t session);
Status check_upload(int64_t session, int64_t offset);

}  // namespace lockstep
