// Runs single ops of the CPU device on row-major data.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "host/core/check.h"
#include "host/core/rng.h"
#include "host/cpu/cpu_device.h"

namespace lockstep::cpu_test {

using Floats = std::vector<float>;

inline Floats random_floats(uint64_t key, int64_t count, float scale = 1) {
  Floats values(static_cast<size_t>(count));
  for (size_t i = 0; i < values.size(); ++i) {
    values[i] = scale * (2 * uniform_at(mix64(key + 77), i) - 1);
  }
  return values;
}

// An op with the sizes that a graph would know.
struct OpCase {
  std::string name;
  OpAttributes attributes;
  std::vector<int64_t> inputs;  // features
  int64_t output = 0;           // features; 0: none
  bool relu_mask = false;       // an additional input: of the output's features
  int64_t parameters = 0;       // flat size of weights and of a root
  int64_t words = 0;            // the first input holds whole numbers below this, where not 0
  // Values with one row a partition, behind the inputs and the output.
  std::vector<int64_t> partition_inputs, partition_outputs;  // features
};

struct OpResult {
  Floats output;  // rows x features
  std::vector<Floats> partition_outputs;
  std::vector<Floats> roots;  // NaN where not written
};

inline OpDesc describe(const OpCase& c) {
  OpDesc desc{.name = c.name, .attributes = c.attributes};
  int value = 0;
  for (size_t i = 0; i < c.inputs.size(); ++i) desc.inputs.push_back(value++);
  if (c.output > 0) desc.outputs.push_back(value++);
  if (c.relu_mask) desc.relu_mask = value++;
  for (size_t i = 0; i < c.partition_inputs.size(); ++i) desc.inputs.push_back(value++);
  for (size_t i = 0; i < c.partition_outputs.size(); ++i) desc.outputs.push_back(value++);
  return desc;
}

inline std::unique_ptr<Device> make_device(std::string_view numerics = "cpu-avx2") {
  Result<std::unique_ptr<Device>> device = make_cpu_device(numerics);
  EXPECT_TRUE(device.ok());
  device.value()->attach_thread();
  return std::move(device).value();
}

// Inputs of a case for `rows` rows; the relu mask is the last, but for values of partitions.
inline std::vector<Floats> random_inputs(const OpCase& c, int rows, uint64_t key) {
  std::vector<Floats> inputs;
  for (const int64_t features : c.inputs) {
    inputs.push_back(random_floats(key++, features * rows));
  }
  for (size_t i = 0; c.words > 0 && i < inputs[0].size(); ++i) {
    inputs[0][i] = std::floor((inputs[0][i] + 1) / 2 * static_cast<float>(c.words));
  }
  if (c.relu_mask) inputs.push_back(random_floats(key++, c.output * rows));
  return inputs;
}

// The rows [begin, end) of row-major data.
inline Floats slice(const Floats& data, int64_t features, int begin, int end) {
  return {data.begin() + begin * features, data.begin() + end * features};
}

// A batch whose row r has position 1000 + 3 * (first + r) and a label that follows from it.
inline HostBatch make_batch(int first, int rows, int64_t classes) {
  HostBatch batch;
  batch.rows = rows;
  for (int row = first; row < first + rows; ++row) {
    batch.positions.push_back(static_cast<uint32_t>(1000 + 3 * row));
    batch.labels.push_back(static_cast<int32_t>((row * 7 + 3) % classes));
    batch.samples.push_back(row);
  }
  return batch;
}

// The subtree's sum with every partition run alone, added by the device; has_rows(subtree) says
// where there is anything to add.
template <class HasRows>
Floats sum_of_leaves(Device& device, const std::vector<Floats>& leaves, const Subtree& tree,
                     const HasRows& has_rows) {
  if (tree.level == 0) return leaves[static_cast<size_t>(tree.first)];
  const Subtree left{tree.first, tree.level - 1};
  const Subtree right{left.end(), tree.level - 1};
  const Floats b = sum_of_leaves(device, leaves, right, has_rows);
  if (!has_rows(left)) return b;
  Floats a = sum_of_leaves(device, leaves, left, has_rows);
  if (!has_rows(right)) return a;
  device.add(a.data(), b.data(), a.data(), static_cast<int64_t>(a.size()));
  return a;
}

// Runs ops on one device; keeps their memory until the next run.
class OpRunner {
 public:
  explicit OpRunner(Device& device) : device_(device) {}

  // `first_row` is that of the batch (positions and labels).
  OpResult run(const OpCase& c, const PartitionGroup& group, const std::vector<Floats>& inputs,
               const Floats& weights, int first_row = 0) {
    const int rows = group.total_rows();
    std::vector<std::unique_ptr<Buffer>> buffers;
    std::vector<float*> values;
    const auto add_value = [&](int64_t features, const Floats* data) {
      buffers.push_back(device_.allocate(device_.value_bytes(rows, features)).value());
      values.push_back(buffers.back()->data());
      if (data != nullptr) upload(*data, rows, features, values.back());
    };
    for (size_t i = 0; i < c.inputs.size(); ++i) add_value(c.inputs[i], &inputs[i]);
    if (c.output > 0) add_value(c.output, nullptr);
    if (c.relu_mask) add_value(c.output, &inputs[c.inputs.size()]);
    const int64_t partitions = static_cast<int64_t>(group.rows.size());
    const auto add_partition_value = [&](int64_t features) {
      buffers.push_back(device_.allocate(partitions * features * 4).value());
      values.push_back(buffers.back()->data());
      return values.back();
    };
    for (size_t i = 0; i < c.partition_inputs.size(); ++i) {
      const Floats& data = inputs[c.inputs.size() + (c.relu_mask ? 1 : 0) + i];
      LOCKSTEP_CHECK(static_cast<int64_t>(data.size()) == partitions * c.partition_inputs[i]);
      std::copy(data.begin(), data.end(), add_partition_value(c.partition_inputs[i]));
    }
    for (const int64_t features : c.partition_outputs) add_partition_value(features);

    OpResult result;
    const float nan = __builtin_nanf("");
    result.roots.assign(group.roots.size(), Floats(static_cast<size_t>(c.parameters), nan));
    std::vector<float*> roots;
    for (Floats& root : result.roots) roots.push_back(root.data());
    const SoftmaxCrossEntropyOp* loss = std::get_if<SoftmaxCrossEntropyOp>(&c.attributes);
    const HostBatch batch = make_batch(first_row, rows, loss == nullptr ? 10 : loss->classes);
    RunContext context{.weights = weights.data(),
                       .roots = roots,
                       .batch = &batch,
                       .seed = 11,
                       .epoch = 3,
                       .loss_scale = 0.125f};
    const OpDesc desc = describe(c);
    const int64_t work_bytes = device_.work_bytes(desc, group);
    const auto work = device_.allocate(work_bytes).value();
    std::fill_n(work->data(), work_bytes / int64_t{sizeof(float)}, nan);
    context.work = work->data();
    auto op = device_.prepare(desc, group);
    EXPECT_TRUE(op.ok());
    op.value()->run(context, values);
    op.value()->run(context, values);  // nothing may depend on what a run leaves behind
    if (c.output > 0) {
      result.output.resize(static_cast<size_t>(c.output * rows));
      LOCKSTEP_CHECK(
          device_.download(values[c.inputs.size()], rows, c.output, result.output.data()).ok());
    }
    const size_t first = values.size() - c.partition_outputs.size();
    for (size_t i = 0; i < c.partition_outputs.size(); ++i) {
      const float* data = values[first + i];
      result.partition_outputs.emplace_back(data, data + partitions * c.partition_outputs[i]);
    }
    return result;
  }

 private:
  void upload(const Floats& data, int rows, int64_t features, float* value) {
    ASSERT_EQ(static_cast<int64_t>(data.size()), rows * features);
    HostBatch batch{.rows = rows, .features = features, .inputs = data};
    OpDesc desc{.name = "input", .attributes = InputOp{features}, .outputs = {0}};
    const PartitionGroup group{.first = 0, .rows = {rows}};
    RunContext context{.batch = &batch};
    float* const values[] = {value};
    device_.prepare(desc, group).value()->run(context, values);
  }

  Device& device_;
};

inline bool same_bits(const Floats& a, const Floats& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * 4) == 0);
}

// Index of the first element whose bits differ, for messages.
inline std::string first_difference(const Floats& a, const Floats& b) {
  if (a.size() != b.size()) return "sizes differ";
  for (size_t i = 0; i < a.size(); ++i) {
    if (std::bit_cast<uint32_t>(a[i]) != std::bit_cast<uint32_t>(b[i])) {
      return "element " + std::to_string(i) + ": " + std::to_string(a[i]) + " and " +
             std::to_string(b[i]);
    }
  }
  return "none";
}

// What the tests run: each op in shapes that reach each path of the kernels.
std::vector<OpCase> forward_cases();          // forward and data gradient ops
std::vector<OpCase> weight_gradient_cases();  // conv and dense
// The same of expressions, gathers, matrices, embeddings and sums.
std::vector<OpCase> general_cases();
std::vector<OpCase> general_gradient_cases();
std::vector<OpCase> joined(std::vector<OpCase> a, const std::vector<OpCase>& b);
OpCase map_case(const MapOp& op, const std::string& name, bool relu_mask = false);
Conv2dOp conv(int size, int in, int out, int kernel, int stride, bool same, Pass pass);
OpCase conv_case(const Conv2dOp& op, bool relu_mask = false);
OpCase dense_case(const DenseOp& op, bool relu_mask = false);

}  // namespace lockstep::cpu_test
