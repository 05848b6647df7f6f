// What a node must show before it may take part. Refusals name both values and the remedy.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "host/cluster/messages.h"
#include "host/core/result.h"

namespace lockstep {

// What a job asks of its nodes.
struct JoinTerms {
  std::string version;
  std::string numerics;
  std::string data_digest;
  std::string validation_digest;
};

Status check_version(const JoinTerms& terms, const Hello& hello);
// `canary`: what the nodes that are there have computed; empty: whatever this one has.
Status check_join(const JoinTerms& terms, const std::vector<OpDigest>& canary,
                  const JoinRequest& request);

// Of a session whose connection broke: a process that is alive polls again by then.
inline constexpr int64_t kReconnectMs = 150;
// Whether a node has said nothing for longer than one that is well.
bool is_silent(int64_t lease_ends_ms, int lease_ms, int64_t now_ms);

}  // namespace lockstep
