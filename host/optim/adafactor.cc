// Shazeer and Stern: Adafactor: adaptive learning rates with sublinear memory cost, 2018, as Keras
// has it: https://github.com/keras-team/keras/blob/v3.15.1/keras/src/optimizers/adafactor.py.
// Keras keeps the velocity of factored parameters too.
#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "host/core/math_double.h"
#include "host/optim/optimizer_table.h"
#include "host/optim/whole_rule.h"

namespace lockstep {
namespace {

using Json = nlohmann::json;

constexpr double kLeast = std::numeric_limits<float>::min();

// Slots: r and c, the means over the last axis and the last but one, and the velocity.
class Adafactor : public WholeRule {
 public:
  explicit Adafactor(const Json& config)
      : decay_(config["beta_2_decay"]),
        epsilon_1_(config["epsilon_1"]),
        epsilon_2_(config["epsilon_2"]),
        clip_threshold_(config["clip_threshold"]) {}

  bool takes(const std::string&, const Shape&) const override { return true; }
  int64_t scratch_size(const Shape& shape) const override {
    const Matrices size = matrices_of(shape);
    if (shape.size() < 2) return size.count();
    return size.count() + size.outer * (size.rows + size.columns + 1);
  }
  Status step(FlatMath& math, const Step& step) const override;
  std::optional<Shape> stored_shape(size_t slot, const std::string& path,
                                    const Shape& shape) const override;

 private:
  // [outer][rows][columns]: the last two axes are factored.
  struct Matrices {
    int64_t outer = 1, rows = 1, columns = 1;
    int64_t count() const { return outer * rows * columns; }
  };
  static Matrices matrices_of(const Shape& shape);
  Status factor(FlatMath& math, const Step& step, const Matrices& size, double kept) const;

  double decay_, epsilon_1_, epsilon_2_, clip_threshold_;
  // Of the gradient.
  SharedExpression regulated_ = shared_expression([this](ExpressionBuilder& e) {
    return std::vector{e.operand(0) * e.operand(0) + epsilon_1_};
  });
  // Operand 0 keeps the share scalar 0, and takes operand 1 times scalar 1.
  SharedExpression moved_ = shared_expression([](ExpressionBuilder& e) {
    return std::vector{e.operand(0) * e.scalar(0) + e.operand(1) * e.scalar(1)};
  });
  SharedExpression quotient_ = shared_expression(
      [](ExpressionBuilder& e) { return std::vector{e.scalar(0) / e.operand(0)}; });
  // Of gradient and velocity. The product of two small means is 0 in floats, as of a unit and an
  // input that were never active: there Keras divides 0 by 0.
  SharedExpression direction_ = shared_expression([](ExpressionBuilder& e) {
    return std::vector{e.operand(0) / e.square_root(e.maximum(e.operand(1), e.constant(kLeast)))};
  });
  SharedExpression itself_ =
      shared_expression([](ExpressionBuilder& e) { return std::vector{e.operand(0)}; });
  SharedExpression scaled_ = shared_expression(
      [](ExpressionBuilder& e) { return std::vector{e.operand(0) * e.scalar(0)}; });
};

Adafactor::Matrices Adafactor::matrices_of(const Shape& shape) {
  Matrices size;
  for (const int64_t axis : shape) {
    size.outer *= size.rows;
    size.rows = size.columns;
    size.columns = axis;
  }
  return size;
}

Status Adafactor::step(FlatMath& math, const Step& step) const {
  const Matrices size = matrices_of(step.shape);
  const auto t = static_cast<double>(step.t);
  const double kept = 1 - math::power_double(t, decay_);
  float* const velocity = step.slots[2];
  if (step.shape.size() >= 2) {
    LOCKSTEP_RETURN_IF_ERROR(factor(math, step, size, kept));
  } else {
    LOCKSTEP_ASSIGN(float* const regulated, math.scratch(scratch_size(step.shape)));
    LOCKSTEP_RETURN_IF_ERROR(math.evaluate({regulated_, {}, 0}, std::array{step.gradient},
                                           std::array{regulated}, size.count()));
    LOCKSTEP_RETURN_IF_ERROR(math.evaluate(with_scalars(moved_, std::array{kept, 1 - kept}),
                                           std::array{velocity, regulated}, std::array{velocity},
                                           size.count()));
  }
  LOCKSTEP_RETURN_IF_ERROR(math.evaluate({direction_, {}, 0}, std::array{step.gradient, velocity},
                                         std::array{step.gradient}, size.count()));
  LOCKSTEP_ASSIGN(const auto sums,
                  math.squares({{{itself_, {}, 0}, {step.weights}, size.count()},
                                {{itself_, {}, 0}, {step.gradient}, size.count()}}));
  const auto mean_root = [&](size_t i) {
    return std::sqrt(sums[i][0] / static_cast<double>(size.count()));
  };
  const double rate = std::min(step.learning_rate, 1 / std::sqrt(t));
  const double alpha = std::max(epsilon_2_, mean_root(0)) * rate;
  const double scale = alpha / std::max(1.0, mean_root(1) / clip_threshold_);
  return math.evaluate(with_scalars(scaled_, std::array{scale}), std::array{step.gradient},
                       std::array{step.gradient}, size.count());
}

// The new r, c and velocity = r / mean(r) * c.
Status Adafactor::factor(FlatMath& math, const Step& step, const Matrices& size,
                         double kept) const {
  const int64_t all_rows = size.outer * size.rows, all_columns = size.outer * size.columns;
  LOCKSTEP_ASSIGN(float* const regulated, math.scratch(scratch_size(step.shape)));
  float* const row_sums = regulated + size.count();
  float* const column_sums = row_sums + all_rows;
  float* const means = column_sums + all_columns;
  float* const r = step.slots[0];
  float* const c = step.slots[1];
  const auto move = [&](float* slot, float* sums, int64_t count, int64_t terms) {
    const std::array<double, 2> shares = {kept, (1 - kept) / static_cast<double>(terms)};
    return math.evaluate(with_scalars(moved_, shares), std::array{slot, sums}, std::array{slot},
                         count);
  };
  LOCKSTEP_RETURN_IF_ERROR(math.evaluate({regulated_, {}, 0}, std::array{step.gradient},
                                         std::array{regulated}, size.count()));
  LOCKSTEP_RETURN_IF_ERROR(math.sum_axis(regulated, {all_rows, size.columns, 1}, row_sums));
  LOCKSTEP_RETURN_IF_ERROR(
      math.sum_axis(regulated, {size.outer, size.rows, size.columns}, column_sums));
  LOCKSTEP_RETURN_IF_ERROR(move(r, row_sums, all_rows, size.columns));
  LOCKSTEP_RETURN_IF_ERROR(move(c, column_sums, all_columns, size.rows));
  LOCKSTEP_RETURN_IF_ERROR(math.sum_axis(r, {size.outer, size.rows, 1}, means));
  const std::array<double, 1> rows = {static_cast<double>(size.rows)};
  LOCKSTEP_RETURN_IF_ERROR(math.evaluate(with_scalars(quotient_, rows), std::array{means},
                                         std::array{means}, size.outer));
  const MatmulOp shares{.batches = size.outer,
                        .rows = size.rows,
                        .inner = 1,
                        .columns = 1,
                        .x = {size.rows, 1, 1},
                        .z = {1, 1, 1},
                        .out = {size.rows, 1, 1}};
  LOCKSTEP_RETURN_IF_ERROR(math.multiply(shares, r, means, row_sums));
  const MatmulOp outer{.batches = size.outer,
                       .rows = size.rows,
                       .inner = 1,
                       .columns = size.columns,
                       .x = {size.rows, 1, 1},
                       .z = {size.columns, size.columns, 1},
                       .out = {size.rows * size.columns, size.columns, 1},
                       .features = size.count()};
  return math.multiply(outer, row_sums, c, step.slots[2]);
}

std::optional<WholeRule::Shape> Adafactor::stored_shape(size_t slot, const std::string&,
                                                        const Shape& shape) const {
  if (slot == 2) return shape;
  if (shape.size() < 2) return Shape();  // a number that means nothing
  Shape mean = shape;
  mean.erase(mean.end() - (slot == 0 ? 1 : 2));
  return mean;
}

}  // namespace

OptimizerRow adafactor_row() {
  using enum HyperparameterKind;
  OptimizerRow row{"Adafactor",
                   {rate_key(0.001),
                    {"beta_2_decay", not_positive, -0.8},
                    {"epsilon_1", positive, 1e-30},
                    {"epsilon_2", positive, 1e-3},
                    {"clip_threshold", positive, 1.0},
                    // Keras takes the least of the rate and 1 / sqrt(t) either way.
                    {"relative_step", boolean, true},
                    decay_key()}};
  row.slots = [](const Json&) -> std::vector<OptimizerSlot> {
    return {{"r"}, {"c"}, {"velocity"}};
  };
  row.whole = [](const Json& config) -> Result<std::shared_ptr<const WholeRule>> {
    return std::shared_ptr<const WholeRule>(std::make_shared<Adafactor>(config));
  };
  return row;
}

}  // namespace lockstep
