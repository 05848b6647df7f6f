// Jordan et al.: Muon, 2024, with the rates of Liu et al. (https://arxiv.org/abs/2502.16982), as
// Keras has it: https://github.com/keras-team/keras/blob/v3.15.1/keras/src/optimizers/muon.py.
// Matrices take steps of orthogonalized momentum, all else those of AdamW.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <regex>

#include "host/core/math_double.h"
#include "host/optim/optimizer_table.h"
#include "host/optim/whole_rule.h"

namespace lockstep {
namespace {

using Json = nlohmann::json;

constexpr double kNormEpsilon = 1e-7;

// out = x z of matrices that lie row by row; a transposed one is named by its strides.
struct Product {
  int64_t rows = 0, inner = 0, columns = 0;
  bool x_transposed = false, z_transposed = false;

  MatmulOp op() const {
    return {.rows = rows,
            .inner = inner,
            .columns = columns,
            .x = x_transposed ? MatrixStrides{0, 1, rows} : MatrixStrides{0, inner, 1},
            .z = z_transposed ? MatrixStrides{0, 1, inner} : MatrixStrides{0, columns, 1},
            .out = {0, columns, 1},
            .x_features = rows * inner,
            .z_features = inner * columns,
            .features = rows * columns};
  }
};

// Slots: the momentum, and of what AdamW updates the velocity.
class Muon : public WholeRule {
 public:
  static Result<std::shared_ptr<const WholeRule>> create(const Json& config);

  bool takes(const std::string& path, const Shape& shape) const override;
  // The product, and two matrices of the shorter side.
  int64_t scratch_size(const Shape& shape) const override {
    const int64_t side = std::min(shape[0], shape[1]);
    return shape[0] * shape[1] + 2 * side * side;
  }
  Status step(FlatMath& math, const Step& step) const override;
  std::optional<Shape> stored_shape(size_t slot, const std::string& path,
                                    const Shape& shape) const override {
    if (slot == 1 && takes(path, shape)) return std::nullopt;
    return shape;
  }

 private:
  explicit Muon(const Json& config);
  // x = one step of Newton and Schulz from x.
  Status orthogonalize(FlatMath& math, const Shape& shape, float* x, float* scratch) const;

  double momentum_, a_, b_, c_, rms_rate_;
  int64_t iterations_;
  bool nesterov_, excludes_embeddings_;
  std::vector<std::regex> excluded_;
  // Of momentum and gradient.
  SharedExpression moved_ = shared_expression([this](ExpressionBuilder& e) {
    const Term m = e.operand(0);
    return std::vector{m + (e.operand(1) + m * (momentum_ - 1))};
  });
  SharedExpression ahead_ = shared_expression([this](ExpressionBuilder& e) {
    return std::vector{nesterov_ ? e.operand(1) + momentum_ * e.operand(0) : e.operand(0)};
  });
  SharedExpression itself_ =
      shared_expression([](ExpressionBuilder& e) { return std::vector{e.operand(0)}; });
  SharedExpression divided_ = shared_expression(
      [](ExpressionBuilder& e) { return std::vector{e.operand(0) / e.scalar(0)}; });
  SharedExpression scaled_ = shared_expression(
      [](ExpressionBuilder& e) { return std::vector{e.operand(0) * e.scalar(0)}; });
  // Of A = x x^T and A A.
  SharedExpression polynomial_ = shared_expression(
      [this](ExpressionBuilder& e) { return std::vector{b_ * e.operand(0) + c_ * e.operand(1)}; });
  // Of x and its product with the polynomial.
  SharedExpression next_ = shared_expression(
      [this](ExpressionBuilder& e) { return std::vector{a_ * e.operand(0) + e.operand(1)}; });
};

Muon::Muon(const Json& config)
    : momentum_(config["momentum"]),
      a_(config["muon_a"]),
      b_(config["muon_b"]),
      c_(config["muon_c"]),
      rms_rate_(number_of(config, "rms_rate")),
      iterations_(static_cast<int64_t>(number_of(config, "ns_steps"))),
      nesterov_(config["nesterov"]),
      excludes_embeddings_(config["exclude_embeddings"]) {}

// Python's patterns and ours agree as long as they have no escapes and no extensions.
Result<std::shared_ptr<const WholeRule>> Muon::create(const Json& config) {
  std::shared_ptr<Muon> muon(new Muon(config));
  for (const std::string pattern : config["exclude_layers"]) {
    const auto refused = [&](const char* why) {
      return usage_error(
          fmt::format("optimizer 'muon': exclude_layers: '{}' {}: give parts of the "
                      "layers' names",
                      pattern, why));
    };
    if (pattern.find('\\') != std::string::npos || pattern.find("(?") != std::string::npos) {
      return refused("has an escape or an extension, which are not known here");
    }
    try {
      muon->excluded_.emplace_back(pattern);
    } catch (const std::regex_error&) {
      return refused("is no pattern");
    }
  }
  return std::shared_ptr<const WholeRule>(std::move(muon));
}

// Keras' path begins with the name of a Sequential model around the layer: patterns name layers.
bool Muon::takes(const std::string& path, const Shape& shape) const {
  if (shape.size() != 2) return false;
  if (excludes_embeddings_ && lower_case(path).find("embedding") != std::string::npos) return false;
  return std::none_of(excluded_.begin(), excluded_.end(),
                      [&](const std::regex& pattern) { return std::regex_search(path, pattern); });
}

Status Muon::step(FlatMath& math, const Step& step) const {
  const int64_t count = step.shape[0] * step.shape[1];
  float* const momentum = step.slots[0];
  float* const x = step.gradient;
  LOCKSTEP_RETURN_IF_ERROR(
      math.evaluate({moved_, {}, 0}, std::array{momentum, x}, std::array{momentum}, count));
  LOCKSTEP_RETURN_IF_ERROR(
      math.evaluate({ahead_, {}, 0}, std::array{momentum, x}, std::array{x}, count));
  LOCKSTEP_ASSIGN(const auto sums, math.squares({SquaresTask{{itself_, {}, 0}, {x}, count}}));
  const std::array<double, 1> norm = {std::sqrt(sums[0][0]) + kNormEpsilon};
  LOCKSTEP_RETURN_IF_ERROR(
      math.evaluate(with_scalars(divided_, norm), std::array{x}, std::array{x}, count));
  LOCKSTEP_ASSIGN(float* const scratch, math.scratch(scratch_size(step.shape)));
  for (int64_t i = 0; i < iterations_; ++i) {
    LOCKSTEP_RETURN_IF_ERROR(orthogonalize(math, step.shape, x, scratch));
  }
  double rate = step.learning_rate;
  if (rms_rate_ > 0) {
    const int64_t longer = std::max(step.shape[0], step.shape[1]);
    rate = rate * std::sqrt(static_cast<double>(longer)) * rms_rate_;
  }
  return math.evaluate(with_scalars(scaled_, std::array{rate}), std::array{x}, std::array{x},
                       count);
}

// A is that of the shorter side, as in Keras, which transposes. A and A A come out symmetric to the
// bit, so that x (b A + c A A) is the transposed of what Keras computes for the transposed x.
Status Muon::orthogonalize(FlatMath& math, const Shape& shape, float* x, float* scratch) const {
  const int64_t rows = shape[0], columns = shape[1];
  const bool wide = rows <= columns;
  const int64_t side = std::min(rows, columns);
  float* const a = scratch;
  float* const polynomial = a + side * side;
  float* const product = polynomial + side * side;
  const Product square = wide ? Product{rows, columns, rows, false, true}
                              : Product{columns, rows, columns, true, false};
  LOCKSTEP_RETURN_IF_ERROR(math.multiply(square.op(), x, x, a));
  LOCKSTEP_RETURN_IF_ERROR(math.multiply(Product{side, side, side}.op(), a, a, polynomial));
  LOCKSTEP_RETURN_IF_ERROR(math.evaluate({polynomial_, {}, 0}, std::array{a, polynomial},
                                         std::array{polynomial}, side * side));
  LOCKSTEP_RETURN_IF_ERROR(
      wide ? math.multiply(Product{rows, rows, columns}.op(), polynomial, x, product)
           : math.multiply(Product{rows, columns, columns}.op(), x, polynomial, product));
  return math.evaluate({next_, {}, 0}, std::array{x, product}, std::array{x}, rows * columns);
}

std::vector<Term> aside_formula(const FormulaTerms& t) {
  const Term m = t.slots[0] + (t.gradient - t.slots[0]) * (1 - t.number("adam_beta_1"));
  const Term square = t.gradient * t.gradient;
  const Term v = t.slots[1] + (square - t.slots[1]) * (1 - t.number("adam_beta_2"));
  return {m, v, t.weight - m * t.scalar(0) / (t.e.square_root(v) + t.number("epsilon"))};
}

// Scalar 0: alpha.
std::vector<double> aside_scalars(const Json& config, double learning_rate, int64_t t) {
  return {learning_rate * number_of(config, "adam_lr_ratio") *
          std::sqrt(1 - math::integer_power(config["adam_beta_2"], t)) /
          (1 - math::integer_power(config["adam_beta_1"], t))};
}

}  // namespace

OptimizerRow muon_row() {
  using enum HyperparameterKind;
  OptimizerRow row{"Muon",
                   {rate_key(0.001),
                    {"adam_beta_1", below_one, 0.9},
                    {"adam_beta_2", below_one, 0.999},
                    {"adam_weight_decay", not_negative_or_none, 0.004},
                    {"epsilon", positive, 1e-7},
                    {"weight_decay", not_negative_or_none, 0.004},
                    {"exclude_layers", names, Json::array()},
                    {"exclude_embeddings", boolean, true},
                    {"muon_a", number, 3.4445},
                    {"muon_b", number, -4.775},
                    {"muon_c", number, 2.0315},
                    {"adam_lr_ratio", positive, 1.0},
                    {"momentum", up_to_one, 0.95},
                    {"ns_steps", count_or_none, 5},
                    {"nesterov", boolean, true},
                    {"rms_rate", positive_or_none, 0.2}}};
  row.slots = [](const Json&) -> std::vector<OptimizerSlot> {
    return {{"momentum"}, {"velocity"}};
  };
  row.formula = aside_formula;
  row.scalars = aside_scalars;
  row.whole = Muon::create;
  row.formula_decay = "adam_weight_decay";
  return row;
}

}  // namespace lockstep
