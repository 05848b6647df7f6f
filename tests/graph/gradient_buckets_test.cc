// Where gradients become final.
#include "host/graph/gradient_buckets.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "host/nn/model.h"
#include "models/models.h"

namespace lockstep {
namespace {

// After the ops of each bucket, all that writes its range has run.
void expect_final(const Graph& graph, int64_t least_bytes) {
  const auto buckets = gradient_buckets(graph, least_bytes);
  ASSERT_FALSE(buckets.empty());
  EXPECT_LE(buckets.size(), 9u);
  int64_t end = graph.flat_size;
  int ops = 0;
  for (const GradientBucket& bucket : buckets) {
    EXPECT_EQ(bucket.range.end, end);
    EXPECT_GT(bucket.ops, ops);
    if (&bucket != &buckets.back()) {
      EXPECT_GE(4 * (bucket.range.end - bucket.range.begin), least_bytes);
    }
    for (size_t i = static_cast<size_t>(bucket.ops); i < graph.ops.size(); ++i) {
      const FlatRange written = written_range(graph.ops[i]);
      EXPECT_TRUE(written.empty() || written.end <= bucket.range.begin) << graph.ops[i].name;
    }
    end = bucket.range.begin;
    ops = bucket.ops;
  }
  EXPECT_EQ(end, 0);
  EXPECT_EQ(ops, static_cast<int>(graph.ops.size()));
}

TEST(GradientBuckets, AreFinal) {
  size_t most = 0;
  for (const char* name : {"mlp", "lenet", "seed-cnn", "resnet20"}) {  // the last has averages
    const auto model = build_model(name, {32, 32, 3}, 10);
    ASSERT_TRUE(model.ok()) << model.error().message;
    const Graph graph = (*model)->training_graph("sparse_categorical_crossentropy").value();
    SCOPED_TRACE(name);
    for (const int64_t bytes : {int64_t{1}, int64_t{1} << 16, int64_t{1} << 20}) {
      expect_final(graph, bytes);
    }
    EXPECT_EQ(gradient_buckets(graph, int64_t{1} << 40).size(), 1u);
    most = std::max(most, gradient_buckets(graph, 1).size());
  }
  EXPECT_GT(most, 4u);
}

// A range counts once all behind it is there.
TEST(GradientBuckets, OfGradientsThatAreWrittenOutOfOrder) {
  Model model("two", {6});
  model.add("Dense", {{"units", 6}, {"activation", "relu"}});
  model.add("Dense", {{"units", 6}, {"activation", "softmax"}});
  Graph graph = model.training_graph("sparse_categorical_crossentropy").value();
  EXPECT_EQ(gradient_buckets(graph, 1).size(), 2u);
  std::vector<int> writers;
  for (size_t i = 0; i < graph.ops.size(); ++i) {
    if (!written_range(graph.ops[i]).empty()) writers.push_back(static_cast<int>(i));
  }
  ASSERT_EQ(writers.size(), 3u);  // metrics, two layers
  auto& second = std::get<DenseOp>(graph.ops[static_cast<size_t>(writers[1])].attributes);
  auto& first = std::get<DenseOp>(graph.ops[static_cast<size_t>(writers[2])].attributes);
  std::swap(second.kernel_offset, first.kernel_offset);
  std::swap(second.bias_offset, first.bias_offset);
  const auto buckets = gradient_buckets(graph, 1);
  ASSERT_EQ(buckets.size(), 1u);
  expect_final(graph, 1);
}

}  // namespace
}  // namespace lockstep
