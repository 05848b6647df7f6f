// Every op against a naive one in double precision.
#include <algorithm>
#include <cmath>

#include "tests/cpu/cpu_test_support.h"
#include "tests/cpu/reference.h"

namespace lockstep::cpu_test {
namespace {

// Products of values below 1 in magnitude: errors grow with the square root of their number.
void expect_near(const Doubles& expected, const Floats& actual, double terms,
                 const std::string& name) {
  ASSERT_EQ(expected.size(), actual.size()) << name;
  const double tolerance = 1e-6 * std::sqrt(terms + 4);
  for (size_t i = 0; i < expected.size(); ++i) {
    ASSERT_NEAR(expected[i], static_cast<double>(actual[i]),
                tolerance * (1 + std::abs(expected[i])))
        << name << ", element " << i;
  }
}

const PartitionGroup kThreeRows{.first = 0, .rows = {3}, .roots = {{0, 0}}};

Doubles masked(Doubles dx, const Doubles& mask) {
  for (size_t i = 0; i < dx.size(); ++i) dx[i] = mask[i] > 0 ? dx[i] : 0;
  return dx;
}

// One row of a forward or data gradient op.
Doubles reference_row(const OpCase& c, const std::vector<Doubles>& inputs, const Doubles& weights) {
  Doubles result;
  if (const Conv2dOp* conv_op = std::get_if<Conv2dOp>(&c.attributes)) {
    result = conv_op->pass == Pass::forward ? conv_forward(*conv_op, inputs[0], weights)
                                            : conv_gradients(*conv_op, {}, inputs[0], weights).x;
  } else if (const DenseOp* dense = std::get_if<DenseOp>(&c.attributes)) {
    result = dense->pass == Pass::forward ? dense_forward(*dense, inputs[0], weights)
                                          : dense_gradients(*dense, {}, inputs[0], weights).x;
  } else if (const MaxPool2dOp* pool = std::get_if<MaxPool2dOp>(&c.attributes)) {
    result = pool->pass == Pass::forward ? pool_forward(*pool, inputs[0])
                                         : pool_gradient(*pool, inputs[0], inputs[2]);
  } else if (const ReluOp* relu = std::get_if<ReluOp>(&c.attributes)) {
    result =
        relu->pass == Pass::forward ? masked(inputs[0], inputs[0]) : masked(inputs[1], inputs[0]);
  } else if (std::holds_alternative<SoftmaxOp>(c.attributes)) {
    result = softmax(inputs[0]);
  }
  return c.relu_mask ? masked(result, inputs.back()) : result;
}

TEST(Reference, ForwardAndDataGradients) {
  const std::unique_ptr<Device> device = make_device();
  OpRunner runner(*device);
  for (const OpCase& c : forward_cases()) {
    if (std::holds_alternative<DropoutOp>(c.attributes)) continue;              // below
    if (std::holds_alternative<SoftmaxCrossEntropyOp>(c.attributes)) continue;  // below
    std::vector<Floats> inputs = random_inputs(c, 3, 31);
    const Floats weights = random_floats(32, c.parameters);
    const MaxPool2dOp* pool = std::get_if<MaxPool2dOp>(&c.attributes);
    std::vector<std::vector<Doubles>> rows(3);
    for (int row = 0; row < 3; ++row) {
      for (size_t i = 0; i < inputs.size(); ++i) {
        const int64_t features = i < c.inputs.size() ? c.inputs[i] : c.output;
        rows[static_cast<size_t>(row)].push_back(
            to_doubles(slice(inputs[i], features, row, row + 1)));
      }
      if (pool != nullptr && pool->pass == Pass::data_gradient) {  // y must be that of x
        const Doubles y = pool_forward(*pool, rows[static_cast<size_t>(row)][0]);
        std::copy(y.begin(), y.end(), inputs[1].begin() + row * c.inputs[1]);
      }
    }
    const Floats output = runner.run(c, kThreeRows, inputs, weights).output;
    for (int row = 0; row < 3; ++row) {
      const Doubles expected =
          reference_row(c, rows[static_cast<size_t>(row)], to_doubles(weights));
      expect_near(expected, slice(output, c.output, row, row + 1), 1000, c.name);
    }
  }
}

TEST(Reference, WeightGradients) {
  const std::unique_ptr<Device> device = make_device();
  OpRunner runner(*device);
  const PartitionGroup group{.first = 0, .rows = {5, 4, 8, 1}, .roots = {{0, 2}}};
  for (const OpCase& c : weight_gradient_cases()) {
    const std::vector<Floats> inputs = random_inputs(c, group.total_rows(), 41);
    const Floats root = runner.run(c, group, inputs, {}).roots[0];
    Doubles expected(static_cast<size_t>(c.parameters));
    std::vector<bool> written(expected.size());
    for (int row = 0; row < group.total_rows(); ++row) {
      const Doubles x = to_doubles(slice(inputs[0], c.inputs[0], row, row + 1));
      const Doubles dy = to_doubles(slice(inputs[1], c.inputs[1], row, row + 1));
      const Doubles weights(expected.size());
      const Conv2dOp* conv_op = std::get_if<Conv2dOp>(&c.attributes);
      const Gradients gradients =
          conv_op != nullptr ? conv_gradients(*conv_op, x, dy, weights)
                             : dense_gradients(std::get<DenseOp>(c.attributes), x, dy, weights);
      for (size_t i = 0; i < expected.size(); ++i) expected[i] += gradients.weights[i];
    }
    const Conv2dOp* conv_op = std::get_if<Conv2dOp>(&c.attributes);
    const int64_t bias =
        conv_op != nullptr ? conv_op->bias_offset : std::get<DenseOp>(c.attributes).bias_offset;
    const int64_t outs =
        conv_op != nullptr ? conv_op->out_channels : std::get<DenseOp>(c.attributes).out_features;
    const int64_t end = bias >= 0 ? c.parameters : c.parameters - outs;
    for (int64_t i = 0; i < c.parameters; ++i) {  // parameters begin at offset 3
      const float actual = root[static_cast<size_t>(i)];
      ASSERT_EQ(actual != actual, i < 3 || i >= end) << c.name << ", element " << i;
      if (actual != actual) continue;
      const double value = expected[static_cast<size_t>(i)];
      ASSERT_NEAR(value, static_cast<double>(actual), 3e-5 * (1 + std::abs(value)))
          << c.name << ", element " << i;
    }
  }
}

// The gradients of the reference itself against finite differences of its forward pass.
TEST(Reference, GradientsAgreeWithFiniteDifferences) {
  for (const int stride : {1, 2}) {
    const Conv2dOp op = conv(5, 2, 3, 3, stride, true, Pass::forward);
    const OpCase c = conv_case(op);
    Doubles x = to_doubles(random_floats(1, c.inputs[0]));
    Doubles weights = to_doubles(random_floats(2, c.parameters));
    const Doubles dy = to_doubles(random_floats(3, c.output));
    const Gradients gradients = conv_gradients(op, x, dy, weights);
    const auto loss = [&] { return dot(conv_forward(op, x, weights), dy); };
    expect_finite_differences(loss, &x, gradients.x);
    expect_finite_differences(loss, &weights, gradients.weights);
  }
  DenseOp dense{.in_features = 7, .out_features = 5, .kernel_offset = 1, .bias_offset = 36};
  Doubles x = to_doubles(random_floats(4, 7));
  Doubles weights = to_doubles(random_floats(5, 41));
  const Doubles dy = to_doubles(random_floats(6, 5));
  const Gradients gradients = dense_gradients(dense, x, dy, weights);
  const auto dense_loss = [&] { return dot(dense_forward(dense, x, weights), dy); };
  expect_finite_differences(dense_loss, &x, gradients.x);
  expect_finite_differences(dense_loss, &weights, gradients.weights);

  const std::vector<OpCase> cases = forward_cases();
  const OpCase pool =
      *std::find_if(cases.begin(), cases.end(), [](const OpCase& c) { return c.name == "pool"; });
  const MaxPool2dOp& pool_op = std::get<MaxPool2dOp>(pool.attributes);
  Doubles image = to_doubles(random_floats(7, pool.inputs[0]));
  const Doubles pool_dy = to_doubles(random_floats(8, pool.output));
  const auto pool_loss = [&] { return dot(pool_forward(pool_op, image), pool_dy); };
  expect_finite_differences(pool_loss, &image, pool_gradient(pool_op, image, pool_dy));
}

TEST(Reference, PoolGradientGoesToTheFirstOfEqualMaxima) {
  MaxPool2dOp op{.pass = Pass::data_gradient,
                 .in_height = 2,
                 .in_width = 4,
                 .channels = 1,
                 .out_height = 1,
                 .out_width = 2,
                 .pool_height = 2,
                 .pool_width = 2,
                 .stride_height = 2,
                 .stride_width = 2};
  const OpCase c{"pool", op, {8, 2, 2}, 8};
  const std::unique_ptr<Device> device = make_device();
  const std::vector<Floats> inputs = {{1, 2, 0, 0, 2, 2, 0, 0}, {2, 0}, {5, 7}};
  const PartitionGroup group{.first = 0, .rows = {1}};
  EXPECT_EQ(OpRunner(*device).run(c, group, inputs, {}).output, (Floats{0, 5, 7, 0, 0, 0, 0, 0}));
}

TEST(Reference, LossAndItsGradient) {
  const std::unique_ptr<Device> device = make_device();
  const int rows = 11;
  const OpCase c{"loss", SoftmaxCrossEntropyOp{10, 0}, {10}, 10, false, kMetricCount};
  const Floats logits = random_floats(51, 10 * rows, 8);
  const PartitionGroup group{.first = 0, .rows = {rows}, .roots = {{0, 0}}};
  const OpResult result = OpRunner(*device).run(c, group, {logits}, {});
  const HostBatch batch = make_batch(0, rows, 10);
  double loss = 0;
  int hits = 0;
  for (int row = 0; row < rows; ++row) {
    Doubles z = to_doubles(slice(logits, 10, row, row + 1));
    const size_t label = static_cast<size_t>(batch.labels[static_cast<size_t>(row)]);
    const auto row_loss = [&] { return -std::log(softmax(z)[label]); };
    loss += row_loss();
    hits += static_cast<size_t>(std::max_element(z.begin(), z.end()) - z.begin()) == label;
    Doubles dz = to_doubles(slice(result.output, 10, row, row + 1));
    for (double& d : dz) d /= 0.125;
    expect_finite_differences(row_loss, &z, dz, 1e-5);
  }
  EXPECT_NEAR(loss, static_cast<double>(result.roots[0][0]), 1e-5 * loss);
  EXPECT_EQ(result.roots[0][1], static_cast<float>(hits));
}

TEST(Reference, FirstLargestLogitCounts) {
  const std::unique_ptr<Device> device = make_device();
  const OpCase c{"loss", SoftmaxCrossEntropyOp{4, 0}, {4}, 0, false, kMetricCount};
  // make_batch's labels for 4 classes: 3, 2, 1.
  const Floats logits = {0, 1, 0, 1, 0, 0, 2, 2, 0, 5, 5, 5};
  const PartitionGroup group{.first = 0, .rows = {3}, .roots = {{0, 0}}};
  EXPECT_EQ(OpRunner(*device).run(c, group, {logits}, {}).roots[0][1], 2.0f);
}

// Lanes without a row: zeros, whatever the logits there.
TEST(Reference, LossGivesEmptyLanesNoGradient) {
  for (const std::string numerics : {"cpu-avx2", "cpu-avx512"}) {
    if (!cpu_supports(numerics)) continue;
    const std::unique_ptr<Device> device = make_device(numerics);
    const int64_t floats = device->value_bytes(3, 4) / 4, lanes = floats / 4;
    Floats logits = random_floats(71, floats), dlogits(logits.size(), 1);
    float* const values[] = {logits.data(), dlogits.data()};
    Floats root(kMetricCount);
    float* const roots[] = {root.data()};
    const HostBatch batch = make_batch(0, 3, 4);
    const OpDesc desc{"loss", SoftmaxCrossEntropyOp{4, 0}, {0}, {1}};
    const PartitionGroup group{.first = 0, .rows = {3}, .roots = {{0, 0}}};
    device->prepare(desc, group).value()->run({.roots = roots, .batch = &batch}, values);
    for (int64_t i = 0; i < floats; ++i) {
      ASSERT_EQ(dlogits[static_cast<size_t>(i)] == 0, i % lanes >= 3) << i;
    }
  }
}

TEST(Dropout, FollowsTheFormula) {
  const std::unique_ptr<Device> device = make_device();
  for (const Pass pass : {Pass::forward, Pass::data_gradient}) {
    const OpCase c{"dropout", DropoutOp{pass, 13, 0.4f, 5, 1}, {13}, 13};
    const int rows = 19;
    const Floats x = random_floats(61, 13 * rows);
    const PartitionGroup group{.first = 0, .rows = {rows}};
    const Floats y = OpRunner(*device).run(c, group, {x}, {}).output;
    const uint64_t key = derive_key(11, kDropoutPurpose, 1);
    const HostBatch batch = make_batch(0, rows, 10);
    for (size_t i = 0; i < y.size(); ++i) {
      const uint32_t f = static_cast<uint32_t>(i % 13);
      const auto words = philox4x32({f / 4, batch.positions[i / 13], 3, 5}, key);
      const bool kept = uniform_from_bits(words[f % 4]) >= 0.4f;
      ASSERT_EQ(y[i], kept ? x[i] * (1.0f / (1.0f - 0.4f)) : 0.0f) << i;
    }
  }
}

}  // namespace
}  // namespace lockstep::cpu_test
