#include "host/graph/operations.h"

#include <gtest/gtest.h>

#include "host/graph/listing.h"
#include "host/nn/model.h"
#include "models/models.h"
#include "tests/nn/test_devices.h"

namespace lockstep {
namespace {

TEST(Operations, OfLayersAreThoseOfTheirFormulas) {
  Model model("net", {8, 8, 3});
  model.add("Conv2D", {{"filters", 5}, {"kernel_size", 3}, {"activation", "relu"}});
  model.add("Flatten");
  model.add("Dense", {{"units", 7}, {"use_bias", false}});
  const Graph graph = model.predict_graph().value();
  const int64_t conv = 2 * 6 * 6 * (3 * 3 * 3 * 5);
  const int64_t dense = 2 * (6 * 6 * 5) * 7;
  int64_t rest = 0;  // the relu, where it is an op of its own
  for (const OpDesc& op : graph.ops) {
    if (std::holds_alternative<ReluOp>(op.attributes)) rest += 6 * 6 * 5;
  }
  EXPECT_EQ(operations_of(graph), conv + dense + rest);
}

// Backward costs what forward does, twice, but for the data gradient of the first layer.
TEST(Operations, OfTraining) {
  const auto model = build_model("mlp", {28, 28, 1}, 10).value();
  const int64_t forward = operations_of(model->predict_graph().value());
  const int64_t step =
      operations_of(model->training_graph("sparse_categorical_crossentropy").value());
  EXPECT_GT(step, 2 * forward);
  EXPECT_LT(step, 3 * forward);
}

TEST(Operations, AsText) {
  EXPECT_EQ(count_text(0), "0");
  EXPECT_EQ(count_text(999), "999");
  EXPECT_EQ(count_text(1234), "1.23 k");
  EXPECT_EQ(count_text(45'600'000), "45.6 M");
  EXPECT_EQ(count_text(789'000'000'000), "789 G");
}

TEST(Listing, HasALineAnOpAndTheFusedOnes) {
  naive::NaiveDevice device;
  const Graph graph = build_model("seed-cnn", {28, 28, 1}, 10)
                          .value()
                          ->training_graph("sparse_categorical_crossentropy")
                          .value();
  const std::string text = program_listing(graph, device, 32, 8);
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), std::ssize(graph.ops) + 2);
  for (const char* word : {"conv2d+relu", "+mask %", "d dense/kernel", "softmax_cross_entropy",
                           "(28, 28, 1)", "Operations"}) {
    EXPECT_NE(text.find(word), std::string::npos) << word << "\n" << text;
  }
}

}  // namespace
}  // namespace lockstep
