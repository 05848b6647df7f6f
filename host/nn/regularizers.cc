#include "host/nn/regularizers.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "host/nn/class_config.h"

namespace lockstep {
namespace {

std::vector<ClassType> regularizer_types() {
  return {{"L1", "l1", {{"l1", KeyKind::number, 0.01}}},
          {"L2", "l2", {{"l2", KeyKind::number, 0.01}}},
          {"L1L2", "l1l2", {{"l1", KeyKind::number, 0.0}, {"l2", KeyKind::number, 0.0}}}};
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
  if (name == "OrthogonalRegularizer" || name == "orthogonal_regularizer") {
    return usage_error(
        "regularizer OrthogonalRegularizer is not supported yet: use L1, L2 or L1L2");
  }
  LOCKSTEP_ASSIGN(auto resolved, resolve_class("regularizer", regularizer_types(), regularizer));
  if (resolved.is_null()) return resolved;
  for (const auto& [key, value] : resolved.at("config").items()) {
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
