// What a graph measures and minimizes: losses, metrics, weights and masks.
#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "host/core/metric_sums.h"
#include "host/nn/loss_functions.h"
#include "host/nn/losses.h"

namespace lockstep {
namespace {

constexpr int kLossPosition = 1 << 30;  // behind all layers

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

// An output, what it is compared with, and the weights of its rows.
struct Compared {
  SymbolicTensor y_true;  // none where nothing reads it
  SymbolicTensor y_pred;
  std::optional<SymbolicTensor> sample_weights;
  std::optional<SymbolicTensor> loss_weights;
};

// Appends the targets of the outputs that are asked for something: columns of the batch, side by
// side.
std::vector<Compared> append_targets(const Objective& objective, GraphBuilder& builder,
                                     const Tensors& outputs) {
  std::vector<Compared> compared;
  int64_t offset = 0;
  for (size_t i = 0; i < outputs.size(); ++i) {
    const OutputObjective& output = objective.outputs[i];
    compared.push_back({{}, outputs[i], {}, {}});
    if (!output.is_asked()) continue;
    const int64_t features = element_count(output.target_shape);
    const std::string name = output.name.empty() ? "targets" : output.name + "_targets";
    compared.back().y_true = builder.add_batch_part(BatchPart::targets, offset, name, {features});
    compared.back().y_true.shape = output.target_shape;
    offset += features;
  }
  return compared;
}

// Appends the columns of a batch's weights that are read.
void append_weights(const Objective& objective, GraphBuilder& builder,
                    std::vector<Compared>* compared) {
  const PlacedWeights placed = place_weights(objective);
  std::vector<std::optional<SymbolicTensor>> columns(placed.columns.size());
  const auto column = [&](int number, const std::string& name) -> std::optional<SymbolicTensor> {
    if (number < 0) return std::nullopt;
    const auto index = static_cast<size_t>(number);
    int64_t offset = 0;
    for (size_t i = 0; i < index; ++i) offset += placed.columns[i].entries;
    auto& known = columns[index];
    if (!known) {
      known =
          builder.add_batch_part(BatchPart::weights, offset, name, {placed.columns[index].entries});
    }
    return known;
  };
  for (size_t i = 0; i < compared->size(); ++i) {
    const std::string& output = objective.outputs[i].name;
    const std::string prefix = output.empty() ? "" : output + "_";
    (*compared)[i].sample_weights = column(placed.outputs[i].sample, prefix + "weights");
    (*compared)[i].loss_weights = column(placed.outputs[i].loss, prefix + "loss_weights");
  }
}

SymbolicTensor mask_of(const SymbolicTensor& y_pred) {
  return {y_pred.mask, {element_count(y_pred.mask_shape), 1}};
}

// n positions of some entries each, times what is one a position.
SymbolicTensor times_positions(LayerContext& layer, const std::string& what,
                               const SymbolicTensor& x, const SymbolicTensor& factor) {
  ExpressionBuilder e;
  const Broadcast repeated{x.features() / factor.features(), factor.features()};
  return layer.map(what, e.finish({e.operand(0) * e.operand(1)}), {x, factor},
                   {whole_operand(0, x), {1, 0, repeated}}, x.shape);
}

// What stands at positions, n of them or n of some entries each, times the mask.
Result<SymbolicTensor> times_mask(LayerContext& layer, const SymbolicTensor& x,
                                  const SymbolicTensor& y_pred) {
  const SymbolicTensor mask = mask_of(y_pred);
  if (x.shape[0] != mask.features()) {
    return usage_error(fmt::format(
        "'{}' has {} values for each row of the output, whose mask has the shape {}: give targets "
        "of as many axes as the output has, or end the mask before (GlobalAveragePooling1D does)",
        layer.name(), x.shape[0], to_string(y_pred.mask_shape)));
  }
  return times_positions(layer, "masked", x, mask);
}

// The same times the weights of the positions.
Result<SymbolicTensor> times_position_weights(LayerContext& layer, const SymbolicTensor& x,
                                              const SymbolicTensor& weights) {
  if (x.shape[0] != weights.features()) {
    return usage_error(
        fmt::format("'{}' has {} values for each row, and a row has {} sample weights: give one a "
                    "row, or one for each value, as of each step",
                    layer.name(), x.shape[0], weights.features()));
  }
  return times_positions(layer, "weighted_positions", x, weights);
}

bool is_of_positions(const std::optional<SymbolicTensor>& weights) {
  return weights && weights->features() > 1;
}

SymbolicTensor times_weights(LayerContext& layer, const SymbolicTensor& x,
                             const std::optional<SymbolicTensor>& weights) {
  if (!weights) return x;
  ExpressionBuilder e;
  return map_positions(layer, "weighted", e.finish({e.operand(0) * e.operand(1)}), {x, *weights});
}

// What the metrics of an output are divided by, of each row.
Result<SymbolicTensor> append_total(const PlacedTotal& total, GraphBuilder& builder,
                                    const Compared& of) {
  const bool of_positions = total.weighted && is_of_positions(of.sample_weights);
  if (!total.masked && !of_positions) return *of.sample_weights;
  builder.begin_layer("total_of_" + std::to_string(total.output), kLossPosition, 0);
  LayerContext layer(builder, {"total", "metric"});
  if (!total.masked) return mean_of_row(layer, *of.sample_weights);
  SymbolicTensor counted = mask_of(of.y_pred);
  if (of_positions) {
    LOCKSTEP_ASSIGN(counted, times_position_weights(layer, counted, *of.sample_weights));
    return mean_of_row(layer, counted);
  }
  const SymbolicTensor share = mean_of_row(layer, counted);
  return total.weighted ? times_weights(layer, share, of.sample_weights) : share;
}

// What the metrics read of each row, but for what the loss op itself measures.
Status append_metrics(const MetricPlaces& places, GraphBuilder& builder,
                      const std::vector<Compared>& compared, std::vector<Measured>* measured) {
  for (const PlacedTotal& total : places.totals) {
    LOCKSTEP_ASSIGN(const SymbolicTensor of_row,
                    append_total(total, builder, compared[total.output]));
    measured->push_back({of_row, total.offset});
  }
  for (const PlacedMetric& metric : places.metrics) {
    if (metric.by_loss) continue;
    builder.begin_layer(metric.name, kLossPosition, 0);
    LayerContext layer(builder, {metric.name, "metric", &metric.config});
    const Compared& of = compared[metric.output];
    LOCKSTEP_ASSIGN(SymbolicTensor value, metric.type.measure(layer, of.y_true, of.y_pred));
    if (metric.masked) {
      LOCKSTEP_ASSIGN(value, times_mask(layer, value, of.y_pred));
    }
    const bool by_position = metric.weighted && is_of_positions(of.sample_weights);
    if (by_position) {
      LOCKSTEP_ASSIGN(value, times_position_weights(layer, value, *of.sample_weights));
    }
    if (metric.type.is_mean) value = mean_of_row(layer, value);
    if (metric.weighted && !by_position) value = times_weights(layer, value, of.sample_weights);
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

// Each row's share of the loss by one output: its mean over the row's positions where the loss is
// the mean over rows, else the sum, which the weights of the rows divide.
Result<SymbolicTensor> append_output_loss(const OutputObjective& output, bool weighted,
                                          GraphBuilder& builder, const Compared& compared) {
  LOCKSTEP_ASSIGN(const ResolvedLoss found, find_loss(output.loss));
  const std::string name = output.name.empty() ? "loss" : output.name + "_loss";
  builder.begin_layer(name, kLossPosition, 0);
  LayerContext loss(builder, {name, found.type->class_name, &found.config});
  LOCKSTEP_ASSIGN(SymbolicTensor of_row,
                  found.type->of_positions(loss, compared.y_true, compared.y_pred));
  if (output.masked) {
    LOCKSTEP_ASSIGN(of_row, times_mask(loss, of_row, compared.y_pred));
  }
  const WeightColumn::Divisor divisor = divisor_of(output, weighted);
  const bool by_position = is_of_positions(compared.loss_weights);
  if (by_position && divisor == WeightColumn::Divisor::weighted_entries) {
    return usage_error(
        fmt::format("'{}': sample weights of each position of an output with a mask, and the "
                    "reduction mean_with_sample_weight, are not supported together: give the "
                    "weight 0 to what does not count, and end the mask before",
                    name));
  }
  if (by_position) {
    LOCKSTEP_ASSIGN(of_row, times_position_weights(loss, of_row, *compared.loss_weights));
  }
  const bool mean = divisor == WeightColumn::Divisor::rows;
  of_row = mean ? mean_of_row(loss, of_row) : sum_of_row(loss, of_row);
  return by_position ? of_row : times_weights(loss, of_row, compared.loss_weights);
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
                                   std::vector<Measured>* measured) {
  std::optional<SymbolicTensor> total;
  for (size_t i = 0; i < compared.size(); ++i) {
    const OutputObjective& output = objective.outputs[i];
    if (output.loss.is_null()) continue;
    LOCKSTEP_ASSIGN(const SymbolicTensor of_row,
                    append_output_loss(output, objective.weighted, builder, compared[i]));
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
Status check_outputs(const Objective& objective, const Tensors& outputs) {
  if (outputs.size() != objective.outputs.size()) {
    return usage_error(fmt::format(
        "the model has {} outputs, and losses and metrics are given for {}: name each output's",
        outputs.size(), objective.outputs.size()));
  }
  const bool any = std::any_of(objective.outputs.begin(), objective.outputs.end(),
                               [](const OutputObjective& one) { return !one.loss.is_null(); });
  if (!any) return usage_error("no output has a loss: give one with --loss");
  return {};
}

}  // namespace

Result<Graph> finish_with_loss(const Objective& asked, LossMode mode, const std::string& last_layer,
                               GraphBuilder& builder, const Tensors& outputs) {
  Objective objective = asked;
  objective.has_activity_losses = !builder.row_losses().empty();
  LOCKSTEP_RETURN_IF_ERROR(check_outputs(objective, outputs));
  for (size_t i = 0; i < outputs.size(); ++i) {
    objective.outputs[i].masked = outputs[i].mask >= 0 && objective.outputs[i].is_asked();
  }
  LOCKSTEP_ASSIGN(const MetricPlaces places, place_metrics(objective));
  const bool fused = objective.is_fused();
  std::vector<Compared> compared;
  if (!fused || places.read_targets()) compared = append_targets(objective, builder, outputs);
  append_weights(objective, builder, &compared);
  std::vector<Measured> measured;
  SymbolicTensor loss;
  if (!fused) {
    LOCKSTEP_ASSIGN(loss, append_loss(objective, places, builder, compared, &measured));
  }
  LOCKSTEP_RETURN_IF_ERROR(append_metrics(places, builder, compared, &measured));
  Graph graph = builder.finish(outputs);
  graph.metric_count = places.count;
  if (!fused) graph.loss = loss.value;
  place_gradients(&graph, mode);
  if (fused) LOCKSTEP_RETURN_IF_ERROR(fuse_loss(last_layer, mode, &graph));
  append_sums(measured, &graph);
  if (mode == LossMode::measure) graph.loss = -1;
  return graph;
}

namespace {

// Whether an op computes the same for a row whatever the weights are, and without chance.
bool follows_from_inputs(const OpDesc& op) {
  if (std::holds_alternative<InputOp>(op.attributes)) return true;
  if (std::holds_alternative<GatherOp>(op.attributes)) return true;
  const auto* map = std::get_if<MapOp>(&op.attributes);
  return map != nullptr && !map->expression.is_random() &&
         std::all_of(map->operands.begin(), map->operands.end(),
                     [](const MapOperand& operand) { return operand.input >= 0; });
}

}  // namespace

Result<Graph> count_masks(const Objective& objective, GraphBuilder& builder,
                          const Tensors& outputs) {
  Tensors counts;
  for (size_t i = 0; i < outputs.size(); ++i) {
    if (!objective.outputs.at(i).masked) continue;
    builder.begin_layer("mask", kLossPosition, 0);
    LayerContext layer(builder, {"mask", "mask"});
    counts.push_back(sum_of_row(layer, mask_of(outputs[i])));
  }
  Graph graph = builder.finish(counts);
  drop_dead_ops(&graph);
  for (const OpDesc& op : graph.ops) {
    if (follows_from_inputs(op)) continue;
    return usage_error(fmt::format(
        "the mask of the model's output depends on '{}': a mask that reaches the loss must follow "
        "from the inputs alone; mask the inputs, or end the mask before the output",
        op.name));
  }
  return graph;
}

}  // namespace lockstep
