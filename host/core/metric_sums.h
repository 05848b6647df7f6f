// The accumulators of a job's loss and metrics. What each of them counts only
// host/job/metric_table.h knows; everything else adds them and carries them as they are.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace lockstep {

// Over the rows of a partition, a batch or an epoch. Partitions are added as floats in the order of
// the tree, batches as doubles in theirs, so counts are exact: to 2^24 in a batch, 2^53 in an
// epoch.
using MetricSums = std::vector<double>;

// A job has no more; what comes from outside is checked against it before memory is taken.
inline constexpr int64_t kMaxMetricSums = 4096;

// What they come to, for people.
using DescribeSums = std::function<std::string(const MetricSums&)>;

// Both have the same number.
inline void add_sums(const MetricSums& more, MetricSums* sums) {
  for (std::size_t i = 0; i < sums->size(); ++i) (*sums)[i] += more[i];
}

}  // namespace lockstep
