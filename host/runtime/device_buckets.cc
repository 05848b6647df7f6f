#include "host/runtime/device_buckets.h"

#include <algorithm>

#include "host/graph/gradient_buckets.h"

namespace lockstep {
namespace {

constexpr int64_t kShareUnit = 64;  // floats: what kernels read at once, with room

int64_t rounded_up(int64_t floats, int sharers) {
  const int64_t unit = kShareUnit * sharers;
  return (floats + unit - 1) / unit * unit;
}

}  // namespace

FlatRange padded_flat(const Graph& graph, int sharers) {
  return {0, rounded_up(graph.flat_size, sharers)};
}

std::vector<FlatRange> device_buckets(const Graph& graph, const Device& device, int sharers) {
  std::vector<FlatRange> buckets;
  int64_t end = padded_flat(graph, sharers).end;
  for (const GradientBucket& bucket : gradient_buckets(graph, device.bucket_bytes())) {
    const int64_t begin = rounded_up(bucket.range.begin, sharers);
    buckets.push_back({std::min(begin, end), end});
    end = buckets.back().begin;
  }
  return buckets;
}

}  // namespace lockstep
