#include "host/cluster/joining.h"

#include <fmt/format.h>

#include <algorithm>

namespace lockstep {
namespace {

constexpr int64_t kSilentMs = 1000;  // it polls five times as often

std::string both_values(const std::string& what, const std::string& node, const std::string& job,
                        const std::string& remedy) {
  return fmt::format("refused to join: {} of this node is '{}', the job's is '{}'; {}", what, node,
                     job, remedy);
}

Status check_canary(const std::vector<OpDigest>& expected, const JoinRequest& request) {
  if (expected.empty()) return {};
  for (size_t i = 0; i < std::max(expected.size(), request.canary.size()); ++i) {
    const OpDigest mine = i < request.canary.size() ? request.canary[i] : OpDigest{"none", 0};
    const OpDigest theirs = i < expected.size() ? expected[i] : OpDigest{"none", 0};
    if (mine == theirs) continue;
    return refused_error(both_values(
        fmt::format("the canary (op {})", i),
        fmt::format("{} {:016x}", mine.op, static_cast<uint64_t>(mine.hash)),
        fmt::format("{} {:016x}", theirs.op, static_cast<uint64_t>(theirs.hash)),
        "this machine computes other bits: use machines of one kind, or other --numerics"));
  }
  return {};
}

}  // namespace

Status check_version(const JoinTerms& terms, const Hello& hello) {
  if (hello.wire_version == kWireVersion && hello.version == terms.version) return {};
  return refused_error(both_values("the version",
                                   fmt::format("{} (wire {})", hello.version, hello.wire_version),
                                   fmt::format("{} (wire {})", terms.version, kWireVersion),
                                   "run the same version of lockstep on all machines"));
}

Status check_join(const JoinTerms& terms, const std::vector<OpDigest>& canary,
                  const JoinRequest& request) {
  if (request.numerics != terms.numerics) {
    return refused_error(both_values("numerics", request.numerics, terms.numerics,
                                     "start it with the job's numerics"));
  }
  if (request.data_digest != terms.data_digest) {
    return refused_error(both_values("the data digest", request.data_digest, terms.data_digest,
                                     "point --data at the same data set"));
  }
  if (request.validation_digest != terms.validation_digest) {
    return refused_error(both_values("the validation data digest", request.validation_digest,
                                     terms.validation_digest, "point it at the same data set"));
  }
  return check_canary(canary, request);
}

bool is_silent(int64_t lease_ends_ms, int lease_ms, int64_t now_ms) {
  return lease_ends_ms - now_ms < lease_ms - std::min<int64_t>(kSilentMs, lease_ms / 2);
}

}  // namespace lockstep
