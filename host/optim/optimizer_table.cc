#include "host/optim/optimizer_table.h"

#include <algorithm>
#include <cmath>

#include "host/core/math_double.h"

namespace lockstep {
namespace {

using Json = nlohmann::json;
using Terms = FormulaTerms;
using Slots = std::vector<OptimizerSlot>;
using math::integer_power;

// a + (x - a) * share
Term moved(Term a, Term x, double share) { return a + (x - a) * share; }

// a * keep + x * (1 - keep)
Term mixed(Term a, Term x, double keep) { return a * keep + x * (1 - keep); }

Slots sgd_slots(const Json& config) {
  if (number_of(config, "momentum") == 0) return {};
  return {{"momentum"}};
}

std::vector<Term> sgd_formula(const Terms& t) {
  const Term step = t.gradient * t.learning_rate;
  if (t.slots.empty()) return {t.weight - step};
  const double momentum = t.number("momentum");
  const Term m = t.slots[0] * momentum - step;
  return {m, t.weight + (t.flag("nesterov") ? m * momentum - step : m)};
}

UpdateDesc sgd_fused(const Json& config, double learning_rate, int64_t) {
  const double momentum = config["momentum"];
  return SgdUpdate{.learning_rate = static_cast<float>(learning_rate),
                   .momentum = static_cast<float>(momentum),
                   .nesterov = momentum != 0 && config["nesterov"].get<bool>()};
}

Slots adam_slots(const Json& config) {
  if (config.value("amsgrad", false)) return {{"momentum"}, {"velocity"}, {"velocity_hat"}};
  return {{"momentum"}, {"velocity"}};
}

// Scalar 0: alpha.
std::vector<Term> adam_formula(const Terms& t) {
  const Term m = moved(t.slots[0], t.gradient, 1 - t.number("beta_1"));
  const Term v = moved(t.slots[1], t.gradient * t.gradient, 1 - t.number("beta_2"));
  std::vector<Term> outputs = {m, v};
  if (t.flag("amsgrad")) outputs.push_back(t.e.maximum(t.slots[2], v));
  const Term denominator = t.e.square_root(outputs.back()) + t.number("epsilon");
  outputs.push_back(t.weight - m * t.scalar(0) / denominator);
  return outputs;
}

double adam_alpha(const Json& config, double learning_rate, int64_t t) {
  const double beta_1 = config["beta_1"];
  const double beta_2 = config["beta_2"];
  return learning_rate * std::sqrt(1.0 - integer_power(beta_2, t)) /
         (1.0 - integer_power(beta_1, t));
}

std::vector<double> adam_scalars(const Json& config, double learning_rate, int64_t t) {
  return {adam_alpha(config, learning_rate, t)};
}

UpdateDesc adam_fused(const Json& config, double learning_rate, int64_t t) {
  return AdamUpdate{.one_minus_beta_1 = static_cast<float>(1.0 - number_of(config, "beta_1")),
                    .one_minus_beta_2 = static_cast<float>(1.0 - number_of(config, "beta_2")),
                    .alpha = static_cast<float>(adam_alpha(config, learning_rate, t)),
                    .epsilon = config["epsilon"].get<float>()};
}

Slots rmsprop_slots(const Json& config) {
  Slots slots = {{"velocity"}};
  if (number_of(config, "momentum") > 0) slots.push_back({"momentum"});
  if (config["centered"]) slots.push_back({"average_gradient"});
  return slots;
}

std::vector<Term> rmsprop_formula(const Terms& t) {
  const double rho = t.number("rho");
  const double momentum = t.number("momentum");
  const Term velocity = mixed(t.slots[0], t.gradient * t.gradient, rho);
  Term denominator = velocity;
  Term average;
  if (t.flag("centered")) {
    average = mixed(t.slots.back(), t.gradient, rho);
    denominator = velocity - average * average;
  }
  denominator = t.e.square_root(denominator + t.number("epsilon"));
  Term step = t.learning_rate * t.gradient / denominator;
  std::vector<Term> outputs = {velocity};
  if (momentum > 0) {
    step = t.slots[1] * momentum + step;
    outputs.push_back(step);
  }
  if (t.flag("centered")) outputs.push_back(average);
  outputs.push_back(t.weight - step);
  return outputs;
}

Slots adadelta_slots(const Json&) { return {{"accumulated_grad"}, {"accumulated_delta_var"}}; }

std::vector<Term> adadelta_formula(const Terms& t) {
  const double rho = t.number("rho");
  const double epsilon = t.number("epsilon");
  const Term gradients = mixed(t.slots[0], t.gradient * t.gradient, rho);
  const Term delta =
      -(t.e.square_root(t.slots[1] + epsilon) * t.gradient / t.e.square_root(gradients + epsilon));
  return {gradients, mixed(t.slots[1], delta * delta, rho), t.weight + t.learning_rate * delta};
}

Slots adagrad_slots(const Json& config) {
  return {{"accumulator", config["initial_accumulator_value"].get<float>()}};
}

std::vector<Term> adagrad_formula(const Terms& t) {
  const Term sum = t.slots[0] + t.gradient * t.gradient;
  return {sum,
          t.weight - t.learning_rate * t.gradient / t.e.square_root(sum + t.number("epsilon"))};
}

Slots adamax_slots(const Json&) { return {{"momentum"}, {"norm"}}; }

// Scalar 0: 1 - beta_1^t.
std::vector<Term> adamax_formula(const Terms& t) {
  const Term m = moved(t.slots[0], t.gradient, 1 - t.number("beta_1"));
  const Term u = t.e.maximum(t.slots[1] * t.number("beta_2"), t.e.absolute(t.gradient));
  return {m, u, t.weight - t.learning_rate * m / (t.scalar(0) * (u + t.number("epsilon")))};
}

std::vector<double> adamax_scalars(const Json& config, double, int64_t t) {
  return {1 - integer_power(config["beta_1"], t)};
}

Slots nadam_slots(const Json&) { return {{"momentum"}, {"velocity"}}; }

constexpr double kNadamDecay = 0.96;

// Scalars: 0 the factor of m in m_hat, 1 that of the gradient, 2: 1 - beta_2^t.
std::vector<Term> nadam_formula(const Terms& t) {
  const Term m = moved(t.slots[0], t.gradient, 1 - t.number("beta_1"));
  const Term v = moved(t.slots[1], t.gradient * t.gradient, 1 - t.number("beta_2"));
  const Term m_hat = m * t.scalar(0) + t.gradient * t.scalar(1);
  const Term denominator = t.e.square_root(v / t.scalar(2)) + t.number("epsilon");
  return {m, v, t.weight - m_hat * t.learning_rate / denominator};
}

std::vector<double> nadam_scalars(const Json& config, double, int64_t t) {
  const double beta_1 = config["beta_1"];
  const auto share = [&](int64_t step) { return 1 - 0.5 * integer_power(kNadamDecay, step); };
  const double product = nadam_product(beta_1, t);
  const double next = beta_1 * share(t + 1);
  return {next / (1 - product * next), (1 - beta_1 * share(t)) / (1 - product),
          1 - integer_power(config["beta_2"], t)};
}

Slots ftrl_slots(const Json& config) {
  return {{"accumulator", config["initial_accumulator_value"].get<float>()}, {"linear"}};
}

// Scalar 0: twice the l2 regularization, with beta's part.
std::vector<Term> ftrl_formula(const Terms& t) {
  const double exponent = -t.number("learning_rate_power");
  const double l1 = t.number("l1_regularization_strength");
  const double shrinkage = t.number("l2_shrinkage_regularization_strength");
  const auto raised = [&](Term x) {
    return exponent == 0.5 ? t.e.square_root(x) : t.e.power(x, t.e.constant(exponent));
  };
  const Term sum = t.slots[0] + t.gradient * t.gradient;
  const Term raised_sum = raised(sum);
  Term gradient = t.gradient;
  if (shrinkage != 0) gradient = gradient + t.weight * (2 * shrinkage);
  const Term growth = (raised_sum - raised(t.slots[0])) / t.learning_rate;
  const Term linear = t.slots[1] + (gradient - growth * t.weight);
  const Term quadratic = raised_sum / t.learning_rate + t.scalar(0);
  const Term clipped = t.e.maximum(t.e.constant(-l1), t.e.minimum(t.e.constant(l1), linear));
  const Term rest = l1 == 0 ? -linear : clipped - linear;
  return {sum, linear, rest / quadratic};
}

std::vector<double> ftrl_scalars(const Json& config, double learning_rate, int64_t) {
  return {2 * (number_of(config, "l2_regularization_strength") +
               number_of(config, "beta") / (2 * learning_rate))};
}

Slots lion_slots(const Json&) { return {{"momentum"}}; }

std::vector<Term> lion_formula(const Terms& t) {
  const Term direction = t.e.sign(mixed(t.slots[0], t.gradient, t.number("beta_1")));
  return {mixed(t.slots[0], t.gradient, t.number("beta_2")),
          t.weight - t.learning_rate * direction};
}

Slots lamb_slots(const Json&) { return {{"momentum"}, {"velocity"}}; }

struct LambStep {
  Term m, v, direction;
};

// Scalars: 1 - beta_1^t, 1 - beta_2^t.
LambStep lamb_step(const Terms& t) {
  const Term m = moved(t.slots[0], t.gradient, 1 - t.number("beta_1"));
  const Term v = moved(t.slots[1], t.gradient * t.gradient, 1 - t.number("beta_2"));
  const Term denominator = t.e.square_root(v / t.scalar(1)) + t.number("epsilon");
  return {m, v, m / t.scalar(0) / denominator};
}

std::vector<Term> lamb_formula(const Terms& t) {
  const LambStep step = lamb_step(t);
  return {step.m, step.v, t.weight - t.trust * t.learning_rate * step.direction};
}

std::vector<double> lamb_scalars(const Json& config, double, int64_t t) {
  return {1 - integer_power(config["beta_1"], t), 1 - integer_power(config["beta_2"], t)};
}

std::array<Term, 2> lamb_measured(const Terms& t) { return {t.weight, lamb_step(t).direction}; }

double lamb_trust(const Json&, double weight_norm, double step_norm) {
  return weight_norm > 0 && step_norm > 0 ? weight_norm / step_norm : 1;
}

// You, Gitman, Ginsburg: Large batch training of convolutional networks, 2017, algorithm 1. The
// first step of a weight that is 0 has the trust 1, or it would stay there.
Slots lars_slots(const Json&) { return {{"momentum"}}; }

std::vector<Term> lars_formula(const Terms& t) {
  const Term decayed = t.gradient + t.weight * t.number("weight_decay");
  const Term m = t.slots[0] * t.number("momentum") + t.learning_rate * t.trust * decayed;
  return {m, t.weight - m};
}

std::array<Term, 2> lars_measured(const Terms& t) { return {t.weight, t.gradient}; }

double lars_trust(const Json& config, double weight_norm, double gradient_norm) {
  if (!(weight_norm > 0 && gradient_norm > 0)) return 1;
  return number_of(config, "trust_coefficient") * weight_norm /
         (gradient_norm + number_of(config, "weight_decay") * weight_norm);
}

// Defazio et al.: The road less scheduled, 2024, as Keras has it: the weights lie between the point
// where gradients move ("momentum") and the mean of all such points.
Slots schedule_free_slots(const Json&) {
  return {{.name = "momentum", .begins_as_weights = true}, {"velocity"}};
}

// Scalars: 0 the warmed-up rate, 1: 1 - beta_2^t, 2 the share of step t in the mean.
std::vector<Term> schedule_free_formula(const Terms& t) {
  const double beta_1 = t.number("beta_1");
  const Term v = moved(t.slots[1], t.gradient * t.gradient, 1 - t.number("beta_2"));
  const Term denominator = t.e.square_root(v / t.scalar(1)) + t.number("epsilon");
  const Term moving = t.slots[0] - t.scalar(0) * t.gradient / denominator;
  const Term mean = (t.weight - t.slots[0] * (1 - beta_1)) / beta_1;
  const Term new_mean = mean * (1.0 - t.scalar(2)) + moving * t.scalar(2);
  return {moving, v, mixed(new_mean, moving, beta_1)};
}

std::vector<double> schedule_free_scalars(const Json& config, double learning_rate, int64_t t) {
  const double warmup = number_of(config, "warmup_steps");
  const double warmed = warmup > 0 ? std::min(static_cast<double>(t) / warmup, 1.0) : 1;
  return {learning_rate * warmed, 1 - integer_power(config["beta_2"], t),
          1 / static_cast<double>(t)};
}

std::vector<Hyperparameter> moment_keys(double beta_2) {
  return {rate_key(0.001),
          {"beta_1", HyperparameterKind::below_one, 0.9},
          {"beta_2", HyperparameterKind::below_one, beta_2}};
}

std::vector<Hyperparameter> with(std::vector<Hyperparameter> keys,
                                 std::vector<Hyperparameter> more) {
  keys.insert(keys.end(), more.begin(), more.end());
  return keys;
}

OptimizerRow schedule_free_row() {
  using enum HyperparameterKind;
  return {"ScheduleFreeAdamW",
          {rate_key(0.0025),
           {"beta_1", within_one, 0.9},
           {"beta_2", below_one, 0.999},
           {"epsilon", positive, 1e-8},
           {"warmup_steps", count_or_none, 0, false, false, 0},
           decay_key()},
          schedule_free_slots,
          schedule_free_formula,
          schedule_free_scalars};
}

std::vector<OptimizerRow> make_table() {
  using enum HyperparameterKind;
  const Hyperparameter epsilon = {"epsilon", positive, 1e-7};
  const Hyperparameter amsgrad = {"amsgrad", boolean, false, false, true};
  const Hyperparameter momentum = {"momentum", up_to_one, 0.0};
  const Hyperparameter accumulator = {"initial_accumulator_value", not_negative, 0.1};
  const std::vector<Hyperparameter> adam = with(moment_keys(0.999), {epsilon, decay_key()});
  return {
      {"Adam", with(adam, {amsgrad}), adam_slots, adam_formula, adam_scalars, adam_fused},
      {"SGD",
       {rate_key(0.01), momentum, {"nesterov", boolean, false}, decay_key()},
       sgd_slots,
       sgd_formula,
       nullptr,
       sgd_fused},
      {"AdamW", with(moment_keys(0.999), {epsilon, {"weight_decay", not_negative, 0.004}, amsgrad}),
       adam_slots, adam_formula, adam_scalars},
      {"RMSprop",
       {rate_key(0.001),
        {"rho", below_one, 0.9},
        momentum,
        epsilon,
        {"centered", boolean, false},
        decay_key()},
       rmsprop_slots,
       rmsprop_formula},
      {"Adadelta",
       {rate_key(0.001), {"rho", below_one, 0.95}, epsilon, decay_key()},
       adadelta_slots,
       adadelta_formula},
      {"Adagrad",
       {rate_key(0.001), accumulator, epsilon, decay_key()},
       adagrad_slots,
       adagrad_formula},
      {"Adamax", adam, adamax_slots, adamax_formula, adamax_scalars},
      {"Nadam", adam, nadam_slots, nadam_formula, nadam_scalars},
      {"Ftrl",
       {rate_key(0.001),
        {"learning_rate_power", not_positive, -0.5},
        accumulator,
        {"l1_regularization_strength", not_negative, 0.0},
        {"l2_regularization_strength", not_negative, 0.0},
        {"l2_shrinkage_regularization_strength", not_negative, 0.0},
        {"beta", not_negative, 0.0},
        decay_key()},
       ftrl_slots,
       ftrl_formula,
       ftrl_scalars},
      {"Lion", with(moment_keys(0.99), {decay_key()}), lion_slots, lion_formula},
      {"Lamb", adam, lamb_slots, lamb_formula, lamb_scalars, nullptr,
       TrustRule{lamb_measured, lamb_trust}},
      schedule_free_row(),
      adafactor_row(),
      muon_row(),
      {"LARS",
       {rate_key(0.01),
        {"momentum", up_to_one, 0.9},
        {"weight_decay", not_negative, 0.0},
        {"trust_coefficient", positive, 0.001}},
       lars_slots,
       lars_formula,
       nullptr,
       nullptr,
       TrustRule{lars_measured, lars_trust},
       true},
  };
}

}  // namespace

double nadam_product(double beta_1, int64_t t) {
  constexpr int64_t kLastFactor = 1000;  // those behind it are 1 to the last bit
  double product = integer_power(beta_1, t);
  double power = 1;
  for (int64_t step = 1; step <= std::min(t, kLastFactor); ++step) {
    power *= kNadamDecay;
    product *= 1 - 0.5 * power;
  }
  return product;
}

Hyperparameter rate_key(double default_value) {
  return {"learning_rate", HyperparameterKind::positive, default_value};
}

Hyperparameter decay_key() {
  return {"weight_decay", HyperparameterKind::not_negative_or_none, nullptr, false, true};
}

bool FormulaTerms::flag(const char* key) const { return config.value(key, false); }

const std::vector<OptimizerRow>& optimizer_table() {
  static const auto* table = new std::vector<OptimizerRow>(make_table());
  return *table;
}

std::vector<std::string> optimizer_names() {
  std::vector<std::string> names;
  for (const OptimizerRow& row : optimizer_table()) names.push_back(lower_case(row.keras_class));
  return names;
}

}  // namespace lockstep
