#include "host/nn/initializers.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "host/core/check.h"
#include "host/core/rng.h"
#include "host/core/suggest.h"
#include "host/nn/class_config.h"

namespace lockstep {
namespace {

constexpr uint64_t kInitPurpose = 0x696e6974;  // 'init'
constexpr uint32_t kNormalStream = 1;          // uniform numbers take stream 0

struct Fans {
  double in = 1, out = 1;
};

// Kernels end in (in, out); what stands before is the receptive field and belongs to both fans.
Fans fans_of(const Parameter& parameter) {
  if (parameter.fan_in > 0) {
    return {static_cast<double>(parameter.fan_in), static_cast<double>(parameter.fan_out)};
  }
  const Shape& shape = parameter.shape;
  if (shape.empty()) return {};
  double receptive_field = 1;
  for (size_t axis = 0; axis + 2 < shape.size(); ++axis) {
    receptive_field *= static_cast<double>(shape[axis]);
  }
  const double in = static_cast<double>(shape.size() < 2 ? shape[0] : shape[shape.size() - 2]);
  return {receptive_field * in, receptive_field * static_cast<double>(shape.back())};
}

struct Draw {
  const Parameter& parameter;
  const nlohmann::json& config;
  uint64_t key;
  float* weights;
};

void fill(const Draw& draw, float value) {
  std::fill(draw.weights, draw.weights + draw.parameter.count(), value);
}

// Uniform in [-limit, limit).
void fill_uniform(const Draw& draw, float limit) {
  for (int64_t i = 0; i < draw.parameter.count(); ++i) {
    // 2u - 1 is exact: the product is the only rounding.
    draw.weights[i] = (2.0f * uniform_at(draw.key, static_cast<uint64_t>(i)) - 1.0f) * limit;
  }
}

// Glorot and Bengio (2010): uniform in [-l, l), l = sqrt(6 / (fan_in + fan_out)).
void glorot_uniform(const Draw& draw) {
  const Fans fans = fans_of(draw.parameter);
  fill_uniform(draw, static_cast<float>(std::sqrt(6.0 / (fans.in + fans.out))));
}

// Keras' random_normal draws; a truncated one is drawn again beyond two deviations.
void fill_normal(const Draw& draw, double mean, double deviation, bool truncated) {
  uint32_t attempt = 0;
  for (int64_t i = 0; i < draw.parameter.count(); ++i) {
    const auto index = static_cast<uint64_t>(i);
    float value = 0;
    for (attempt = 0; attempt == 0 || (truncated && std::abs(value) > 2); ++attempt) {
      const auto words = philox4x32({static_cast<uint32_t>(index),
                                     static_cast<uint32_t>(index >> 32), attempt, kNormalStream},
                                    draw.key);
      value = normal_from_bits(words[0], words[1]);
    }
    draw.weights[i] = static_cast<float>(mean + deviation * static_cast<double>(value));
  }
}

double number(const Draw& draw, const char* key) { return draw.config.at(key).get<double>(); }

// A standard normal number truncated to two deviations has this deviation.
constexpr double kTruncatedDeviation = 0.87962566103423978;

// scale / n, n the mean number of inputs or outputs: Keras' VarianceScaling.
void variance_scaling(const Draw& draw, double scale, const std::string& mode,
                      const std::string& distribution) {
  const Fans fans = fans_of(draw.parameter);
  const double n = mode == "fan_in"    ? fans.in
                   : mode == "fan_out" ? fans.out
                                       : (fans.in + fans.out) / 2;
  const double variance = scale / std::max(1.0, n);
  if (distribution == "uniform") {
    fill_uniform(draw, static_cast<float>(std::sqrt(3 * variance)));
  } else if (distribution == "untruncated_normal") {
    fill_normal(draw, 0, std::sqrt(variance), false);
  } else {
    fill_normal(draw, 0, std::sqrt(variance) / kTruncatedDeviation, true);
  }
}

template <int kScale, bool kFanIn, bool kUniform>
void scaled(const Draw& draw) {
  variance_scaling(draw, kScale, kFanIn ? "fan_in" : "fan_avg",
                   kUniform ? "uniform" : "truncated_normal");
}

void random_uniform(const Draw& draw) {
  const auto low = static_cast<float>(number(draw, "minval"));
  const auto range = static_cast<float>(number(draw, "maxval") - number(draw, "minval"));
  for (int64_t i = 0; i < draw.parameter.count(); ++i) {
    draw.weights[i] = low + range * uniform_at(draw.key, static_cast<uint64_t>(i));
  }
}

// A name is Keras' class or its function's; keys have Keras' defaults, "seed" is taken and unused:
// the job's seed decides.
struct InitializerType {
  const char* class_name;
  const char* name;
  void (*draw)(const Draw& draw);
  const char* defaults = "{}";
};

constexpr InitializerType kInitializers[] = {
    {"Constant", "constant",
     [](const Draw& draw) { fill(draw, static_cast<float>(number(draw, "value"))); },
     R"({"value": 0.0})"},
    {"GlorotNormal", "glorot_normal", scaled<1, false, false>},
    {"GlorotUniform", "glorot_uniform", glorot_uniform},
    {"HeNormal", "he_normal", scaled<2, true, false>},
    {"HeUniform", "he_uniform", scaled<2, true, true>},
    {"LecunNormal", "lecun_normal", scaled<1, true, false>},
    {"LecunUniform", "lecun_uniform", scaled<1, true, true>},
    {"Ones", "ones", [](const Draw& draw) { fill(draw, 1); }},
    {"RandomNormal", "random_normal",
     [](const Draw& draw) {
       fill_normal(draw, number(draw, "mean"), number(draw, "stddev"), false);
     },
     R"({"mean": 0.0, "stddev": 0.05})"},
    {"RandomUniform", "random_uniform", random_uniform, R"({"minval": -0.05, "maxval": 0.05})"},
    {"TruncatedNormal", "truncated_normal",
     [](const Draw& draw) {
       fill_normal(draw, number(draw, "mean"), number(draw, "stddev"), true);
     },
     R"({"mean": 0.0, "stddev": 0.05})"},
    {"VarianceScaling", "variance_scaling",
     [](const Draw& draw) {
       variance_scaling(draw, number(draw, "scale"), draw.config.at("mode"),
                        draw.config.at("distribution"));
     },
     R"({"scale": 1.0, "mode": "fan_in", "distribution": "truncated_normal"})"},
    {"Zeros", "zeros", [](const Draw& draw) { fill(draw, 0); }},
};

const InitializerType* find(const std::string& name) {
  for (const InitializerType& type : kInitializers) {
    if (name == type.class_name || name == type.name) return &type;
  }
  return nullptr;
}

// The words of a VarianceScaling; others have none.
Status check_words(const nlohmann::json& config) {
  const std::pair<const char*, std::vector<std::string>> known[] = {
      {"mode", {"fan_in", "fan_out", "fan_avg"}},
      {"distribution", {"truncated_normal", "untruncated_normal", "uniform", "normal"}}};
  for (const auto& [key, words] : known) {
    if (!config.contains(key) || std::count(words.begin(), words.end(), config[key]) > 0) continue;
    return usage_error("initializer VarianceScaling: " +
                       unknown_name_message(key, config[key].get<std::string>(), words));
  }
  return {};
}

}  // namespace

Result<nlohmann::json> resolve_initializer(const nlohmann::json& initializer) {
  if (initializer.is_null()) return initializer;
  const std::string name = class_name_of(initializer);
  const InitializerType* type = find(name);
  if (type == nullptr) {
    std::vector<std::string> names;
    for (const InitializerType& known : kInitializers) names.push_back(known.class_name);
    return usage_error(unknown_name_message("initializer", name, names));
  }
  nlohmann::json config = nlohmann::json::parse(type->defaults);
  nlohmann::json given = nlohmann::json::object();
  if (initializer.is_object() && initializer.contains("config")) given = initializer.at("config");
  for (const auto& [key, value] : given.items()) {
    if (key == "seed" || (value.is_null() && !config.contains(key))) continue;
    const bool known = config.contains(key) && value.is_number() == config[key].is_number() &&
                       value.is_string() == config[key].is_string();
    if (!known) {
      return usage_error(
          fmt::format("initializer {}: it has no key '{}' with a value like {}; it takes {}",
                      type->class_name, key, value.dump(), type->defaults));
    }
    config[key] = value;
  }
  LOCKSTEP_RETURN_IF_ERROR(check_words(config));
  return nlohmann::json{{"class_name", type->class_name}, {"config", std::move(config)}};
}

std::vector<float> initial_weights(const Graph& graph, uint64_t seed) {
  std::vector<float> weights(static_cast<size_t>(graph.parameter_count));
  for (size_t index = 0; index < graph.parameters.size(); ++index) {
    const Parameter& parameter = graph.parameters[index];
    const InitializerType* type = find(parameter.initializer.at("class_name"));
    LOCKSTEP_CHECK(type != nullptr);
    type->draw({parameter, parameter.initializer.at("config"),
                derive_key(seed, kInitPurpose, index), weights.data() + parameter.offset});
  }
  return weights;
}

}  // namespace lockstep
