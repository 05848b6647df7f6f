// A Keras model: layers with Keras' names, defaults and shapes, and its graphs.
#pragma once

#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "host/core/result.h"
#include "host/graph/graph.h"
#include "host/nn/layer.h"

namespace lockstep {

// A sequential model; owns its layers. What the user asked for is checked when a graph is made:
// each of the *_graph calls returns the same error.
class Model {
 public:
  Model(std::string name, Shape input_shape);
  // Names the layer as Keras does ("conv2d", "conv2d_1") unless it has a name.
  Model& add(std::unique_ptr<Layer> layer);
  // `model.add<Dense>({.units = 10})`.
  template <class LayerClass>
  Model& add(typename LayerClass::Options options) {
    return add(std::make_unique<LayerClass>(std::move(options)));
  }

  const std::string& name() const { return name_; }
  const Shape& input_shape() const { return input_shape_; }
  const std::vector<std::unique_ptr<Layer>>& layers() const { return layers_; }
  // Keras' config of the model, minimal keys: part of the recipe.
  nlohmann::json config() const;

  // Forward pass only; `output` holds the probabilities.
  Result<Graph> predict_graph() const;
  // Forward pass and loss without gradients: metrics only (flat_size = metric_count).
  Result<Graph> evaluate_graph(const std::string& loss) const;
  // Forward, loss and gradients, rewritten and fused.
  Result<Graph> training_graph(const std::string& loss) const;

 private:
  Status check_names() const;
  Result<Graph> forward_graph(GraphMode mode) const;
  std::string last_layer() const;

  std::string name_;
  Shape input_shape_;
  std::vector<std::unique_ptr<Layer>> layers_;
  std::map<std::string, int> unnamed_;  // layers without a name so far, by default name
};

// The initial flat parameters: a pure function of the graph's parameters and the seed.
std::vector<float> initial_weights(const Graph& graph, uint64_t seed);

}  // namespace lockstep
