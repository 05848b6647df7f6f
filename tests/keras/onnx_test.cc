// ONNX files: bytes, what index lists amount to, refusals. onnxruntime runs them in tests/interop.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "host/keras/onnx_file.h"
#include "host/keras/onnx_graph.h"
#include "host/keras/onnx_index.h"
#include "host/core/protobuf_writer.h"
#include "host/nn/losses.h"
#include "host/nn/model.h"
#include "models/models.h"

namespace lockstep {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

std::string hex(const std::string& bytes) {
  constexpr const char* kDigits = "0123456789abcdef";
  std::string text;
  for (const char c : bytes) {
    text += kDigits[static_cast<uint8_t>(c) >> 4];
    text += kDigits[static_cast<uint8_t>(c) & 15];
  }
  return text;
}

// The examples of protobuf's page on its encoding, and numbers at its edges.
TEST(ProtobufWriter, WritesNumbersFloatsAndBytes) {
  ProtobufWriter writer;
  writer.add_number(1, 150);
  writer.add_bytes(2, "testing");
  writer.add_number(3, 0);
  writer.add_number(16, 127);
  writer.add_number(4, -2);
  writer.add_float(5, 1.0f);
  EXPECT_EQ(hex(writer.bytes()),
            "089601"
            "120774657374696e67"
            "1800"
            "80017f"
            "20feffffffffffffffff01"
            "2d0000803f");
  ProtobufWriter outer;
  outer.add_bytes(6, std::string(200, 'a'));
  EXPECT_EQ(hex(outer.bytes().substr(0, 4)), "32c80161");
}

// As the Python package onnx serializes the same model; what no output needs is left out.
TEST(OnnxGraph, WritesWhatOnnxWrites) {
  OnnxGraph graph;
  const std::string x = graph.add_input("x", {2});
  const std::vector<float> values = {1, -2};
  const std::string w = graph.add_floats("/w", {2}, values);
  graph.add_floats("/unread", {2}, values);
  const std::string sum = graph.add_node(
      "Add", {x, w}, "a/Add",
      {{"axis", int64_t{-1}}, {"epsilon", 0.5f}, {"pads", std::vector<int64_t>{1, 2}}});
  graph.add_node("Relu", {sum}, "a/Relu");
  graph.add_output("y", sum, {2});
  EXPECT_EQ(hex(graph.finish("two").value()),
            "080812086c6f636b737465703a9d010a4e0a01780a022f771201791a05612f41646422034164642a140a04"
            "6178697318ffffffffffffffffff01a001022a110a07657073696c6f6e150000003fa001012a0d0a047061"
            "647340014002a00107120374776f2a120802100142022f774a080000803f000000c05a180a017812130a11"
            "0801120d0a07120562617463680a02080262180a017912130a110801120d0a07120562617463680a020802"
            "42021011");
}

TEST(OnnxGraph, GivesEachTensorANameOfItsOwn) {
  OnnxGraph graph;
  const std::string x = graph.add_input("x", {2});
  EXPECT_EQ(graph.add_node("Relu", {x}, "a"), "a");
  EXPECT_EQ(graph.add_node("Relu", {x}, "a"), "a_1");
  EXPECT_EQ(graph.add_numbers({0, 2}), graph.add_numbers({0, 2}));
  EXPECT_NE(graph.add_numbers({0, 2}), graph.add_numbers({2, 0}));
  // An input that is put out, and a tensor that is put out twice.
  graph.add_output("x", x, {2});
  graph.add_output("first", "a", {2});
  graph.add_output("second", "a", {2});
  const std::string file = graph.finish("names").value();
  EXPECT_THAT(file, AllOf(HasSubstr("x_1"), HasSubstr("first"), HasSubstr("second")));
  size_t copies = 0;
  for (size_t at = 0; (at = file.find("Identity", at)) != std::string::npos; ++at) ++copies;
  EXPECT_EQ(copies, 2u);
}

TEST(OnnxGraph, RefusesWhatProtobufCannotHold) {
  EXPECT_TRUE(check_onnx_size(2147483647).ok());
  const Status status = check_onnx_size(int64_t{3} << 30);
  ASSERT_FALSE(status.ok());
  EXPECT_THAT(status.error().message, AllOf(HasSubstr("3.0 GiB"), HasSubstr(".safetensors")));
}

std::vector<std::pair<int64_t, int64_t>> pairs(const std::optional<IndexAxes>& axes) {
  std::vector<std::pair<int64_t, int64_t>> all;
  if (!axes) return {{-1, -1}};
  for (const IndexAxis& axis : *axes) all.emplace_back(axis.count, axis.stride);
  return all;
}

TEST(OnnxIndex, FindsAxes) {
  using Pair = std::pair<int64_t, int64_t>;
  const auto of = [](const std::vector<int32_t>& index) { return pairs(regular_axes(index)); };
  EXPECT_THAT(of({0, 1, 2, 3, 4, 5}), ElementsAre(Pair{6, 1}));
  EXPECT_THAT(of({0, 3, 1, 4, 2, 5}), ElementsAre(Pair{3, 1}, Pair{2, 3}));
  EXPECT_THAT(of({0, 0, 1, 1}), ElementsAre(Pair{2, 1}, Pair{2, 0}));
  EXPECT_THAT(of({0, 1, 0, 1}), ElementsAre(Pair{2, 0}, Pair{2, 1}));
  EXPECT_THAT(of({0, 1, 3, 4}), ElementsAre(Pair{2, 3}, Pair{2, 1}));
  EXPECT_THAT(of({0, 1, 2, 4, 5}), ElementsAre(Pair{-1, -1}));
  EXPECT_THAT(of({0, 1, 3, 5}), ElementsAre(Pair{-1, -1}));
  EXPECT_THAT(of({1, 2}), ElementsAre(Pair{-1, -1}));
}

TEST(OnnxIndex, CutsAxesAndFindsTheirOrder) {
  IndexAxes axes = {{6, 1}};
  EXPECT_EQ(cut_axes(&axes, 2), 1u);
  EXPECT_EQ(pairs(axes), pairs(IndexAxes{{3, 2}, {2, 1}}));
  EXPECT_EQ(cut_axes(&axes, 2), 1u);
  EXPECT_EQ(cut_axes(&axes, 6), 0u);
  EXPECT_EQ(cut_axes(&axes, 1), 2u);
  IndexAxes odd = {{6, 1}};
  EXPECT_EQ(cut_axes(&odd, 4), std::nullopt);
  EXPECT_EQ(memory_order({{2, 1}, {5, 0}, {3, 2}}, 6), (std::vector<size_t>{2, 0}));
  EXPECT_EQ(memory_order({{2, 1}, {3, 2}}, 12), std::nullopt);  // reads half
  EXPECT_EQ(memory_order({{2, 3}, {2, 1}}, 4), std::nullopt);   // leaves one out
}

TEST(OnnxIndex, FindsPaddingBlocksAndJoins) {
  // A row of 2 x 2 in one of 3 x 4, an empty row before and a column at each side.
  const IndexLists padded = index_lists({{}, {}, {}, {}, {}, {0}, {1}, {}, {}, {2}, {3}, {}}, 4);
  EXPECT_EQ(padding_before(padded, {2, 2}, {3, 4}), (Shape{1, 1}));
  EXPECT_EQ(padding_before(padded, {2, 2}, {4, 3}), std::nullopt);
  EXPECT_EQ(block_size(padded), 1);
  IndexLists lists = index_lists({{2, 0}, {3, 1}, {}, {}, {4, 2}, {5, 3}}, 6);
  EXPECT_EQ(block_size(lists), 2);
  lists.factor = {1, 2, 1, 3, 1, 1, 1, 1};  // of the first block, not the same
  EXPECT_EQ(block_size(lists), 1);
  EXPECT_EQ(block_size(index_lists({{1}, {2}}, 4)), 1);  // begins within a block
  const IndexLists joined = index_lists({{0}, {4}, {5}, {1}, {6}, {7}}, 8);
  EXPECT_EQ(joined_parts(joined, {2, 6}), std::nullopt);
  const IndexLists fits = index_lists({{0}, {2}, {3}, {1}, {4}, {5}}, 6);
  EXPECT_EQ(joined_parts(fits, {2, 4}), 2);
  EXPECT_EQ(joined_parts(index_lists({{0}, {1}, {2}}, 3), {1, 2}), 1);
  EXPECT_EQ(joined_parts(index_lists({{1}, {0}, {2}}, 3), {1, 2}), std::nullopt);
}

// Windows of 3 in steps of 2 over 4 rows, padded before and behind; of 1 over 2 columns.
TEST(OnnxIndex, FindsWindowsOfImages) {
  const Shape in = {4, 2, 1}, out = {2, 2, 1};
  const std::vector<std::vector<int32_t>> lists = {{0, 2}, {1, 3}, {2, 4, 6}, {3, 5, 7}};
  const auto windows = windows_of_images(index_lists(lists, 8), in, out, false);
  ASSERT_TRUE(windows);
  const auto& [down, across] = *windows;
  EXPECT_EQ((Shape{down.size, down.stride, down.before, down.behind}), (Shape{3, 2, 1, 0}));
  EXPECT_EQ((Shape{across.size, across.stride, across.before, across.behind}), (Shape{1, 1, 0, 0}));
  IndexLists means = index_lists(lists, 8);
  EXPECT_FALSE(windows_of_images(means, in, out, true));  // sums are no means
  const float third = 1.0f / 3;
  means.factor = {0.5f, 0.5f, 0.5f, 0.5f, third, third, third, third, third, third};
  EXPECT_TRUE(windows_of_images(means, in, out, true));
  EXPECT_FALSE(windows_of_images(means, in, out, false));
  // A row is left out behind, and one before; entries in another order; an empty list.
  EXPECT_FALSE(windows_of_images(index_lists({{0}, {1}, {2}, {3}}, 8), in, out, false));
  EXPECT_FALSE(windows_of_images(index_lists({{4}, {5}, {6}, {7}}, 8), in, out, false));
  EXPECT_FALSE(
      windows_of_images(index_lists({{0, 2}, {1, 3}, {4, 2, 6}, {3, 5, 7}}, 8), in, out, false));
  EXPECT_FALSE(windows_of_images(index_lists({{0, 2}, {1, 3}, {}, {}}, 8), in, out, false));
}

// The fields of a message that hold bytes, with their numbers.
std::vector<std::pair<int, std::string>> fields_of(const std::string& message) {
  std::vector<std::pair<int, std::string>> fields;
  size_t at = 0;
  const auto varint = [&] {
    uint64_t value = 0;
    for (int shift = 0;; shift += 7) {
      const auto byte = static_cast<uint8_t>(message.at(at++));
      value |= uint64_t{byte & 0x7fu} << shift;
      if (byte < 0x80) return value;
    }
  };
  while (at < message.size()) {
    const uint64_t tag = varint();
    if ((tag & 7) == 2) {
      const uint64_t size = varint();
      fields.emplace_back(tag >> 3, message.substr(at, size));
      at += size;
    } else if ((tag & 7) == 5) {
      at += 4;
    } else {
      varint();
    }
  }
  return fields;
}

// The operators of a file's nodes, in order.
std::vector<std::string> operators_of(const std::string& file) {
  std::vector<std::string> operators;
  for (const auto& [model_field, graph] : fields_of(file)) {
    if (model_field != 7) continue;
    for (const auto& [graph_field, node] : fields_of(graph)) {
      if (graph_field != 1) continue;
      for (const auto& [field, text] : fields_of(node)) {
        if (field == 4) operators.push_back(text);
      }
    }
  }
  return operators;
}

// Images have their channels first between the first convolution and Flatten.
TEST(OnnxFile, HoldsTheOperatorsThatOneWouldWrite) {
  const auto model = lenet({28, 28, 1}, 10, 0.5);
  const Graph graph = model->predict_graph().value();
  const std::vector<float> weights(static_cast<size_t>(graph.parameter_count), 0.5f);
  const std::string file = make_onnx_file(graph, weights, "lenet", {"digit"}).value();
  EXPECT_THAT(operators_of(file), ElementsAre("Reshape", "Conv", "Relu", "MaxPool", "Conv", "Relu",
                                              "MaxPool", "Transpose", "Reshape", "Gemm", "Relu",
                                              "Gemm", "Relu", "Gemm", "Softmax"));
}

// Expressions, reductions, joins and windows, each in its plainest form.
TEST(OnnxFile, KnowsWhatGathersAndMapsAmountTo) {
  Model model("parts");
  const auto x = model.input({6, 6, 4}, "x");
  const auto y = model.call("Conv2D", {{"filters", 4}, {"kernel_size", 1}}, {x});
  const auto normal = model.call("BatchNormalization", nlohmann::json::object(), {y});
  const auto padded = model.call("ZeroPadding2D", {{"padding", 1}}, {normal});
  const auto pooled =
      model.call("AveragePooling2D", {{"padding", "same"}, {"pool_size", 3}}, {padded});
  const auto clipped = model.call("ReLU", {{"max_value", 6}}, {pooled});
  const auto joined = model.call("Concatenate", nlohmann::json::object(), {clipped, pooled});
  model.set_outputs({model.call("GlobalMaxPooling2D", nlohmann::json::object(), {joined})});
  const Graph graph = model.predict_graph().value();
  const std::vector<float> weights(static_cast<size_t>(graph.parameter_count), 0.5f);
  const std::string file = make_onnx_file(graph, weights, "parts", {"largest"}).value();
  EXPECT_THAT(operators_of(file), ElementsAre("Transpose", "Conv", "BatchNormalization", "Pad",
                                              "AveragePool", "Max", "Min", "Concat", "ReduceMax"));
}

TEST(OnnxFile, RefusesWhatTrainsAllInOneMessage) {
  Model model("drops", {4});
  model.add("Dense", {{"units", 3}, {"name", "first"}});
  model.add("Dropout", {{"rate", 0.5}, {"name", "drop"}});
  model.add("GaussianNoise", {{"stddev", 0.5}, {"name", "noise"}});
  model.add("Dense", {{"units", 1}, {"name", "last"}});
  const auto trains = model.training_graph(std::string("mean_squared_error"));
  ASSERT_TRUE(trains.ok()) << trains.error().message;
  const Graph& graph = *trains;
  const std::vector<float> weights(static_cast<size_t>(graph.parameter_count));
  const auto refused = make_onnx_file(graph, weights, "drops", {"last"});
  ASSERT_FALSE(refused.ok());
  EXPECT_THAT(refused.error().message,
              AllOf(HasSubstr("drop/forward"), HasSubstr("noise/forward"),
                    HasSubstr(".safetensors"), Not(HasSubstr("'first/forward'"))));
  const Graph predicts = model.predict_graph().value();
  EXPECT_TRUE(make_onnx_file(predicts, weights, "drops", {"last"}).ok());
}

TEST(OnnxFile, RefusesMoreThanTwoGibibytesBeforeItReadsThem) {
  Graph graph;
  graph.parameter_count = int64_t{1} << 30;
  const auto refused = make_onnx_file(graph, {}, "large", {});
  ASSERT_FALSE(refused.ok());
  EXPECT_THAT(refused.error().message, HasSubstr("4.0 GiB"));
}

// Lists that are longest with nothing among them: only their sum has a form.
TEST(OnnxFile, RefusesTheLargestOfNothing) {
  GraphBuilder builder(GraphMode::inference);
  const SymbolicTensor x = builder.add_input("x", {3});
  builder.begin_layer("pick", 0, 0);
  GatherOp gather;
  gather.lists = std::make_shared<IndexLists>(index_lists({{0, 1}, {}}, 3));
  gather.input_features = {3};
  const SymbolicTensor sum = builder.add_op("sum", gather, {x}, {2});
  gather.gathering = Gathering::maximum;
  const SymbolicTensor largest = builder.add_op("largest", gather, {x}, {2});
  const Graph graph = builder.finish({sum, largest});
  const auto refused = make_onnx_file(graph, {}, "picks", {"a", "b"});
  ASSERT_FALSE(refused.ok());
  EXPECT_THAT(refused.error().message,
              AllOf(HasSubstr("'pick/largest'"), Not(HasSubstr("pick/sum"))));
}

}  // namespace
}  // namespace lockstep
