#include "host/cluster/messages.h"

namespace lockstep {

void add_batch(std::span<const ValidationPart> parts, int partitions, MetricSums* sums) {
  const auto count = static_cast<size_t>(partitions);
  for (size_t i = 0; i < sums->size(); ++i) {
    std::vector<float> values(count);
    std::vector<bool> present(count);
    for (const ValidationPart& part : parts) {
      const auto partition = static_cast<size_t>(part.partition);
      values[partition] = static_cast<float>(part.sums[i]);
      present[partition] = true;
    }
    float sum = 0;
    if (tree_sum(values, present, &sum)) (*sums)[i] += static_cast<double>(sum);
  }
}

}  // namespace lockstep
