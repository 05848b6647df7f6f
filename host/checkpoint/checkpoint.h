// What a checkpoint says of itself: the manifest, a JSON text whose SHA-256 is the checkpoint's id.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "host/core/metric_sums.h"
#include "host/core/result.h"

namespace lockstep {

// Longer objects are never taken for manifests.
constexpr uint64_t kMaxManifestBytes = 16 << 20;

struct Checkpoint {
  std::string recipe_sha256;
  int64_t step = 0;          // state[step]: so many updates are in it
  std::string parent;        // id of the checkpoint from which it was derived, or empty
  std::string state;         // object id
  uint64_t state_bytes = 0;  // of that object
  std::string state_digest;  // hex; what the members reported
  int64_t epoch = 0;
  MetricSums accumulators;                             // of the epoch so far, the state's own
  std::map<std::string, std::vector<double>> history;  // metric to one value an epoch
  int64_t samples_consumed = 0;
  bool is_final = false;
  bool operator==(const Checkpoint&) const = default;
};

// The same text for the same checkpoint: numbers that are not whole are written as their bits.
std::string to_manifest(const Checkpoint& checkpoint);

// Whether the text means to be a manifest, of whatever format.
bool looks_like_manifest(std::string_view text);

// Strict: an unknown format, a key that is missing, unknown or of another type is an error that
// names `path` and the key.
Result<Checkpoint> from_manifest(std::string_view text, const std::string& path);

}  // namespace lockstep
