#include "host/core/partitions.h"

#include <algorithm>

#include "host/core/check.h"

namespace lockstep {

bool is_power_of_two(int64_t value) { return value > 0 && (value & (value - 1)) == 0; }

int64_t partition_begin(int64_t rows, int partitions, int p) { return p * rows / partitions; }

std::vector<int> partition_rows(int64_t rows, int partitions, PartitionRange range) {
  std::vector<int> result;
  for (int p = range.begin; p < range.end; ++p) {
    result.push_back(static_cast<int>(partition_begin(rows, partitions, p + 1) -
                                      partition_begin(rows, partitions, p)));
  }
  return result;
}

std::vector<Subtree> maximal_subtrees(PartitionRange range) {
  std::vector<Subtree> result;
  int first = range.begin;
  while (first < range.end) {
    int level = 0;
    while (first % (2 << level) == 0 && first + (2 << level) <= range.end) ++level;
    result.push_back({first, level});
    first += 1 << level;
  }
  return result;
}

PartitionRange range_of_part(PartitionRange partitions, int parts, int part) {
  LOCKSTEP_CHECK(parts > 0 && 0 <= part && part < parts);
  const int share = partitions.size() / parts;
  const int larger = partitions.size() % parts;
  const int begin = partitions.begin + part * share + (part < larger ? part : larger);
  return {begin, begin + share + (part < larger ? 1 : 0)};
}

std::vector<PartitionRange> merged(std::vector<PartitionRange> ranges) {
  std::sort(ranges.begin(), ranges.end(),
            [](PartitionRange a, PartitionRange b) { return a.begin < b.begin; });
  std::vector<PartitionRange> result;
  for (const PartitionRange range : ranges) {
    if (range.empty()) continue;
    if (!result.empty() && range.begin <= result.back().end) {
      result.back().end = std::max(result.back().end, range.end);
    } else {
      result.push_back(range);
    }
  }
  return result;
}

std::vector<PartitionRange> without(const std::vector<PartitionRange>& ranges,
                                    const std::vector<PartitionRange>& taken) {
  std::vector<PartitionRange> result;
  for (const PartitionRange range : ranges) {
    int begin = range.begin;
    for (const PartitionRange gone : taken) {
      if (gone.end <= begin || gone.begin >= range.end) continue;
      if (gone.begin > begin) result.push_back({begin, gone.begin});
      begin = gone.end;
    }
    if (begin < range.end) result.push_back({begin, range.end});
  }
  return result;
}

int count_partitions(const std::vector<PartitionRange>& ranges) {
  int count = 0;
  for (const PartitionRange range : ranges) count += range.size();
  return count;
}

Subtree root_subtree(int partitions) {
  int level = 0;
  while ((1 << level) < partitions) ++level;
  return {0, level};
}

}  // namespace lockstep
