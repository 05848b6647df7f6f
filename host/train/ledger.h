// Which samples each partition of each step consumed.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "host/cluster/messages.h"
#include "host/core/result.h"
#include "host/job/job.h"

namespace lockstep {

// The rows that partition `partition` of step `step` trains, by the recipe alone.
std::vector<int64_t> samples_of(const Job& job, int64_t step, int partition);

// One thread at a time.
class Ledger {
 public:
  explicit Ledger(Job job) : job_(std::move(job)) {}

  // What a node told; where nobody lived to tell (no samples), what the recipe says.
  void add(int64_t step, const PartitionSamples& part);
  // The job goes on from state[step]: entries from there on do not count any more.
  void restore(int64_t step);
  // The same, after read() in a new process; what is missing before `step` is filled in.
  void go_on_from(int64_t step);

  // One JSON line an entry, in order.
  std::string text() const;
  // The lines for a file that only grows: what happened since the last call.
  std::string take_news();
  // Adds what such a file holds. A last line without its end is left out: a crash left it.
  Status read(std::string_view news, const std::string& path);

 private:
  using Key = std::pair<int64_t, int>;  // step, partition
  std::string line(const Key& key, const std::vector<int64_t>& samples) const;
  Status read_line(std::string_view line, const std::string& path);

  const Job job_;
  std::map<Key, std::vector<int64_t>> entries_;
  std::set<Key> new_entries_;
  std::string news_;
};

}  // namespace lockstep
