#include "host/nn/initializers.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "host/core/check.h"
#include "host/core/rng.h"
#include "host/core/suggest.h"

namespace lockstep {
namespace {

constexpr uint64_t kInitPurpose = 0x696e6974;  // 'init'

struct Fans {
  double in = 1, out = 1;
};

// Kernels end in (in, out); what stands before is the receptive field and belongs to both fans.
Fans fans_of(const Shape& shape) {
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
  const Fans fans = fans_of(draw.parameter.shape);
  fill_uniform(draw, static_cast<float>(std::sqrt(6.0 / (fans.in + fans.out))));
}

struct InitializerType {
  const char* class_name;
  const char* name;
  void (*draw)(const Draw& draw);
};

constexpr InitializerType kInitializers[] = {
    {"GlorotUniform", "glorot_uniform", glorot_uniform},
    {"Ones", "ones", [](const Draw& draw) { fill(draw, 1); }},
    {"Zeros", "zeros", [](const Draw& draw) { fill(draw, 0); }},
};

const InitializerType* find(const std::string& name) {
  for (const InitializerType& type : kInitializers) {
    if (name == type.class_name || name == type.name) return &type;
  }
  return nullptr;
}

}  // namespace

Result<nlohmann::json> resolve_initializer(const nlohmann::json& initializer) {
  std::string name;
  if (initializer.is_string()) name = initializer;
  if (initializer.is_object()) name = initializer.value("class_name", "");
  if (initializer.is_null()) return initializer;
  const InitializerType* type = find(name);
  if (type == nullptr) {
    std::vector<std::string> names;
    for (const InitializerType& known : kInitializers) names.push_back(known.class_name);
    return usage_error(unknown_name_message("initializer", name, names));
  }
  return nlohmann::json{{"class_name", type->class_name}, {"config", nlohmann::json::object()}};
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
