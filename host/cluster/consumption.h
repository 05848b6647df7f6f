// Which rows have entered the weights: every partition of every step once, whoever computed it and
// however often. Counted from what the nodes say they contributed, not from a step counter.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <vector>

namespace lockstep {

class Consumption {
 public:
  Consumption(int partitions, std::function<int64_t(int64_t step)> rows_of_step)
      : partitions_(partitions), rows_of_step_(std::move(rows_of_step)) {}

  // Whether it counts: it has rows, and this is the first that is heard of it.
  bool add(int64_t step, int partition);
  // Some member has applied all steps before `step`, which needs each of their partitions: what
  // dead nodes did not live to tell is added. Returns what was, as (step, partition).
  std::vector<std::pair<int64_t, int>> applied_before(int64_t step);
  // Rows consumed before `step`; -1 while reports are missing.
  int64_t rows_before(int64_t step) const;
  int64_t rows() const;
  // Steps before `step` are durable, with the count that rows_before gave.
  void durable_before(int64_t step);
  // The job goes on from state[step], before which `rows` had been consumed.
  void restore(int64_t step, int64_t rows);

 private:
  struct Step {
    std::vector<bool> counted;
    int64_t rows = 0;
  };
  int64_t rows_of(int64_t step, int partition) const;

  const int partitions_;
  const std::function<int64_t(int64_t)> rows_of_step_;
  int64_t first_step_ = 0;  // steps_ begin here
  int64_t rows_ = 0;        // of the steps before
  std::map<int64_t, Step> steps_;
};

}  // namespace lockstep
