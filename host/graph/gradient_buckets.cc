#include "host/graph/gradient_buckets.h"

#include <algorithm>
#include <iterator>
#include <map>

#include "host/core/check.h"

namespace lockstep {
namespace {

constexpr int64_t kMostBuckets = 8;  // but for the last: each has a hand-over of its own

}  // namespace

std::vector<GradientBucket> gradient_buckets(const Graph& graph, int64_t least_bytes) {
  const int64_t float_bytes = sizeof(float);
  const int64_t least =
      std::max({least_bytes / float_bytes, graph.flat_size / kMostBuckets, int64_t{1}});
  std::vector<GradientBucket> buckets;
  // Moving averages are written before the gradients beside them, and the gradients of a parameter
  // that is used twice apart: a range counts once all behind it is there too.
  std::map<int64_t, int64_t> begins;  // of written ranges, by their ends
  int64_t final_from = graph.flat_size, taken_from = graph.flat_size;
  const auto count = static_cast<int>(std::ssize(graph.ops));
  for (int i = 0; i < count; ++i) {
    const FlatRange written = written_range(graph.ops[static_cast<size_t>(i)]);
    if (!written.empty()) begins[written.end] = written.begin;
    for (auto found = begins.find(final_from); found != begins.end();
         found = begins.find(final_from)) {
      final_from = found->second;
    }
    if (i + 1 == count || final_from == 0 || taken_from - final_from < least) continue;
    buckets.push_back({i + 1, {final_from, taken_from}});
    taken_from = final_from;
  }
  LOCKSTEP_CHECK(final_from == 0);
  buckets.push_back({count, {0, taken_from}});
  return buckets;
}

}  // namespace lockstep
