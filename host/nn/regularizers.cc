#include "host/nn/regularizers.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "host/graph/passes.h"
#include "host/nn/class_config.h"

namespace lockstep {
namespace {

constexpr const char* kOrthogonal = "OrthogonalRegularizer";

using Builder = ExpressionBuilder;

std::vector<ClassType> regularizer_types() {
  return {{"L1", "l1", {{"l1", KeyKind::number, 0.01}}},
          {"L2", "l2", {{"l2", KeyKind::number, 0.01}}},
          {"L1L2", "l1l2", {{"l1", KeyKind::number, 0.0}, {"l2", KeyKind::number, 0.0}}},
          {kOrthogonal,
           "orthogonal_regularizer",
           {{"factor", KeyKind::number, 0.01}, {"mode", KeyKind::text, "rows"}}}};
}

bool is_penalty(const nlohmann::json& regularizer) {
  const auto resolved = resolve_regularizer(regularizer);
  return resolved.ok() && !penalty_of(*resolved).is_none();
}

// l1 and l2 of a layer ActivityRegularization.
nlohmann::json penalty_keys(const nlohmann::json& layer) {
  const nlohmann::json config = layer.value("config", nlohmann::json::object());
  return {{"l1", config.value("l1", 0.0)}, {"l2", config.value("l2", 0.0)}};
}

}  // namespace

Result<nlohmann::json> resolve_regularizer(const nlohmann::json& regularizer) {
  const std::string name = class_name_of(regularizer);
  LOCKSTEP_ASSIGN(auto resolved, resolve_class("regularizer", regularizer_types(), regularizer));
  if (resolved.is_null()) return resolved;
  for (const auto& [key, value] : resolved.at("config").items()) {
    if (value == "rows" || value == "columns") continue;
    if (value.is_string()) {
      return usage_error(fmt::format("regularizer {}: {} must be 'rows' or 'columns', not {}", name,
                                     key, value.dump()));
    }
    const double factor = value.get<double>();
    if (factor >= 0 && std::isfinite(static_cast<float>(factor))) continue;
    return usage_error(
        fmt::format("regularizer {}: {} must be at least 0, not {}", name, key, value.dump()));
  }
  return resolved;
}

Penalty penalty_of(const nlohmann::json& regularizer) {
  if (regularizer.is_null()) return {};
  const nlohmann::json& config = regularizer.at("config");
  return {config.value("l1", 0.0), config.value("l2", 0.0)};
}

bool is_orthogonal(const nlohmann::json& regularizer) {
  return class_name_of(regularizer) == kOrthogonal;
}

namespace {

// factor / 2 / pairs * the sum over pairs of different rows of |their product|, rows of length 1.
SymbolicTensor orthogonal_loss(LayerContext& layer, const SymbolicTensor& rows, double factor) {
  const int64_t size = rows.shape[0], length = rows.shape[1];
  Builder s;
  const SymbolicTensor squares =
      layer.map("squares", s.finish({s.operand(0) * s.operand(0)}), {rows});
  const SymbolicTensor sums =
      layer.reduce("square_sums", squares, {1}, LayerContext::Reduction::sum, true);
  Builder n;
  const Term inverse = n.minimum(1.0 / n.square_root(n.operand(1)), n.constant(1 / kEpsilon));
  const SymbolicTensor units =
      layer.map("units", n.finish({n.operand(0) * inverse}), {rows, sums},
                {whole_operand(0, rows), {1, 0, {length, size}}}, rows.shape);
  MatmulOp product;
  product.rows = product.columns = size;
  product.inner = length;
  product.x = {0, length, 1};
  product.z = {0, 1, length};
  product.out = {0, size, 1};
  product.x_features = product.z_features = size * length;
  product.features = size * size;
  const SymbolicTensor products = layer.op("products", product, {units, units}, {size, size});
  std::vector<float> apart(static_cast<size_t>(size * size), 1.0f);
  for (int64_t i = 0; i < size; ++i) apart[static_cast<size_t>(i * size + i)] = 0;
  Builder a;
  const SymbolicTensor sizes =
      layer.map("sizes", a.finish({a.absolute(a.operand(0) * a.operand(1))}),
                {products, layer.constant("apart", apart, {size, size})});
  const SymbolicTensor sum =
      layer.reduce("sum", sizes, {0, 1}, LayerContext::Reduction::sum, false);
  const double pairs = static_cast<double>(size) * static_cast<double>(size - 1) / 2;
  Builder f;
  return layer.map("penalty", f.finish({f.operand(0) * (factor * 0.5 / pairs)}),
                   {{sum.value, {1}}});
}

}  // namespace

Result<Graph> orthogonal_penalty(const Parameter& parameter) {
  const auto fail = [&](const std::string& what) {
    return usage_error(
        fmt::format("layer '{}': {} is of shape {}, and its OrthogonalRegularizer {}",
                    parameter.layer, parameter.name, to_string(parameter.shape), what));
  };
  if (parameter.shape.size() != 2) return fail("takes matrices");
  const nlohmann::json& config = parameter.regularizer.at("config");
  const bool of_rows = config.at("mode") == "rows";
  const int64_t rows = parameter.shape[0], columns = parameter.shape[1];
  if ((of_rows ? rows : columns) < 2) return fail("needs two rows or columns to compare");
  if (rows * rows > kLargestTensor / 4 || columns * columns > kLargestTensor / 4) {
    return fail("compares all of them with each other: it is too large");
  }
  GraphBuilder builder(GraphMode::training);
  builder.begin_layer(parameter.layer, 0, 0);
  LayerContext layer(builder, {parameter.layer, kOrthogonal, &config});
  ParameterSpec spec;
  spec.name = parameter.name;
  spec.shape = parameter.shape;
  const int64_t weights = builder.add_parameter(spec);
  Builder e;
  SymbolicTensor x = layer.map("weights", e.finish({e.operand(0)}), {},
                               {parameter_operand(weights, {1, rows * columns})}, parameter.shape);
  if (!of_rows) {
    std::vector<int64_t> index;
    for (int64_t i = 0; i < rows * columns; ++i) index.push_back(i % rows * columns + i / rows);
    x = layer.pick("columns", index, {x}, {columns, rows});
  }
  const SymbolicTensor penalty = orthogonal_loss(layer, x, config.at("factor").get<double>());
  Graph graph = builder.finish({penalty});
  graph.metric_count = 1;
  graph.loss = penalty.value;
  place_gradients(&graph, LossMode::differentiate);
  graph.ops.push_back({"penalty/sum", RowSumOp{1, graph.metrics_offset()}, {penalty.value}, {}});
  finish_training_graph(&graph);
  return graph;
}

void add_activity_loss(LayerContext& layer, const SymbolicTensor& output, const Penalty& penalty) {
  if (penalty.is_none()) return;
  ExpressionBuilder e;
  const Term x = e.operand(0);
  Term y;
  if (penalty.l1 != 0) y = e.absolute(x) * penalty.l1;
  if (penalty.l2 != 0) {
    const Term squares = x * x * penalty.l2;
    y = penalty.l1 != 0 ? y + squares : squares;
  }
  const SymbolicTensor flat{output.value, {output.features()}};
  const SymbolicTensor entries = layer.map("activity", e.finish({y}), {flat});
  layer.builder().add_row_loss(
      layer.reduce("activity_loss", entries, {0}, LayerContext::Reduction::sum, true));
}

bool has_activity_losses(const nlohmann::json& model_config) {
  if (!model_config.is_structured()) return false;
  if (model_config.is_object()) {
    const auto regularizer = model_config.find("activity_regularizer");
    if (regularizer != model_config.end() && is_penalty(*regularizer)) return true;
    const bool is_layer = class_name_of(model_config) == "ActivityRegularization";
    if (is_layer && is_penalty({{"class_name", "L1L2"}, {"config", penalty_keys(model_config)}})) {
      return true;
    }
  }
  return std::any_of(model_config.begin(), model_config.end(), has_activity_losses);
}

}  // namespace lockstep
