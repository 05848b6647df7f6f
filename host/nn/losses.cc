#include "host/nn/losses.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>

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

// An output and what it is compared with.
struct Compared {
  SymbolicTensor y_true;  // none where nothing reads it
  SymbolicTensor y_pred;
};

// Appends the targets of the outputs that are asked for something: columns of the batch, side by
// side.
std::vector<Compared> append_targets(const Objective& objective, GraphBuilder& builder,
                                     const Tensors& outputs) {
  std::vector<Compared> compared;
  int64_t offset = 0;
  for (size_t i = 0; i < outputs.size(); ++i) {
    const OutputObjective& output = objective.outputs[i];
    compared.push_back({{}, outputs[i]});
    if (!output.is_asked()) continue;
    const int64_t features = element_count(output.target_shape);
    const std::string name = output.name.empty() ? "targets" : output.name + "_targets";
    compared.back().y_true = builder.add_batch_part(BatchPart::targets, offset, name, {features});
    compared.back().y_true.shape = output.target_shape;
    offset += features;
  }
  return compared;
}

// What the metrics read of each row, but for what the loss op itself measures.
Status append_metrics(const MetricPlaces& places, GraphBuilder& builder,
                      const std::vector<Compared>& compared,
                      const std::optional<SymbolicTensor>& weights,
                      std::vector<Measured>* measured) {
  if (places.weights_offset >= 0) measured->push_back({*weights, places.weights_offset});
  for (const PlacedMetric& metric : places.metrics) {
    if (metric.by_loss) continue;
    builder.begin_layer(metric.name, kLossPosition, 0);
    LayerContext layer(builder, {metric.name, "metric", &metric.config});
    const Compared& of = compared[metric.output];
    LOCKSTEP_ASSIGN(SymbolicTensor value, metric.type.measure(layer, of.y_true, of.y_pred));
    if (metric.weighted) {
      ExpressionBuilder e;
      value = map_positions(layer, "weighted", e.finish({e.operand(0) * e.operand(1)}),
                            {value, *weights});
    }
    measured->push_back({value, metric.offset});
  }
  return {};
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

// Each row's loss by one output, by the rows' weights where they have some.
Result<SymbolicTensor> append_output_loss(const OutputObjective& output, GraphBuilder& builder,
                                          const Compared& compared,
                                          const std::optional<SymbolicTensor>& weights) {
  LOCKSTEP_ASSIGN(const ResolvedLoss found, find_loss(output.loss));
  const std::string name = output.name.empty() ? "loss" : output.name + "_loss";
  builder.begin_layer(name, kLossPosition, 0);
  LayerContext loss(builder, {name, found.type->class_name, &found.config});
  LOCKSTEP_ASSIGN(SymbolicTensor of_row,
                  found.type->of_row(loss, compared.y_true, compared.y_pred));
  if (!weights) return of_row;
  ExpressionBuilder e;
  return loss.map("weighted", e.finish({e.operand(0) * e.operand(1)}), {of_row, *weights});
}

// The sum of a and b; of b alone where there is no a.
SymbolicTensor add_loss(LayerContext& loss, const char* what,
                        const std::optional<SymbolicTensor>& a, const SymbolicTensor& b,
                        double weight = 1) {
  ExpressionBuilder e;
  if (!a && weight == 1) return b;
  if (!a) return loss.map(what, e.finish({e.operand(0) * weight}), {b});
  const Term more = weight == 1 ? e.operand(1) : e.operand(1) * weight;
  return loss.map(what, e.finish({e.operand(0) + more}), {*a, b});
}

// Each row's loss: over the outputs, and what layers add to it. Tells what is to be summed of it.
Result<SymbolicTensor> append_loss(const Objective& objective, const MetricPlaces& places,
                                   GraphBuilder& builder, const std::vector<Compared>& compared,
                                   const std::optional<SymbolicTensor>& weights,
                                   std::vector<Measured>* measured) {
  std::optional<SymbolicTensor> total;
  for (size_t i = 0; i < compared.size(); ++i) {
    const OutputObjective& output = objective.outputs[i];
    if (output.loss.is_null()) continue;
    LOCKSTEP_ASSIGN(const SymbolicTensor of_row,
                    append_output_loss(output, builder, compared[i], weights));
    for (const PlacedLoss& placed : places.losses) {
      if (placed.output == i) measured->push_back({of_row, placed.offset});
    }
    builder.begin_layer("loss", kLossPosition, 0);
    LayerContext loss(builder, {"loss", "loss"});
    total = add_loss(loss, "total", total, of_row, output.loss_weight);
  }
  LayerContext loss(builder, {"loss", "loss"});
  for (const SymbolicTensor& more : builder.row_losses()) {
    total = add_loss(loss, "with_activity", total, more);
  }
  measured->push_back({*total, 0});
  return *total;
}

// Whether the model has what the objective reads.
Status check_outputs(const Objective& objective, const std::string& last_layer,
                     const Tensors& outputs) {
  if (outputs.size() != objective.outputs.size()) {
    return usage_error(fmt::format(
        "the model has {} outputs, and losses and metrics are given for {}: name each output's",
        outputs.size(), objective.outputs.size()));
  }
  const bool any = std::any_of(objective.outputs.begin(), objective.outputs.end(),
                               [](const OutputObjective& one) { return !one.loss.is_null(); });
  if (!any) return usage_error("no output has a loss: give one with --loss");
  for (size_t i = 0; i < outputs.size(); ++i) {
    const OutputObjective& output = objective.outputs[i];
    if (outputs[i].mask < 0 || !output.is_asked()) continue;
    return usage_error(fmt::format(
        "the model's output carries a mask, up to its last layer, {}: losses of masked steps are "
        "not supported yet; end the mask before (GlobalAveragePooling1D does), or leave it out",
        output.name.empty() ? last_layer : "'" + output.name + "'"));
  }
  return {};
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
  return outputs.size() == 1 && outputs[0].loss == kSparseCategoricalCrossentropy &&
         outputs[0].loss_weight == 1 && !weighted && !has_activity_losses &&
         element_count(outputs[0].target_shape) == 1;
}

bool MetricPlaces::read_targets() const {
  return std::any_of(metrics.begin(), metrics.end(),
                     [](const PlacedMetric& metric) { return !metric.by_loss; });
}

namespace {

std::string name_at(const OutputObjective& output, const std::string& what) {
  return output.name.empty() ? what : output.name + "_" + what;
}

void place_losses(const Objective& objective, MetricPlaces* places) {
  const auto count = std::count_if(objective.outputs.begin(), objective.outputs.end(),
                                   [](const auto& output) { return !output.loss.is_null(); });
  if (count < 2) return;
  for (size_t i = 0; i < objective.outputs.size(); ++i) {
    const OutputObjective& output = objective.outputs[i];
    if (output.loss.is_null()) continue;
    places->losses.push_back({name_at(output, "loss"), i, places->count++});
  }
}

bool is_placed(const MetricPlaces& places, const std::string& name) {
  return std::any_of(places.metrics.begin(), places.metrics.end(),
                     [&](const PlacedMetric& other) { return other.name == name; });
}

// Metrics of output number i. A weighted one that is there unweighted has another name in Keras.
Status place_output_metrics(const Objective& objective, size_t i, bool weighted, bool fused,
                            MetricPlaces* places) {
  const OutputObjective& output = objective.outputs[i];
  for (const nlohmann::json& asked : weighted ? output.weighted_metrics : output.metrics) {
    LOCKSTEP_ASSIGN(Metric metric, metric_of(asked));
    std::string name = name_at(output, metric.name);
    if (weighted && is_placed(*places, name)) name = name_at(output, "weighted_" + metric.name);
    if (is_placed(*places, name) && asked.is_string()) continue;  // it is the same
    const std::string first = name;
    for (int again = 1; is_placed(*places, name); ++again) {
      name = fmt::format("{}_{}", first, again);
    }
    const std::string& kind = metric.type.names[0];
    const bool by_loss = fused && (kind == "accuracy" || kind == "sparse_categorical_accuracy");
    const int64_t offset = by_loss ? 1 : places->count;
    if (!by_loss) places->count += metric.type.accumulators;
    places->metrics.push_back({name, i, std::move(metric.type), std::move(metric.config), offset,
                               by_loss, weighted && objective.weighted});
  }
  return {};
}

}  // namespace

Result<MetricPlaces> place_metrics(const Objective& objective) {
  MetricPlaces places;
  const bool fused = objective.is_fused();
  places.count = fused ? kMetricCount : 1;
  place_losses(objective, &places);
  for (const bool weighted : {false, true}) {
    for (size_t i = 0; i < objective.outputs.size(); ++i) {
      LOCKSTEP_RETURN_IF_ERROR(place_output_metrics(objective, i, weighted, fused, &places));
    }
  }
  const bool any = std::any_of(places.metrics.begin(), places.metrics.end(),
                               [](const PlacedMetric& metric) { return metric.weighted; });
  if (any) places.weights_offset = places.count++;
  if (objective.outputs.size() > 1) {
    std::sort(places.metrics.begin(), places.metrics.end(),
              [](const PlacedMetric& a, const PlacedMetric& b) { return a.name < b.name; });
  }
  return places;
}

Result<Graph> finish_with_loss(const Objective& asked, LossMode mode, const std::string& last_layer,
                               GraphBuilder& builder, const Tensors& outputs) {
  Objective objective = asked;
  objective.has_activity_losses = !builder.row_losses().empty();
  LOCKSTEP_RETURN_IF_ERROR(check_outputs(objective, last_layer, outputs));
  LOCKSTEP_ASSIGN(const MetricPlaces places, place_metrics(objective));
  const bool fused = objective.is_fused();
  std::vector<Compared> compared;
  if (!fused || places.read_targets()) compared = append_targets(objective, builder, outputs);
  std::optional<SymbolicTensor> weights;
  if (objective.weighted) {
    weights = builder.add_batch_part(BatchPart::weights, 0, "weights", {1});
  }
  std::vector<Measured> measured;
  SymbolicTensor loss;
  if (!fused) {
    LOCKSTEP_ASSIGN(loss, append_loss(objective, places, builder, compared, weights, &measured));
  }
  LOCKSTEP_RETURN_IF_ERROR(append_metrics(places, builder, compared, weights, &measured));
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
