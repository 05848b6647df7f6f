#include "host/core/partitions.h"

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

}  // namespace lockstep
