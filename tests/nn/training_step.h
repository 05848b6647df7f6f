// Runs Programs on batches that tests make up: the smallest stand-in for a trainer.
#pragma once

#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "host/core/check.h"
#include "host/core/partitions.h"
#include "host/core/rng.h"
#include "host/device/device.h"
#include "host/graph/program.h"
#include "host/optim/optimizer.h"
#include "host/reduce/tree_sum.h"

namespace lockstep {

// Element i of a made-up tensor, in [0, 1): the formula of tests/golden/make_golden.py.
inline double made_up_uniform(uint64_t tensor, uint64_t i) {
  return static_cast<double>(mix64(tensor * 0x9e3779b97f4a7c15u + i + 1) >> 40) / 16777216.0;
}

inline HostBatch made_up_batch(int rows, int64_t features, int classes) {
  HostBatch batch;
  batch.rows = rows;
  batch.features = features;
  for (int row = 0; row < rows; ++row) {
    for (int64_t i = 0; i < features; ++i) {
      batch.inputs.push_back(static_cast<float>(
          made_up_uniform(static_cast<uint64_t>(1000 + row), static_cast<uint64_t>(i))));
    }
    batch.labels.push_back(
        static_cast<int32_t>(made_up_uniform(static_cast<uint64_t>(2000 + row), 0) * classes));
    batch.positions.push_back(static_cast<uint32_t>(100 + 3 * row));
    batch.samples.push_back(row);
  }
  return batch;
}

inline HostBatch slice_batch(const HostBatch& batch, int64_t begin, int64_t end) {
  HostBatch slice;
  slice.rows = static_cast<int>(end - begin);
  slice.features = batch.features;
  slice.inputs.assign(batch.inputs.begin() + begin * batch.features,
                      batch.inputs.begin() + end * batch.features);
  slice.target_features = batch.target_features;
  slice.targets.assign(batch.targets.begin() + begin * batch.target_features,
                       batch.targets.begin() + end * batch.target_features);
  if (!batch.weights.empty()) {
    slice.weight_columns = batch.weight_columns;
    slice.weights.assign(batch.weights.begin() + begin * batch.weight_columns,
                         batch.weights.begin() + end * batch.weight_columns);
  }
  if (!batch.labels.empty()) {
    slice.labels.assign(batch.labels.begin() + begin, batch.labels.begin() + end);
  }
  slice.positions.assign(batch.positions.begin() + begin, batch.positions.begin() + end);
  slice.samples.assign(batch.samples.begin() + begin, batch.samples.begin() + end);
  return slice;
}

// `range` of P partitions of a batch, with the roots that hold rows.
inline PartitionGroup group_of(int64_t rows, int partitions, PartitionRange range) {
  PartitionGroup group;
  group.first = range.begin;
  group.rows = partition_rows(rows, partitions, range);
  for (const Subtree& root : maximal_subtrees(range)) {
    if (partition_begin(rows, partitions, root.first) <
        partition_begin(rows, partitions, root.end())) {
      group.roots.push_back(root);
    }
  }
  return group;
}

inline std::unique_ptr<Buffer> allocate_floats(Device& device, int64_t count) {
  auto buffer = device.allocate(count * int64_t{sizeof(float)});
  LOCKSTEP_CHECK(buffer.ok());
  return std::move(buffer).value();
}

inline void upload(Device& device, const std::vector<float>& from, float* to) {
  LOCKSTEP_CHECK(device.copy_to_device(from.data(), static_cast<int64_t>(from.size()), to).ok());
}

inline std::vector<float> fetch(Device& device, const float* from, int64_t count) {
  std::vector<float> values(static_cast<size_t>(count));
  LOCKSTEP_CHECK(device.copy_to_host(from, count, values.data()).ok());
  return values;
}

// The flat vectors that one group's run left, one a root.
struct GroupResult {
  PartitionGroup group;
  std::vector<std::vector<float>> roots;
};

// The tree's root from groups of `partitions` that ran one after the other.
inline std::vector<float> combine(Device& device, const std::vector<GroupResult>& results,
                                  int partitions, int64_t flat_size) {
  std::vector<TreePiece> pieces;
  for (const GroupResult& result : results) {
    for (size_t i = 0; i < result.roots.size(); ++i) {
      pieces.push_back({result.group.roots[i], result.roots[i].data()});
    }
  }
  std::vector<float> sum(static_cast<size_t>(flat_size));
  tree_sum_range(device, pieces, root_subtree(partitions), flat_size, sum.data());
  return sum;
}

class TrainingStep {
 public:
  // Both outlive it. `weights` are copied in by `set_weights`.
  TrainingStep(Device& device, const Graph& graph)
      : device_(device),
        graph_(graph),
        programs_(device, graph),
        weights_(allocate_floats(device, graph.parameter_count)) {}

  void set_weights(const std::vector<float>& weights) {
    upload(device_, weights, weights_->data());
  }
  float* weights() { return weights_->data(); }
  std::vector<float> copy_weights() {
    return fetch(device_, weights_->data(), graph_.parameter_count);
  }
  ProgramSet& programs() { return programs_; }

  GroupResult run(const HostBatch& batch, int partitions, PartitionRange range,
                  const Program::ReadyCallback& ready = {}) {
    GroupResult result{group_of(batch.rows, partitions, range), {}};
    std::vector<std::unique_ptr<Buffer>> buffers;
    for (size_t i = 0; i < result.group.roots.size(); ++i) {
      buffers.push_back(allocate_floats(device_, graph_.flat_size));
    }
    const HostBatch mine = slice_batch(batch, partition_begin(batch.rows, partitions, range.begin),
                                       partition_begin(batch.rows, partitions, range.end));
    std::vector<float*> roots;
    for (const auto& buffer : buffers) roots.push_back(buffer->data());
    auto program = programs_.program_for(result.group);
    LOCKSTEP_CHECK(program.ok());
    LOCKSTEP_CHECK(program.value()->run(context(mine, batch.rows, roots), ready).ok());
    LOCKSTEP_CHECK(device_.rejoin().ok());
    for (const float* root : roots) {
      result.roots.push_back(fetch(device_, root, graph_.flat_size));
    }
    return result;
  }

  // Gradients and metrics of the whole batch in `partitions` partitions, run as one group.
  std::vector<float> flat(const HostBatch& batch, int partitions) {
    const GroupResult result = run(batch, partitions, {0, partitions});
    LOCKSTEP_CHECK(result.roots.size() == 1);
    return result.roots[0];
  }

  RunContext context(const HostBatch& mine, int batch_rows, std::span<float* const> roots) {
    RunContext context;
    context.weights = weights_->data();
    context.roots = roots;
    context.batch = &mine;
    context.seed = 7;
    context.epoch = 3;
    context.loss_scale = 1.0f / static_cast<float>(batch_rows);
    return context;
  }

 private:
  Device& device_;
  const Graph& graph_;
  ProgramSet programs_;
  std::unique_ptr<Buffer> weights_;
};

}  // namespace lockstep
