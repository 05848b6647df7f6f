// Views, their members, and the states that they name.
#include <fmt/format.h>

#include <string>
#include <utility>

#include "rpc/convert.h"
#include "rpc/convert_checks.h"

namespace lockstep {
namespace {

wire::PartitionRange to_wire(PartitionRange range) {
  wire::PartitionRange wired;
  wired.__set_partitions_begin(range.begin);
  wired.__set_partitions_end(range.end);
  return wired;
}

wire::Member to_wire(const Member& member) {
  wire::Member wired;
  wired.__set_session(member.session);
  wired.__set_name(member.name);
  wired.__set_address(member.address);
  wired.__set_partitions(to_wire(member.partitions));
  for (const PartitionRange range : member.carried) wired.carried.push_back(to_wire(range));
  wired.__set_step(member.step);
  return wired;
}

wire::StateRef to_wire(const StateRef& state) {
  wire::StateRef wired;
  wired.__set_step(state.step);
  wired.__set_object(state.object);
  wired.__set_digest(static_cast<int64_t>(state.digest));
  wired.__set_bytes(state.bytes);
  return wired;
}

Result<PartitionRange> from_wire(const std::string& field, const wire::PartitionRange& range) {
  LOCKSTEP_RETURN_IF_ERROR(not_negative((field + ".begin").c_str(), range.partitions_begin));
  if (range.partitions_end < range.partitions_begin) {
    return refused_error(fmt::format("bad message: {}.end is {}, must not be below its begin, {}",
                                     field, range.partitions_end, range.partitions_begin));
  }
  return PartitionRange{range.partitions_begin, range.partitions_end};
}

Result<Member> from_wire(const wire::Member& member) {
  LOCKSTEP_RETURN_IF_ERROR(not_negative("view.members.session", member.session));
  LOCKSTEP_RETURN_IF_ERROR(at_least("view.members.step", member.step, -1));
  LOCKSTEP_ASSIGN(const PartitionRange partitions,
                  from_wire("view.members.partitions", member.partitions));
  Member result{member.session, member.name, member.address, partitions, {}, member.step};
  for (const wire::PartitionRange& each : member.carried) {
    LOCKSTEP_ASSIGN(const PartitionRange range, from_wire("view.members.carried", each));
    const int previous_end = result.carried.empty() ? 0 : result.carried.back().end;
    if (range.begin < previous_end) {
      return refused_error(
          fmt::format("bad message: view.members.carried.begin is {}, must not be below the end of "
                      "the range before it, {}",
                      range.begin, previous_end));
    }
    result.carried.push_back(range);
  }
  return result;
}

Result<StateRef> from_wire(const wire::StateRef& state) {
  LOCKSTEP_RETURN_IF_ERROR(not_negative("view.restore.step", state.step));
  LOCKSTEP_RETURN_IF_ERROR(not_negative("view.restore.bytes", state.bytes));
  return StateRef{state.step, state.object, static_cast<uint64_t>(state.digest), state.bytes};
}

Status check_index(const char* field, int32_t index, size_t members) {
  if (index >= 0 && static_cast<size_t>(index) < members) return {};
  return refused_error(fmt::format(
      "bad message: {} has {}, must be below the number of members, {}", field, index, members));
}

}  // namespace

wire::View to_wire(const View& view) {
  wire::View wired;
  wired.__set_number(view.number);
  wired.__set_first_step(view.first_step);
  wired.__set_carries(view.carries);
  wired.__set_restores(view.restores);
  wired.__set_restore(to_wire(view.restore));
  wired.__set_donor(view.donor);
  wired.__set_era(view.era);
  wired.__set_decided_epochs(view.decided_epochs);
  for (const Member& member : view.members) wired.members.push_back(to_wire(member));
  wired.slice_owners.assign(view.slice_owners.begin(), view.slice_owners.end());
  if (view.learning_rate) wired.__set_learning_rate(*view.learning_rate);
  return wired;
}

Result<View> from_wire(const wire::View& view) {
  LOCKSTEP_RETURN_IF_ERROR(not_negative("view.number", view.number));
  LOCKSTEP_RETURN_IF_ERROR(not_negative("view.first_step", view.first_step));
  LOCKSTEP_RETURN_IF_ERROR(not_negative("view.era", view.era));
  LOCKSTEP_RETURN_IF_ERROR(not_negative("view.decided_epochs", view.decided_epochs));
  // -1: nobody.
  if (view.donor != -1) {
    LOCKSTEP_RETURN_IF_ERROR(check_index("view.donor", view.donor, view.members.size()));
  }
  LOCKSTEP_ASSIGN(StateRef restore, from_wire(view.restore));
  View result;
  result.number = view.number;
  result.first_step = view.first_step;
  result.carries = view.carries;
  result.restores = view.restores;
  result.restore = std::move(restore);
  result.donor = view.donor;
  result.era = view.era;
  result.decided_epochs = view.decided_epochs;
  if (view.__isset.learning_rate) {
    LOCKSTEP_ASSIGN(result.learning_rate, rate_from_wire("view.learning_rate", view.learning_rate));
  }
  for (const wire::Member& each : view.members) {
    LOCKSTEP_ASSIGN(Member member, from_wire(each));
    result.members.push_back(std::move(member));
  }
  for (const int32_t owner : view.slice_owners) {
    LOCKSTEP_RETURN_IF_ERROR(check_index("view.slice_owners", owner, view.members.size()));
    result.slice_owners.push_back(owner);
  }
  return result;
}

}  // namespace lockstep
