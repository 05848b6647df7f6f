// Keras' initializers, drawn from the counter-based generator.
#include <algorithm>
#include <cmath>
#include <vector>

#include "host/core/rng.h"
#include "host/nn/model.h"

namespace lockstep {
namespace {

constexpr uint64_t kInitPurpose = 0x696e6974;  // 'init'

// Glorot and Bengio (2010): uniform in [-l, l), l = sqrt(6 / (fan_in + fan_out)). Kernels end in
// (in, out); what stands before is the receptive field and belongs to both fans.
float glorot_limit(const Shape& shape) {
  double receptive_field = 1;
  for (size_t axis = 0; axis + 2 < shape.size(); ++axis) {
    receptive_field *= static_cast<double>(shape[axis]);
  }
  const double in = static_cast<double>(shape.size() < 2 ? shape[0] : shape[shape.size() - 2]);
  const double out = static_cast<double>(shape.back());
  return static_cast<float>(std::sqrt(6.0 / (receptive_field * in + receptive_field * out)));
}

void initialize(const Parameter& parameter, uint64_t key, float* weights) {
  const int64_t count = parameter.count();
  switch (parameter.initializer) {
    case InitializerKind::zeros:
      std::fill(weights, weights + count, 0.0f);
      return;
    case InitializerKind::ones:
      std::fill(weights, weights + count, 1.0f);
      return;
    case InitializerKind::glorot_uniform: {
      const float limit = glorot_limit(parameter.shape);
      for (int64_t i = 0; i < count; ++i) {
        // 2u - 1 is exact: the product is the only rounding.
        weights[i] = (2.0f * uniform_at(key, static_cast<uint64_t>(i)) - 1.0f) * limit;
      }
      return;
    }
  }
}

}  // namespace

std::vector<float> initial_weights(const Graph& graph, uint64_t seed) {
  std::vector<float> weights(static_cast<size_t>(graph.parameter_count));
  for (size_t index = 0; index < graph.parameters.size(); ++index) {
    const Parameter& parameter = graph.parameters[index];
    initialize(parameter, derive_key(seed, kInitPurpose, index), weights.data() + parameter.offset);
  }
  return weights;
}

}  // namespace lockstep
