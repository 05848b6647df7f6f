// The optimizers: one row each.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "host/device/expression.h"
#include "host/device/ops.h"
#include "host/optim/hyperparameters.h"
#include "host/optim/optimizer.h"

namespace lockstep {

// What a formula is written with. Scalar 0 is the learning rate, scalar k > 0 is the row's k - 1.
struct FormulaTerms {
  ExpressionBuilder& e;
  const nlohmann::json& config;
  Term gradient, weight, learning_rate;
  std::vector<Term> slots;
  Term trust;  // of a row that has one

  double number(const char* key) const { return number_of(config, key); }
  bool flag(const char* key) const;
  Term scalar(int k) const { return e.scalar(1 + k); }
};

// For rows whose step depends on norms of the whole parameter.
struct TrustRule {
  // Two quantities whose norms are taken.
  std::array<Term, 2> (*measured)(const FormulaTerms& terms);
  // From both norms: FormulaTerms::trust.
  double (*trust)(const nlohmann::json& config, double first, double second);
};

class WholeRule;

struct OptimizerRow {
  const char* keras_class;           // its name here is that in lower case
  std::vector<Hyperparameter> keys;  // but those that all have
  std::vector<OptimizerSlot> (*slots)(const nlohmann::json& config) = nullptr;
  // The new slots in order, then the new weight; or nullptr: the whole rule updates all.
  std::vector<Term> (*formula)(const FormulaTerms& terms) = nullptr;
  // Of step t = 1, 2, …; or nullptr: none but the learning rate.
  std::vector<double> (*scalars)(const nlohmann::json& config, double learning_rate,
                                 int64_t t) = nullptr;
  // The kernel that the devices have for the plain options, or nullptr.
  UpdateDesc (*fused)(const nlohmann::json& config, double learning_rate, int64_t t) = nullptr;
  std::optional<TrustRule> trust = {};
  bool decays_itself = false;  // the formula has the weights' decay
  // For rows whose step looks at whole parameters, all or some; the formula is for the others.
  Result<std::shared_ptr<const WholeRule>> (*whole)(const nlohmann::json& config) = nullptr;
  const char* formula_decay = "weight_decay";  // the key of what the formula updates
};

// Rows with a whole rule: a file each.
OptimizerRow adafactor_row();
OptimizerRow muon_row();

// Keys that rows share. The decay is not in the recipes of before there was weight decay.
Hyperparameter rate_key(double default_value);
Hyperparameter decay_key();

// Nadam's product of beta_1 * (1 - 0.96^i / 2) over the steps i = 1 … t. Keras keeps it as a state.
double nadam_product(double beta_1, int64_t t);

const std::vector<OptimizerRow>& optimizer_table();
std::vector<std::string> optimizer_names();

}  // namespace lockstep
