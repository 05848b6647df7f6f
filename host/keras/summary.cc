#include "host/keras/summary.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>

#include "host/graph/graph.h"
#include "host/keras/stored_layers.h"

namespace lockstep {
namespace {

using Row = std::array<std::string, 4>;  // layer, result, weights, what it reads

constexpr const char* kTitles[] = {"Layer (type)", "Output Shape", "Param #", "Connected to"};

// 1234567 -> "1,234,567"
std::string grouped(int64_t value) {
  std::string text = std::to_string(value);
  for (int64_t at = std::ssize(text) - 3; at > 0; at -= 3) {
    text.insert(static_cast<size_t>(at), ",");
  }
  return text;
}

std::string size_text(int64_t parameters) {
  double size = static_cast<double>(parameters) * sizeof(float);
  const char* units[] = {"B", "KB", "MB", "GB"};
  size_t unit = 0;
  for (; size >= 1024 && unit + 1 < std::size(units); ++unit) size /= 1024;
  return fmt::format("{} ({:.2f} {})", grouped(parameters), size, units[unit]);
}

std::string shape_text(const Shape& shape) {
  std::string text = "(None";
  for (const int64_t size : shape) text += fmt::format(", {}", size);
  return text + ")";
}

// Weights of each layer of the outermost model.
std::vector<int64_t> counts_of(const Model& model, const Graph& graph) {
  std::vector<int64_t> counts(model.layers().size());
  for (const StoredLayer& layer : stored_layers(model, graph.parameters)) {
    for (const Parameter* parameter : layer.parameters) {
      counts[static_cast<size_t>(layer.top)] += parameter->count();
    }
  }
  return counts;
}

std::vector<Row> rows_of(const Model& model, const std::vector<std::vector<Shape>>& shapes,
                         const std::vector<int64_t>& counts) {
  std::vector<Row> rows;
  for (const Model::Input& input : model.inputs()) {
    if (input.name.empty()) continue;  // of a Sequential model
    rows.push_back({input.name + " (InputLayer)", shape_text(input.shape), "0", "-"});
  }
  const auto name_of = [&](const Model::TensorRef& tensor) {
    if (tensor.call < 0) return model.inputs()[static_cast<size_t>(tensor.output)].name;
    const auto& call = model.calls()[static_cast<size_t>(tensor.call)];
    return model.layers()[static_cast<size_t>(call.layer)].name;
  };
  std::vector<Row> of_layers(model.layers().size());
  for (size_t i = 0; i < model.calls().size(); ++i) {
    const Model::Call& call = model.calls()[i];
    const auto number = static_cast<size_t>(call.layer);
    Row& row = of_layers[number];
    if (row[0].empty()) {
      const Model::LayerInstance& layer = model.layers()[number];
      row[0] = fmt::format("{} ({})", layer.name, layer.class_name);
      row[1] = shape_text(shapes[i].at(0));
      row[2] = grouped(counts[number]);
    }
    for (const Model::TensorRef& input : call.inputs) {
      const std::string name = name_of(input);
      row[3] += fmt::format("{}{}", row[3].empty() ? "" : ", ", name);
    }
  }
  rows.insert(rows.end(), of_layers.begin(), of_layers.end());
  return rows;
}

}  // namespace

Result<std::string> model_summary(const Model& model) {
  LOCKSTEP_ASSIGN(const Graph graph, model.predict_graph());
  std::vector<Shape> inputs;
  for (const Model::Input& input : model.inputs()) inputs.push_back(input.shape);
  LOCKSTEP_ASSIGN(const auto shapes, model.call_shapes(inputs));
  const bool functional = !model.inputs()[0].name.empty();
  const size_t columns = functional ? 4 : 3;
  std::vector<Row> rows = {{kTitles[0], kTitles[1], kTitles[2], kTitles[3]}};
  const auto body = rows_of(model, shapes, counts_of(model, graph));
  rows.insert(rows.end(), body.begin(), body.end());
  std::array<size_t, 4> widths{};
  for (const Row& row : rows) {
    for (size_t i = 0; i < columns; ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  std::string text = fmt::format("Model: \"{}\"\n", model.name());
  for (const Row& row : rows) {
    std::string line;
    for (size_t i = 0; i < columns; ++i) {
      line += i == 2 ? fmt::format(" {:>{}} ", row[i], widths[i])
                     : fmt::format(" {:<{}} ", row[i], widths[i]);
    }
    text += line.substr(0, line.find_last_not_of(' ') + 1) + "\n";
    if (&row == rows.data()) text += std::string(line.size(), '-') + "\n";
  }
  int64_t trained = 0;
  for (const Parameter& parameter : graph.parameters) {
    if (parameter.role == ParameterRole::trained) trained += parameter.count();
  }
  return text + fmt::format(" Total params: {}\n Trainable params: {}\n Non-trainable params: {}\n",
                            size_text(graph.parameter_count), size_text(trained),
                            size_text(graph.parameter_count - trained));
}

}  // namespace lockstep
