#include "host/optim/schedule.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "host/core/math_double.h"
#include "host/core/suggest.h"
#include "host/optim/hyperparameters.h"

namespace lockstep {
namespace {

using Json = nlohmann::json;

double initial_rate(const Json& config) { return config["initial_learning_rate"]; }

// Decay periods that have passed, whole ones with `staircase`.
double periods(const Json& config, double step) {
  const double passed = step / number_of(config, "decay_steps");
  return config["staircase"] ? std::floor(passed) : passed;
}

double exponential_decay(const Json& config, double step) {
  return initial_rate(config) * math::power_double(config["decay_rate"], periods(config, step));
}

double inverse_time_decay(const Json& config, double step) {
  return initial_rate(config) / (1 + number_of(config, "decay_rate") * periods(config, step));
}

double piecewise_constant_decay(const Json& config, double step) {
  const Json& boundaries = config["boundaries"];
  size_t i = 0;
  while (i < boundaries.size() && step > boundaries[i].get<double>()) ++i;
  return config["values"][i];
}

double polynomial_decay(const Json& config, double step) {
  double decay_steps = config["decay_steps"];
  if (config["cycle"]) {
    if (step > 0) decay_steps *= std::ceil(step / decay_steps);
  } else {
    step = std::min(step, decay_steps);
  }
  const double end = config["end_learning_rate"];
  const double rest = math::power_double(1 - step / decay_steps, config["power"]);
  return (initial_rate(config) - end) * rest + end;
}

double cosine_decay(const Json& config, double step) {
  const double decay_steps = config["decay_steps"];
  const double alpha = config["alpha"];
  double from = initial_rate(config);
  if (!config["warmup_target"].is_null()) {
    const double target = config["warmup_target"];
    const double warmup_steps = config["warmup_steps"];
    if (step < warmup_steps) return (target - from) * (step / warmup_steps) + from;
    step -= warmup_steps;
    from = target;
  }
  const double decayed = 0.5 * (1 + math::cos_pi(std::min(step, decay_steps) / decay_steps));
  return from * ((1 - alpha) * decayed + alpha);
}

double cosine_decay_restarts(const Json& config, double step) {
  const double growth = config["t_mul"];
  const double alpha = config["alpha"];
  double period = config["first_decay_steps"];
  double restarts = 0;
  if (growth == 1) {
    restarts = std::floor(step / period);
    step -= restarts * period;
  }
  for (; step >= period && growth > 1; ++restarts) {
    step -= period;
    period *= growth;
  }
  const double fraction = std::clamp(step / period, 0.0, 1.0);
  const double factor = math::power_double(config["m_mul"], restarts);
  const double decayed = 0.5 * factor * (1 + math::cos_pi(fraction));
  return initial_rate(config) * ((1 - alpha) * decayed + alpha);
}

struct ScheduleRow {
  const char* name;  // of Keras' class
  std::vector<Hyperparameter> keys;
  double (*function)(const Json& config, double step);
};

const std::vector<ScheduleRow>& schedule_table() {
  using enum HyperparameterKind;
  const auto needed = [](const char* name, HyperparameterKind kind) {
    return Hyperparameter{name, kind, nullptr, true};
  };
  const Hyperparameter initial = needed("initial_learning_rate", not_negative);
  const Hyperparameter steps = needed("decay_steps", positive);
  const Hyperparameter rate = needed("decay_rate", not_negative);
  const Hyperparameter staircase = {"staircase", boolean, false};
  const Hyperparameter alpha = {"alpha", not_negative, 0.0};
  static const auto* table = new std::vector<ScheduleRow>{
      {"ExponentialDecay", {initial, steps, rate, staircase}, exponential_decay},
      {"PiecewiseConstantDecay",
       {needed("boundaries", numbers), needed("values", numbers)},
       piecewise_constant_decay},
      {"PolynomialDecay",
       {initial,
        steps,
        {"end_learning_rate", not_negative, 0.0001},
        {"power", not_negative, 1.0},
        {"cycle", boolean, false}},
       polynomial_decay},
      {"InverseTimeDecay", {initial, steps, rate, staircase}, inverse_time_decay},
      {"CosineDecay",
       {initial,
        steps,
        alpha,
        {"warmup_target", not_negative_or_none, nullptr},
        {"warmup_steps", not_negative, 0.0}},
       cosine_decay},
      {"CosineDecayRestarts",
       {initial,
        needed("first_decay_steps", positive),
        {"t_mul", one_or_more, 2.0},
        {"m_mul", not_negative, 1.0},
        alpha},
       cosine_decay_restarts}};
  return *table;
}

Status check_pieces(const std::string& what, const Json& config) {
  if (!config.contains("boundaries")) return {};
  const auto boundaries = config["boundaries"].get<std::vector<double>>();
  const auto values = config["values"].get<std::vector<double>>();
  if (values.size() != boundaries.size() + 1) {
    return usage_error(
        fmt::format("{}: there must be one more of values ({}) than of boundaries "
                    "({})",
                    what, values.size(), boundaries.size()));
  }
  if (std::adjacent_find(boundaries.begin(), boundaries.end(), std::greater_equal<>()) !=
      boundaries.end()) {
    return usage_error(what + ": boundaries must rise");
  }
  if (*std::min_element(values.begin(), values.end()) < 0) {
    return usage_error(what + ": values must be at least 0");
  }
  return {};
}

}  // namespace

std::vector<std::string> schedule_names() {
  std::vector<std::string> names;
  for (const ScheduleRow& row : schedule_table()) names.emplace_back(row.name);
  return names;
}

Result<LearningRate> LearningRate::create(const std::string& what, const Json& value) {
  LearningRate rate;
  if (!value.is_object()) {
    LOCKSTEP_ASSIGN(rate.config_, checked_value(what, {"learning_rate"}, value));
    return rate;
  }
  const auto name = value.find("class_name");
  const auto config = value.find("config");
  if (name == value.end() || !name->is_string() || config == value.end() || !config->is_object()) {
    return usage_error(fmt::format(
        "{}: a schedule is written {{\"class_name\": \"ExponentialDecay\", \"config\": {{…}}}}, "
        "not {}",
        what, value.dump()));
  }
  for (const auto& [key, unused] : value.items()) {
    const std::vector<std::string> known = {"class_name", "config", "module", "registered_name"};
    if (std::find(known.begin(), known.end(), key) != known.end()) continue;
    return usage_error(
        fmt::format("{}: learning_rate: {}", what, unknown_name_message("key", key, known)));
  }
  const auto& table = schedule_table();
  const auto row = std::find_if(table.begin(), table.end(), [&](const ScheduleRow& candidate) {
    return *name == candidate.name;
  });
  if (row == table.end()) {
    return usage_error(
        fmt::format("{}: {}", what,
                    unknown_name_message("schedule", name->get<std::string>(), schedule_names())));
  }
  const std::string where = fmt::format("schedule '{}'", row->name);
  Json own = *config;
  own.erase("name");  // only a label
  LOCKSTEP_ASSIGN(const Json checked, checked_config(where, row->keys, own));
  LOCKSTEP_RETURN_IF_ERROR(check_pieces(where, checked));
  rate.config_ = {{"class_name", row->name}, {"config", checked}};
  rate.function_ = row->function;
  return rate;
}

double LearningRate::at(int64_t step) const {
  if (function_ == nullptr) return config_;
  return static_cast<float>(function_(config_["config"], static_cast<double>(step)));
}

}  // namespace lockstep
