// What nodes that measure or predict say and hear.
#include "rpc/convert.h"
#include "rpc/convert_checks.h"

namespace lockstep {
namespace {

wire::BatchRange range_to_wire(const BatchRange& range) {
  wire::BatchRange wired;
  wired.__set_batches_begin(range.begin);
  wired.__set_batches_end(range.end);
  return wired;
}

Result<BatchRange> range_from_wire(const char* begin, const char* end,
                                   const wire::BatchRange& range) {
  LOCKSTEP_RETURN_IF_ERROR(not_negative(begin, range.batches_begin));
  LOCKSTEP_RETURN_IF_ERROR(at_least(end, range.batches_end, range.batches_begin));
  return BatchRange{range.batches_begin, range.batches_end};
}

}  // namespace

wire::WorkRequest to_wire(const WorkRequest& request) {
  wire::WorkRequest wired;
  wired.__set_session(request.session);
  wired.__set_done(range_to_wire(request.done));
  return wired;
}

wire::WorkReply to_wire(const WorkReply& reply) {
  wire::WorkReply wired;
  wired.__set_batches(range_to_wire(reply.batches));
  wired.__set_over(reply.over);
  return wired;
}

wire::ResultPart to_wire(const ResultPart& part) {
  wire::ResultPart wired;
  wired.__set_session(part.session);
  wired.__set_array(part.array);
  wired.__set_offset(part.offset);
  wired.__set_bytes(part.bytes);
  return wired;
}

Result<WorkRequest> from_wire(const wire::WorkRequest& request) {
  LOCKSTEP_RETURN_IF_ERROR(not_negative("work.session", request.session));
  LOCKSTEP_ASSIGN(const BatchRange done,
                  range_from_wire("work.done.begin", "work.done.end", request.done));
  return WorkRequest{request.session, done};
}

Result<WorkReply> from_wire(const wire::WorkReply& reply) {
  LOCKSTEP_ASSIGN(const BatchRange batches,
                  range_from_wire("work.batches.begin", "work.batches.end", reply.batches));
  return WorkReply{batches, reply.over};
}

Result<ResultPart> from_wire(const wire::ResultPart& part) {
  LOCKSTEP_RETURN_IF_ERROR(not_negative("result.session", part.session));
  LOCKSTEP_RETURN_IF_ERROR(not_negative("result.array", part.array));
  LOCKSTEP_RETURN_IF_ERROR(not_negative("result.offset", part.offset));
  return ResultPart{part.session, part.array, part.offset, part.bytes};
}

}  // namespace lockstep
