#include "host/graph/listing.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <vector>

#include "host/graph/operations.h"
#include "host/graph/program.h"

namespace lockstep {
namespace {

using Row = std::array<std::string, 7>;

constexpr const char* kTitles[] = {"#",        "Op",    "Reads",     "Computes",
                                   "At (KiB)", "Until", "Operations"};

struct KindName {
  const char* operator()(const InputOp&) const { return "input"; }
  const char* operator()(const Conv2dOp&) const { return "conv2d"; }
  const char* operator()(const DenseOp&) const { return "dense"; }
  const char* operator()(const MaxPool2dOp&) const { return "max_pool2d"; }
  const char* operator()(const DropoutOp&) const { return "dropout"; }
  const char* operator()(const ReluOp&) const { return "relu"; }
  const char* operator()(const SoftmaxOp&) const { return "softmax"; }
  const char* operator()(const SoftmaxCrossEntropyOp&) const { return "softmax_cross_entropy"; }
  const char* operator()(const MapOp&) const { return "map"; }
  const char* operator()(const ParameterSumOp&) const { return "parameter_sum"; }
  const char* operator()(const GatherOp&) const { return "gather"; }
  const char* operator()(const GatherMaximumGradientOp&) const { return "gather_maximum_gradient"; }
  const char* operator()(const MatmulOp&) const { return "matmul"; }
  const char* operator()(const EmbeddingOp&) const { return "embedding"; }
  const char* operator()(const BatchNormOp&) const { return "batch_norm"; }
  const char* operator()(const RowSumOp&) const { return "row_sum"; }
};

// What is part of the op beside its kind.
std::string fused_text(const OpDesc& op) {
  Activation activation = Activation::linear;
  if (const auto* conv = std::get_if<Conv2dOp>(&op.attributes)) activation = conv->activation;
  if (const auto* dense = std::get_if<DenseOp>(&op.attributes)) activation = dense->activation;
  if (activation == Activation::relu) return "+relu";
  if (op.relu_mask >= 0) return fmt::format("+mask %{}", op.relu_mask);
  return "";
}

// The last op that reads each value; the number of ops for what is left at the end.
std::vector<size_t> last_readers(const Graph& graph) {
  std::vector<size_t> last(graph.values.size(), 0);
  for (size_t i = 0; i < graph.ops.size(); ++i) {
    for (const int input : graph.ops[i].inputs) last[static_cast<size_t>(input)] = i;
    if (graph.ops[i].relu_mask >= 0) last[static_cast<size_t>(graph.ops[i].relu_mask)] = i;
  }
  for (const int output : graph.outputs) last[static_cast<size_t>(output)] = graph.ops.size();
  return last;
}

// "conv2d/kernel", of a gradient that lies at `place`.
std::string parameter_at(const Graph& graph, int64_t place) {
  for (const Parameter& parameter : graph.parameters) {
    const int64_t begin = parameter.gradient_offset;
    if (begin < 0 || place < begin || place >= begin + parameter.count()) continue;
    return parameter.path();
  }
  return place >= graph.metrics_offset() ? "metrics" : "a further gradient";
}

Row row_of(const Graph& graph, const MemoryPlan& plan, const std::vector<size_t>& last, size_t i,
           int rows) {
  const OpDesc& op = graph.ops[i];
  Row row{std::to_string(i),
          fmt::format("{} ({}{})", op.name, std::visit(KindName{}, op.attributes), fused_text(op))};
  const auto add = [](std::string* text, const std::string& more) {
    *text += (text->empty() ? "" : ", ") + more;
  };
  for (const int input : op.inputs) add(&row[2], fmt::format("%{}", input));
  for (const int output : op.outputs) {
    const auto index = static_cast<size_t>(output);
    add(&row[3], fmt::format("%{} {}", output, to_string(graph.values[index].shape)));
    add(&row[4], fmt::format("{:.1f}", static_cast<double>(plan.offsets[index]) / 1024));
    add(&row[5], last[index] == graph.ops.size() ? "end" : fmt::format("#{}", last[index]));
  }
  const FlatRange written = written_range(op);
  if (!written.empty()) add(&row[3], "d " + parameter_at(graph, written.begin));
  row[6] = count_text(operations_of(op) * rows);
  return row;
}

}  // namespace

std::string program_listing(const Graph& graph, const Device& device, int rows, int partitions) {
  const MemoryPlan plan = plan_memory(graph, device, rows, partitions);
  const std::vector<size_t> last = last_readers(graph);
  std::vector<Row> table = {Row{}};
  std::copy(std::begin(kTitles), std::end(kTitles), table[0].begin());
  for (size_t i = 0; i < graph.ops.size(); ++i) {
    table.push_back(row_of(graph, plan, last, i, rows));
  }
  std::array<size_t, std::tuple_size_v<Row>> widths{};
  for (const Row& row : table) {
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  std::string text;
  for (const Row& row : table) {
    std::string line;
    for (size_t i = 0; i < row.size(); ++i) {
      const bool number = i == 0 || i == 4 || i == row.size() - 1;
      line += number ? fmt::format("{:>{}}  ", row[i], widths[i])
                     : fmt::format("{:<{}}  ", row[i], widths[i]);
    }
    text += line.substr(0, line.find_last_not_of(' ') + 1) + "\n";
  }
  int64_t apart = 0;
  for (const OpDesc& op : graph.ops) {
    for (const int output : op.outputs) {
      const Value& value = graph.values[static_cast<size_t>(output)];
      apart += value.per_partition ? partitions * value.features() * int64_t{sizeof(float)}
                                   : device.value_bytes(rows, value.features());
    }
  }
  const auto kib = [](int64_t bytes) { return static_cast<double>(bytes) / 1024; };
  return text + fmt::format(
                    "{} ops, {} operations; values lie in {:.1f} KiB, one behind the other they "
                    "would take {:.1f}\n",
                    graph.ops.size(), count_text(operations_of(graph) * rows),
                    kib(plan.arena_bytes), kib(apart));
}

}  // namespace lockstep
