// A model of a few floats, with all that makes bits depend on order, rows and placement: sums that
// round, a norm over everything, momentum, dropout by position, negative zeros, metrics.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "host/cluster/coordinator.h"
#include "host/core/partitions.h"

namespace lockstep::sim {

// Behind the gradients: the loss, the number of hits, a mean of the outputs. Then the rows.
inline constexpr int kToyMeasured = 3;
inline constexpr int kToySums = kToyMeasured + 1;

struct ToyState {
  int64_t step = 0;
  std::vector<float> weights;
  std::vector<float> momentum;
  MetricSums sums = MetricSums(kToySums);  // of the epoch so far

  std::string bytes() const;
  static ToyState from_bytes(const std::string& bytes);
  uint64_t digest() const;
};

// Values of subtrees; those that are absent hold no rows.
struct Piece {
  Subtree subtree;
  std::vector<float> values;
};
// Their sum in the order of the tree below `target`; nothing where none is there.
std::optional<std::vector<float>> sum_in_tree(const std::vector<Piece>& pieces,
                                              const Subtree& target);

class ToyModel {
 public:
  static constexpr int kWidth = 2;  // weights of a slice

  ToyModel(const ClusterFacts& facts, uint64_t seed) : facts_(facts), seed_(seed) {}

  ToyState initial_state() const;
  // Where a slice lies in the flat vector: gradients, then what is measured.
  int slice_begin(int slice) const { return slice * kWidth; }
  int slice_end(int slice) const;
  int flat_size() const { return facts_.slices * kWidth + kToyMeasured; }

  // The sum over the rows of one partition. `local_row` is the number of rows that this node
  // computes of the step before them: a correct model does not look at it.
  std::vector<float> gradient(const ToyState& state, int partition, int local_row) const;
  int rows(int64_t step, int partition) const;
  // By the rate, or by its own.
  void apply(ToyState* state, const std::vector<float>& flat, int members,
             const std::vector<int>& own_slices, std::optional<double> learning_rate) const;
  // Of a step: what stands behind the gradients, and its rows.
  MetricSums sums_of(int64_t step, const std::vector<float>& flat) const;
  // One partition of each validation batch; only those that hold rows.
  std::vector<ValidationPart> validate(const ToyState& state, int partition) const;

 private:
  float dropout(int64_t epoch, int64_t position, int weight, int local_row) const;

  const ClusterFacts facts_;
  const uint64_t seed_;
};

// Whether an epoch ends with a state that has these sums, whatever steps were to come. So rare that
// it happens to some runs.
bool ends_epoch(const ClusterFacts& facts, const MetricSums& sums);

// Keras' callbacks for such a job, in JSON; those that are told to stop where ends_epoch() holds.
// They decide when they are asked for the `asks`-th time.
void add_toy_callbacks(const std::string& list, bool ends_early, int64_t asks, ClusterFacts* facts);

// The same job without a cluster.
struct Reference {
  std::vector<uint64_t> digests;  // of state[step]
  std::string final_bytes;        // of the state whose weights are the job's
  std::vector<EpochRecord> epochs;
};
Reference run_alone(const ClusterFacts& facts, uint64_t seed);

}  // namespace lockstep::sim
