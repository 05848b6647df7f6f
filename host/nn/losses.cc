#include "host/nn/losses.h"

#include <fmt/format.h>

#include <algorithm>

#include "host/core/suggest.h"
#include "host/nn/class_config.h"
#include "host/nn/loss_functions.h"

namespace lockstep {
namespace {

const char* const kSparseCategoricalCrossentropy = "sparse_categorical_crossentropy";
constexpr int kLossPosition = 1 << 30;  // behind all layers

// Keras' losses that are not here.
struct RefusedLoss {
  const char* class_name;
  const char* name;
  const char* reason;
};
constexpr RefusedLoss kRefused[] = {
    {"Dice", "dice", "it is a ratio of sums over the whole batch, and rows are computed apart"},
    {"Tversky", "tversky",
     "it is a ratio of sums over the whole batch, and rows are computed apart"},
    {"Circle", "circle", "it compares the rows of a batch with each other"},
    {"CTC", "ctc", "sequences of unknown alignment are not supported"},
    {"CategoricalGeneralizedCrossEntropy", "categorical_generalized_cross_entropy",
     "it is not supported yet"},
};

Status check_not_refused(const std::string& name) {
  for (const RefusedLoss& refused : kRefused) {
    if (name != refused.name && name != refused.class_name) continue;
    return usage_error(
        fmt::format("loss '{}' cannot be used: {}; use another loss", name, refused.reason));
  }
  return {};
}

// Values of keys that every loss may have, or several, but which mean something here only as they
// are by default.
Status check_choices(const std::string& name, const nlohmann::json& config) {
  const auto reduction = config.value("reduction", nlohmann::json("sum_over_batch_size"));
  if (reduction != "sum_over_batch_size" && reduction != "mean") {
    return usage_error(
        fmt::format("loss '{}': reduction {} is not supported: use 'sum_over_batch_size'", name,
                    reduction.dump()));
  }
  if (config.value("axis", nlohmann::json(-1)) != -1) {
    return usage_error(fmt::format("loss '{}': axis must be -1, the last", name));
  }
  if (!config.value("ignore_class", nlohmann::json()).is_null()) {
    return usage_error(fmt::format(
        "loss '{}': ignore_class is not supported yet; give those rows the weight 0", name));
  }
  const auto smoothing = config.value("label_smoothing", nlohmann::json(0.0));
  if (smoothing.is_number() && !(smoothing >= 0 && smoothing <= 1)) {
    return usage_error(fmt::format("loss '{}': label_smoothing must be between 0 and 1", name));
  }
  return {};
}

struct ResolvedLoss {
  const LossType* type = nullptr;
  nlohmann::json config;
};

Result<ResolvedLoss> find_loss(const nlohmann::json& loss) {
  const bool is_object = loss.is_object();
  const bool has_name = is_object && loss.contains("class_name") && loss["class_name"].is_string();
  if (!loss.is_string() && !has_name) {
    return usage_error(fmt::format(
        "loss {}: give a name, or {{\"class_name\": \"Huber\", \"config\": {{\"delta\": 0.5}}}}",
        loss.dump()));
  }
  const std::string name = is_object ? loss["class_name"] : loss;
  if (const std::string module = foreign_module(loss); !module.empty()) {
    return usage_error(fmt::format(
        "loss {} is code of '{}', which never runs here: use one of Keras' own", name, module));
  }
  LOCKSTEP_RETURN_IF_ERROR(check_not_refused(name));
  ResolvedLoss found;
  found.type = find_loss_type(name);
  if (found.type == nullptr) return usage_error(unknown_name_message("loss", name, loss_names()));
  nlohmann::json config =
      is_object ? loss.value("config", nlohmann::json::object()) : nlohmann::json::object();
  if (!config.is_object()) {
    return usage_error(fmt::format("loss '{}': config is no object of keys", name));
  }
  LOCKSTEP_RETURN_IF_ERROR(check_choices(name, config));
  config.erase("reduction");
  LOCKSTEP_ASSIGN(found.config,
                  resolve_keys(fmt::format("loss '{}'", name), found.type->keys, config));
  return found;
}

// Puts the loss op in the place of the softmax that the model ends in, or beside it where metrics
// read what it computes.
Status fuse_loss(const std::string& last_layer, LossMode mode, Graph* graph) {
  const auto softmax = std::find_if(graph->ops.begin(), graph->ops.end(), [&](const OpDesc& op) {
    return std::holds_alternative<SoftmaxOp>(op.attributes) && op.outputs == graph->outputs;
  });
  if (softmax == graph->ops.end()) {
    return usage_error(
        fmt::format("loss '{}' needs probabilities, but the last layer, {}, does not end in "
                    "softmax; give it activation 'softmax'",
                    kSparseCategoricalCrossentropy, last_layer));
  }
  if (softmax + 1 != graph->ops.end()) {
    OpDesc again = *softmax;
    graph->values.push_back(graph->values[static_cast<size_t>(again.outputs[0])]);
    again.outputs = {static_cast<int>(graph->values.size()) - 1};
    graph->outputs = again.outputs;
    graph->ops.push_back(std::move(again));
  }
  attach_softmax_cross_entropy(graph, mode);
  return {};
}

struct Measured {
  SymbolicTensor value;  // of each row
  int64_t offset = 0;    // of its accumulators
};

// What the metrics read of each row, but for what the loss op itself measures.
Result<std::vector<Measured>> append_metrics(const MetricPlaces& places, GraphBuilder& builder,
                                             const SymbolicTensor& y_true,
                                             const SymbolicTensor& y_pred) {
  std::vector<Measured> measured;
  for (const PlacedMetric& metric : places.metrics) {
    if (metric.by_loss) continue;
    builder.begin_layer(metric.name, kLossPosition, 0);
    LayerContext layer(builder, {metric.name, "metric"});
    LOCKSTEP_ASSIGN(const SymbolicTensor value, metric.type.measure(layer, y_true, y_pred));
    measured.push_back({value, metric.offset});
  }
  return measured;
}

void append_sums(const std::vector<Measured>& measured, Graph* graph) {
  for (const Measured& one : measured) {
    const auto value = static_cast<size_t>(one.value.value);
    graph->ops.push_back({graph->values[value].name + "/sum",
                          RowSumOp{one.value.features(), graph->metrics_offset() + one.offset},
                          {one.value.value},
                          {}});
  }
}

Result<SymbolicTensor> append_loss(const Objective& objective, GraphBuilder& builder,
                                   const SymbolicTensor& y_true, const SymbolicTensor& y_pred) {
  LOCKSTEP_ASSIGN(const ResolvedLoss found, find_loss(objective.loss));
  builder.begin_layer("loss", kLossPosition, 0);
  LayerContext loss(builder, {"loss", found.type->class_name, &found.config});
  LOCKSTEP_ASSIGN(SymbolicTensor of_row, found.type->of_row(loss, y_true, y_pred));
  if (objective.weighted) {
    const SymbolicTensor weight = builder.add_batch_part(BatchPart::weights, 0, "weights", {1});
    ExpressionBuilder e;
    of_row = loss.map("weighted", e.finish({e.operand(0) * e.operand(1)}), {of_row, weight});
  }
  for (const SymbolicTensor& more : builder.row_losses()) {
    ExpressionBuilder e;
    of_row = loss.map("with_activity", e.finish({e.operand(0) + e.operand(1)}), {of_row, more});
  }
  return of_row;
}

}  // namespace

std::vector<std::string> loss_names() {
  std::vector<std::string> names;
  for (const LossType& type : loss_types()) names.push_back(type.name());
  return names;
}

Result<nlohmann::json> resolve_loss(const nlohmann::json& loss) {
  LOCKSTEP_ASSIGN(const ResolvedLoss found, find_loss(loss));
  const bool plain = found.type->name() == kSparseCategoricalCrossentropy &&
                     !found.config.at("from_logits").get<bool>();
  if (plain) return nlohmann::json(kSparseCategoricalCrossentropy);
  nlohmann::json resolved;
  resolved["class_name"] = found.type->class_name;
  resolved["config"] = found.config;
  return resolved;
}

std::string loss_name(const nlohmann::json& loss) {
  const auto found = find_loss(loss);
  return found.ok() ? found->type->name() : loss.dump();
}

bool is_sparse_loss(const nlohmann::json& loss) {
  const auto found = find_loss(loss);
  return found.ok() && found->type->sparse;
}

bool Objective::is_fused() const {
  return loss == kSparseCategoricalCrossentropy && !weighted && !has_activity_losses &&
         element_count(target_shape) == 1;
}

bool MetricPlaces::read_targets() const {
  return std::any_of(metrics.begin(), metrics.end(),
                     [](const PlacedMetric& metric) { return !metric.by_loss; });
}

Result<MetricPlaces> place_metrics(const Objective& objective) {
  MetricPlaces places;
  const bool fused = objective.is_fused();
  places.count = fused ? kMetricCount : 1;
  for (const std::string& name : objective.metrics) {
    const bool known = std::any_of(places.metrics.begin(), places.metrics.end(),
                                   [&](const PlacedMetric& other) { return other.name == name; });
    if (known) continue;
    LOCKSTEP_ASSIGN(MetricType type, metric_type(name));
    const bool by_loss =
        fused && (type.names[0] == "accuracy" || type.names[0] == "sparse_categorical_accuracy");
    const int64_t offset = by_loss ? 1 : places.count;
    if (!by_loss) places.count += type.accumulators;
    places.metrics.push_back({name, std::move(type), offset, by_loss});
  }
  return places;
}

Result<Graph> finish_with_loss(const Objective& asked, LossMode mode, const std::string& last_layer,
                               GraphBuilder& builder, const Tensors& outputs) {
  Objective objective = asked;
  objective.has_activity_losses = !builder.row_losses().empty();
  LOCKSTEP_ASSIGN(const ResolvedLoss found, find_loss(objective.loss));
  LOCKSTEP_ASSIGN(const MetricPlaces places, place_metrics(objective));
  if (outputs.size() != 1) {
    return usage_error(fmt::format(
        "loss '{}' reads one output, and the model has {}: several losses are not supported yet",
        found.type->name(), outputs.size()));
  }
  const SymbolicTensor& y_pred = outputs[0];
  if (y_pred.mask >= 0) {
    return usage_error(fmt::format(
        "the model's output carries a mask, up to its last layer, {}: losses of masked steps are "
        "not supported yet; end the mask before (GlobalAveragePooling1D does), or leave it out",
        last_layer));
  }
  const bool fused = objective.is_fused();
  SymbolicTensor y_true;
  if (!fused || places.read_targets()) {
    y_true = builder.add_batch_part(BatchPart::targets, 0, "targets",
                                    {element_count(objective.target_shape)});
    y_true.shape = objective.target_shape;
  }
  std::vector<Measured> measured;
  SymbolicTensor loss;
  if (!fused) {
    LOCKSTEP_ASSIGN(loss, append_loss(objective, builder, y_true, y_pred));
    measured.push_back({loss, 0});
  }
  LOCKSTEP_ASSIGN(const auto of_metrics, append_metrics(places, builder, y_true, y_pred));
  measured.insert(measured.end(), of_metrics.begin(), of_metrics.end());
  Graph graph = builder.finish(outputs);
  graph.metric_count = places.count;
  if (!fused) graph.loss = loss.value;
  place_gradients(&graph, mode);
  if (fused) LOCKSTEP_RETURN_IF_ERROR(fuse_loss(last_layer, mode, &graph));
  append_sums(measured, &graph);
  if (mode == LossMode::measure) graph.loss = -1;
  return graph;
}

}  // namespace lockstep
