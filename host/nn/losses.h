// What a graph is made to minimize and to measure: losses and metrics by Keras' names.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "host/core/result.h"
#include "host/device/batch.h"
#include "host/graph/passes.h"
#include "host/nn/layer.h"
#include "host/nn/metrics.h"

namespace lockstep {

std::vector<std::string> loss_names();

// A loss as a recipe holds it: {"class_name", "config"} with every key, but for
// "sparse_categorical_crossentropy" as it is by default, which stays a name. From a name, an alias
// or Keras' object. Refuses what is not known, or not here, and says why.
Result<nlohmann::json> resolve_loss(const nlohmann::json& loss);
// Keras' name of a loss that resolve_loss knows, for messages.
std::string loss_name(const nlohmann::json& loss);
// Whether it reads classes, one a position, and not as many targets as there are outputs.
bool is_sparse_loss(const nlohmann::json& loss);

// What is asked of one of a model's outputs.
struct OutputObjective {
  std::string name;     // begins the names of what is measured; "" where it is the only output
  nlohmann::json loss;  // as resolve_loss() has it; null: none
  double loss_weight = 1;
  std::vector<nlohmann::json> metrics;           // as resolve_metric() has them
  std::vector<nlohmann::json> weighted_metrics;  // those that count rows by their weights
  Shape target_shape;                            // of a row; (): one number
  bool masked = false;                           // it carries a mask, and is asked for something
  int64_t weight_entries = 1;  // sample weights of a row: one, or one for each position of the loss

  // Whether anything is asked of it. If not, it has no target.
  bool is_asked() const { return !loss.is_null() || !metrics.empty() || !weighted_metrics.empty(); }
};

// What is minimized is the sum of the outputs' losses, each times its weight. A batch has the
// targets of the outputs that are asked for something side by side, in their order.
struct Objective {
  std::vector<OutputObjective> outputs = std::vector<OutputObjective>(1);
  bool weighted = false;             // each row's loss by its weight
  bool has_activity_losses = false;  // the model's layers add to the rows' losses

  Objective() = default;
  Objective(const char* name) : Objective(std::string(name)) {}   // NOLINT: a loss alone
  Objective(const std::string& name) { outputs[0].loss = name; }  // NOLINT
  // Whether the loss takes in the softmax that the model must end in, and reads labels.
  bool is_fused() const;
};

// The accumulators that a graph measures: the sum of the rows' losses, where the loss is fused the
// number of its hits, where several outputs have a loss those of each (without its loss weight),
// then those of the metrics, each once, then what those are divided by that are no means over rows.
// Names and order are Keras'.
struct PlacedLoss {
  std::string name;  // "a_loss"
  size_t output = 0;
  int64_t offset = 0;
};
struct PlacedMetric {
  std::string name;  // "a_accuracy"
  size_t output = 0;
  MetricType type;
  nlohmann::json config;
  int64_t offset = 0;    // of its first accumulator
  int64_t count = 1;     // of accumulators
  bool by_loss = false;  // measured by the loss op
  bool weighted = false;
  bool masked = false;        // only entries that count do
  int64_t total_offset = -1;  // of what its sums are divided by; -1: the rows
};
// The sum over rows of their weights, of the shares of them that count, or of both multiplied.
struct PlacedTotal {
  size_t output = 0;
  bool weighted = false, masked = false;
  int64_t offset = 0;
};
struct MetricPlaces {
  std::vector<PlacedLoss> losses;
  std::vector<PlacedMetric> metrics;
  std::vector<PlacedTotal> totals;
  int64_t count = 0;
  bool read_targets() const;  // whether a metric does
};
Result<MetricPlaces> place_metrics(const Objective& objective);

// What Keras divides an output's loss by, as its reduction says.
WeightColumn::Divisor divisor_of(const OutputObjective& output, bool weighted);
// The columns of a batch's weights, and those that an output reads; -1: none.
struct PlacedWeights {
  struct Columns {
    int sample = -1;  // the sample weights, for metrics
    int loss = -1;
  };
  std::vector<WeightColumn> columns;
  std::vector<Columns> outputs;
};
PlacedWeights place_weights(const Objective& objective);

// Ends a model's forward graph with the loss and its metrics, and gives gradients and metrics their
// places in a root. Refuses an objective that is not known, and a model whose outputs are not what
// it reads; `last_layer` names that of an only output in the message.
Result<Graph> finish_with_loss(const Objective& objective, LossMode mode,
                               const std::string& last_layer, GraphBuilder& builder,
                               const Tensors& outputs);

// Model::mask_graph of a forward graph.
Result<Graph> count_masks(const Objective& objective, GraphBuilder& builder,
                          const Tensors& outputs);

}  // namespace lockstep
