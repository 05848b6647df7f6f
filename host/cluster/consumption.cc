#include "host/cluster/consumption.h"

#include "host/core/partitions.h"
#include "host/core/planted.h"

namespace lockstep {

int64_t Consumption::rows_of(int64_t step, int partition) const {
  const int64_t rows = rows_of_step_(step);
  return partition_begin(rows, partitions_, partition + 1) -
         partition_begin(rows, partitions_, partition);
}

bool Consumption::add(int64_t step, int partition) {
  const int64_t rows = rows_of(step, partition);
  if (step < first_step_ || rows == 0) return false;
  Step& counts = steps_[step];
  counts.counted.resize(static_cast<size_t>(partitions_));
  if (counts.counted[partition] && !planted(Bug::sample_counted_twice)) return false;
  counts.counted[partition] = true;
  counts.rows += rows;
  return true;
}

std::vector<std::pair<int64_t, int>> Consumption::applied_before(int64_t end) {
  std::vector<std::pair<int64_t, int>> added;
  for (int64_t step = first_step_; step < end; ++step) {
    const auto found = steps_.find(step);
    if (found != steps_.end() && found->second.rows == rows_of_step_(step)) continue;
    for (int partition = 0; partition < partitions_; ++partition) {
      if (add(step, partition)) added.emplace_back(step, partition);
    }
  }
  return added;
}

int64_t Consumption::rows_before(int64_t end) const {
  int64_t rows = rows_;
  for (int64_t step = first_step_; step < end; ++step) {
    const auto found = steps_.find(step);
    if (found == steps_.end() || found->second.rows != rows_of_step_(step)) return -1;
    rows += found->second.rows;
  }
  return rows;
}

int64_t Consumption::rows() const {
  int64_t rows = rows_;
  for (const auto& [step, counts] : steps_) rows += counts.rows;
  return rows;
}

void Consumption::durable_before(int64_t end) {
  while (!steps_.empty() && steps_.begin()->first < end) {
    rows_ += steps_.begin()->second.rows;
    steps_.erase(steps_.begin());
  }
  first_step_ = end > first_step_ ? end : first_step_;
}

void Consumption::restore(int64_t step, int64_t rows) {
  steps_.clear();
  first_step_ = step;
  rows_ = rows;
}

}  // namespace lockstep
