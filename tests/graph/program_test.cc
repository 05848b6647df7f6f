// Programs: memory, ranges, hashes, and that grouping partitions changes no bit.
#include "host/graph/program.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "host/nn/model.h"
#include "models/models.h"
#include "tests/nn/test_devices.h"
#include "tests/nn/training_step.h"
#include "tests/support/loss.h"

namespace lockstep {
namespace {

struct Life {
  int first = -1;
  int last = -1;
};

// Recomputed here from the meaning of inputs, outputs and masks.
std::vector<Life> lives_of(const Graph& graph) {
  std::vector<Life> lives(graph.values.size());
  for (size_t i = 0; i < graph.ops.size(); ++i) {
    const OpDesc& op = graph.ops[i];
    std::vector<int> touched = op.inputs;
    touched.insert(touched.end(), op.outputs.begin(), op.outputs.end());
    if (op.relu_mask >= 0) touched.push_back(op.relu_mask);
    for (const int value : touched) {
      if (lives[value].first < 0) lives[value].first = static_cast<int>(i);
      lives[value].last = static_cast<int>(i);
    }
  }
  lives[graph.outputs[0]].last = static_cast<int>(graph.ops.size());
  return lives;
}

// What is alive at the busiest op: no plan can be smaller.
int64_t peak_bytes(const Graph& graph, const Device& device, int rows) {
  const std::vector<Life> lives = lives_of(graph);
  int64_t peak = 0;
  for (int op = 0; op < static_cast<int>(graph.ops.size()); ++op) {
    int64_t alive = 0;
    for (size_t value = 0; value < lives.size(); ++value) {
      if (lives[value].first < 0 || lives[value].first > op || lives[value].last < op) continue;
      alive += device.value_bytes(rows, graph.values[value].features());
    }
    peak = std::max(peak, alive);
  }
  return peak;
}

TEST(MemoryPlan, values_alive_together_never_overlap) {
  naive::NaiveDevice device;
  for (const std::string name : {"seed-cnn", "mlp", "lenet"}) {  // resnets take long here
    const Graph graph = build_model(name, {28, 28, 1}, 10).value()->training_graph(kLoss).value();
    const MemoryPlan plan = plan_memory(graph, device, 32);
    const std::vector<Life> lives = lives_of(graph);
    int64_t sum = 0;
    for (size_t a = 0; a < lives.size(); ++a) {
      if (lives[a].first < 0) {
        EXPECT_EQ(plan.offsets[a], -1);
        continue;
      }
      const int64_t bytes = device.value_bytes(32, graph.values[a].features());
      sum += bytes;
      EXPECT_EQ(plan.offsets[a] % 64, 0);
      EXPECT_LE(plan.offsets[a] + bytes, plan.arena_bytes);
      for (size_t b = 0; b < a; ++b) {
        if (lives[b].first < 0 || lives[a].first > lives[b].last || lives[b].first > lives[a].last)
          continue;
        const int64_t b_bytes = device.value_bytes(32, graph.values[b].features());
        EXPECT_TRUE(plan.offsets[a] + bytes <= plan.offsets[b] ||
                    plan.offsets[b] + b_bytes <= plan.offsets[a])
            << graph.values[a].name << " over " << graph.values[b].name;
      }
    }
    const int64_t peak = peak_bytes(graph, device, 32);
    EXPECT_GE(plan.arena_bytes, peak) << name;
    EXPECT_LE(plan.arena_bytes, peak * 11 / 10) << name;
    EXPECT_LT(plan.arena_bytes, sum) << name;
  }
}

TEST(MemoryPlan, prediction_needs_two_neighbours_at_a_time) {
  naive::NaiveDevice device;
  const Graph graph = build_model("seed-cnn", {28, 28, 1}, 10).value()->predict_graph().value();
  // The largest pair: conv2d_1's output (24 x 24 x 8) and conv2d_2's (22 x 22 x 12).
  EXPECT_EQ(plan_memory(graph, device, 1).arena_bytes, (24 * 24 * 8 + 22 * 22 * 12) * 4);
}

class ProgramTest : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    device_ = make_test_device(GetParam());
    if (device_ == nullptr) GTEST_SKIP() << "this machine has no " << GetParam();
  }

  // Every kind of op, uneven shapes.
  static Graph small_graph() {
    Model model("small", {9, 8, 2});
    model
        .add("Conv2D",
             {{"filters", 5}, {"kernel_size", 3}, {"padding", "same"}, {"activation", "relu"}})
        .add("MaxPooling2D", {{"pool_size", 2}})
        .add("Dropout", {{"rate", 0.25}})
        .add("Conv2D", {{"filters", 6}, {"kernel_size", 2}})
        .add("Activation", {{"activation", "relu"}})
        .add("Flatten")
        .add("Dense", {{"units", 19}, {"activation", "relu"}})
        .add("Dropout", {{"rate", 0.5}})
        .add("Dense", {{"units", 7}, {"activation", "softmax"}});
    return model.training_graph(kLoss).value();
  }

  std::unique_ptr<Device> device_;
};

TEST_P(ProgramTest, grouping_changes_no_bit) {
  const Graph graph = small_graph();
  TrainingStep step(*device_, graph);
  step.set_weights(initial_weights(graph, 5));
  // 5 rows leave partitions empty; 37 make them uneven.
  for (const int rows : {5, 8, 37, 130}) {
    const HostBatch batch = made_up_batch(rows, 9 * 8 * 2, 7);
    const std::vector<float> whole = step.flat(batch, 8);
    for (const std::vector<int>& cuts : std::vector<std::vector<int>>{
             {0, 4, 8}, {0, 3, 8}, {0, 1, 2, 3, 4, 5, 6, 7, 8}, {0, 7, 8}, {0, 2, 5, 8}}) {
      std::vector<GroupResult> results;
      for (size_t i = 0; i + 1 < cuts.size(); ++i) {
        const PartitionRange range{cuts[i], cuts[i + 1]};
        if (group_of(rows, 8, range).total_rows() > 0) {
          results.push_back(step.run(batch, 8, range));
        }
      }
      const std::vector<float> sum = combine(*device_, results, 8, graph.flat_size);
      EXPECT_EQ(0, std::memcmp(sum.data(), whole.data(), sum.size() * sizeof(float)))
          << rows << " rows, first cut at " << cuts[1];
    }
  }
}

TEST_P(ProgramTest, agrees_with_the_naive_device) {
  naive::NaiveDevice oracle;
  const Graph graph = small_graph();
  const HostBatch batch = made_up_batch(37, 9 * 8 * 2, 7);
  TrainingStep expected_step(oracle, graph);
  TrainingStep step(*device_, graph);
  expected_step.set_weights(initial_weights(graph, 5));
  step.set_weights(initial_weights(graph, 5));
  const std::vector<float> expected = expected_step.flat(batch, 8);
  const std::vector<float> actual = step.flat(batch, 8);
  for (const Parameter& parameter : graph.parameters) {
    float largest = 0;
    for (int64_t i = parameter.offset; i < parameter.offset + parameter.count(); ++i) {
      largest = std::max(largest, std::abs(expected[i]));
    }
    for (int64_t i = parameter.offset; i < parameter.offset + parameter.count(); ++i) {
      ASSERT_NEAR(actual[i], expected[i], 5e-6 * largest) << parameter.layer << " " << i;
    }
  }
  EXPECT_NEAR(actual[graph.parameter_count], expected[graph.parameter_count], 1e-3);
  EXPECT_EQ(actual[graph.parameter_count + 1], expected[graph.parameter_count + 1]);
}

TEST_P(ProgramTest, says_what_is_ready) {
  const Graph graph = small_graph();
  TrainingStep step(*device_, graph);
  step.set_weights(initial_weights(graph, 5));
  int64_t end = graph.flat_size;
  step.run(made_up_batch(8, 9 * 8 * 2, 7), 4, {0, 4}, [&](int64_t begin, int64_t range_end) {
    EXPECT_EQ(range_end, end);
    end = begin;
  });
  EXPECT_EQ(end, 0);
}

// 64 rows of its largest values take 2 MiB: more than stays in a core's cache.
Graph large_graph() {
  Model model("large", {32, 32, 3});
  model.add("Conv2D", {{"filters", 8}, {"kernel_size", 3}, {"padding", "same"}})
      .add("BatchNormalization")
      .add("Activation", {{"activation", "relu"}})
      .add("Dropout", {{"rate", 0.25}})
      .add("GlobalAveragePooling2D")
      .add("Dense", {{"units", 5}, {"activation", "softmax"}});
  return model.training_graph(kLoss).value();
}

TEST_P(ProgramTest, large_values_are_computed_in_parts_to_the_same_bits) {
  const Graph graph = large_graph();
  TrainingStep step(*device_, graph);
  step.set_weights(initial_weights(graph, 5));
  for (const int rows : {64, 61}) {
    const HostBatch batch = made_up_batch(rows, 32 * 32 * 3, 5);
    const PartitionGroup group = group_of(rows, 4, {0, 4});
    const int64_t planned = Program::planned_bytes(*device_, graph, group);
    if (!device_->separates_partitions()) {
      EXPECT_LT(planned, plan_memory(graph, *device_, rows, 4).arena_bytes);
    }
    std::vector<int> told(static_cast<size_t>(graph.flat_size));
    const GroupResult whole = step.run(batch, 4, {0, 4}, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) ++told[static_cast<size_t>(i)];
    });
    EXPECT_EQ(told, std::vector<int>(told.size(), 1));
    std::vector<GroupResult> results;
    for (int p = 0; p < 4; ++p) results.push_back(step.run(batch, 4, {p, p + 1}));
    EXPECT_EQ(whole.roots[0], combine(*device_, results, 4, graph.flat_size)) << rows << " rows";
  }
}

TEST_P(ProgramTest, set_makes_one_program_for_each_group_and_keeps_it_when_the_arena_grows) {
  const Graph graph = small_graph();
  TrainingStep step(*device_, graph);
  step.set_weights(initial_weights(graph, 5));
  const HostBatch small = made_up_batch(8, 9 * 8 * 2, 7);
  const std::vector<float> before = step.flat(small, 4);
  Program* program = step.programs().program_for(group_of(8, 4, {0, 4})).value();
  step.flat(made_up_batch(300, 9 * 8 * 2, 7), 4);
  EXPECT_EQ(program, step.programs().program_for(group_of(8, 4, {0, 4})).value());
  EXPECT_EQ(before, step.flat(small, 4));
}

TEST_P(ProgramTest, hashes_name_the_op_that_differs) {
  const Graph graph = small_graph();
  TrainingStep step(*device_, graph);
  std::vector<float> weights = initial_weights(graph, 5);
  const HostBatch batch = made_up_batch(6, 9 * 8 * 2, 7);
  Program* program = step.programs().program_for(group_of(6, 1, {0, 1})).value();
  const auto root = allocate_floats(*device_, graph.flat_size);
  float* roots[] = {root->data()};
  step.set_weights(weights);
  const std::vector<OpHash> first = program->run_hashed(step.context(batch, 6, roots)).value();
  EXPECT_EQ(first, program->run_hashed(step.context(batch, 6, roots)).value());
  ASSERT_EQ(first.size(), graph.ops.size());
  weights.back() += 1;  // the last bias
  step.set_weights(weights);
  const std::vector<OpHash> second = program->run_hashed(step.context(batch, 6, roots)).value();
  for (size_t i = 0; i < first.size(); ++i) {
    EXPECT_EQ(first[i].op, graph.ops[i].name);
    if (graph.ops[i].name == "dense_1/forward") {
      EXPECT_NE(first[i].hash, second[i].hash);
      break;
    }
    EXPECT_EQ(first[i].hash, second[i].hash) << first[i].op;
  }
}

TEST_P(ProgramTest, evaluation_measures_what_training_measures) {
  const auto model = lenet({28, 28, 1}, 10, 0.0);
  const Graph training = model->training_graph(kLoss).value();
  const Graph evaluation = model->evaluate_graph(kLoss).value();
  const HostBatch batch = made_up_batch(21, 28 * 28, 10);
  const std::vector<float> weights = initial_weights(training, 3);
  TrainingStep training_step(*device_, training);
  TrainingStep evaluation_step(*device_, evaluation);
  training_step.set_weights(weights);
  evaluation_step.set_weights(weights);
  const std::vector<float> flat = training_step.flat(batch, 4);
  EXPECT_EQ(evaluation_step.flat(batch, 4),
            std::vector<float>(flat.begin() + training.parameter_count, flat.end()));
}

std::string device_case(const testing::TestParamInfo<std::string>& info) {
  std::string name = info.param;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

INSTANTIATE_TEST_SUITE_P(devices, ProgramTest, testing::ValuesIn(test_device_names()), device_case);

}  // namespace
}  // namespace lockstep
