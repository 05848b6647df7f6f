// Keras' loss functions: one row of a table each.
#pragma once

#include <string>
#include <vector>

#include "host/core/result.h"
#include "host/nn/layer.h"

namespace lockstep {

// Both tensors of a row as n positions of c values: shape {n, c}, the last axis being Keras' own.
// A sparse loss gets y_true of shape {n, 1}.
struct LossInputs {
  SymbolicTensor y_true;
  SymbolicTensor y_pred;
};

struct LossType {
  std::string class_name;          // Keras' class
  std::vector<std::string> names;  // of the function, then its aliases
  std::vector<ConfigKey> keys;     // beside name, dtype, reduction
  bool sparse = false;             // y_true: a class for each position
  // Appends the loss of each position, {n, 1}.
  SymbolicTensor (*build)(LayerContext& loss, const LossInputs& in) = nullptr;

  const std::string& name() const { return names[0]; }
  // Of each position of a row, {n, 1}. Refuses tensors that do not go together; empty shapes are of
  // one value.
  Result<SymbolicTensor> of_positions(LayerContext& loss, const SymbolicTensor& y_true,
                                      const SymbolicTensor& y_pred) const;
};

const std::vector<LossType>& loss_types();
// By any of its names or its class name; nullptr: not known.
const LossType* find_loss_type(const std::string& name);

// A loss as resolve_loss() has it, or could.
struct ResolvedLoss {
  const LossType* type = nullptr;
  nlohmann::json config;  // every key; "reduction" where that is no mean over rows
};
Result<ResolvedLoss> find_loss(const nlohmann::json& loss);
inline constexpr const char* kSparseCategoricalCrossentropy = "sparse_categorical_crossentropy";

// y_true and y_pred as positions, sparse or not, or an error that names `what`.
Result<LossInputs> loss_inputs(const std::string& what, bool sparse, const SymbolicTensor& y_true,
                               const SymbolicTensor& y_pred);
// 0, 1 … c - 1 at each position, of the shape of y_pred.
SymbolicTensor class_numbers(LayerContext& loss, const SymbolicTensor& y_pred);
// An expression over tensors of whole rows; smaller ones are repeated along the last axes.
SymbolicTensor map_positions(LayerContext& loss, const std::string& what,
                             const Expression& expression, const Tensors& inputs);
// Over the last axis, {n, 1}.
SymbolicTensor reduce_last(LayerContext& loss, const std::string& what, const SymbolicTensor& x,
                           LayerContext::Reduction reduction);
// The mean, or the sum, over all of a row, {1}.
SymbolicTensor mean_of_row(LayerContext& loss, const SymbolicTensor& x);
SymbolicTensor sum_of_row(LayerContext& loss, const SymbolicTensor& x);

}  // namespace lockstep
