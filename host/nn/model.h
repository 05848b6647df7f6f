// A Keras model: layers with Keras' names, defaults and shapes, how they are called, and its
// graphs.
#pragma once

#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "host/core/result.h"
#include "host/graph/graph.h"
#include "host/nn/initializers.h"
#include "host/nn/layer.h"
#include "host/nn/losses.h"

namespace lockstep {

// Sequential: `Model("mlp", {28, 28, 1})` and add(). Functional: `Model("two")`, input(), call()
// and set_outputs(). What the user asked for is checked when a graph is made: each of the *_graph
// calls returns the same error.
class Model {
 public:
  // A result of a call, or an input of the model (call -1).
  struct TensorRef {
    int call = -1;
    int output = 0;  // of the call, or the input's number
  };
  struct Input {
    std::string name;
    Shape shape;  // -1 where it is left open, which only a model within another may do
  };
  // A layer of the table, or a model in its place.
  struct LayerInstance {
    std::string class_name;
    std::string name;
    nlohmann::json config;  // resolved
    bool trainable = true;
    std::shared_ptr<const Model> model;
  };
  struct Call {
    int layer = -1;
    std::vector<TensorRef> inputs;
    // {"training": false}; {"mask": true}: the last input is the first one's mask
    nlohmann::json arguments = nlohmann::json::object();
  };

  explicit Model(std::string name) : name_(std::move(name)) {}
  Model(std::string name, Shape input_shape);

  // Appends a layer that is called on the last one's result. Without a name in its config it gets
  // Keras' ("conv2d", "conv2d_1").
  Model& add(const std::string& class_name,
             const nlohmann::json& config = nlohmann::json::object());

  TensorRef input(Shape shape, std::string name = "");
  // A new layer, or a model in its place; call it by its number.
  int add_layer(const std::string& class_name,
                const nlohmann::json& config = nlohmann::json::object());
  int add_model(std::shared_ptr<const Model> model);
  TensorRef call(int layer, std::vector<TensorRef> inputs,
                 nlohmann::json arguments = nlohmann::json::object());
  // A new layer and its first call.
  TensorRef call(const std::string& class_name, const nlohmann::json& config,
                 std::vector<TensorRef> inputs);
  void set_outputs(std::vector<TensorRef> outputs);

  const std::string& name() const { return name_; }
  const std::vector<Input>& inputs() const { return inputs_; }
  const std::vector<LayerInstance>& layers() const { return layers_; }
  const std::vector<Call>& calls() const { return calls_; }
  const std::vector<TensorRef>& outputs() const { return outputs_; }
  // Layers, those of models within counted each.
  int layer_count() const;
  // Keras' config of the model: part of the recipe.
  nlohmann::json config() const;

  // The shapes of each call's results, in the order of calls(), for inputs of these shapes.
  Result<std::vector<std::vector<Shape>>> call_shapes(const std::vector<Shape>& inputs) const;

  // Appends the forward pass to a builder: inputs, then the calls. The outputs.
  Result<Tensors> build_forward(GraphBuilder& builder) const;
  // Forward pass only.
  Result<Graph> predict_graph() const;
  // Forward pass and loss without gradients: metrics only.
  Result<Graph> evaluate_graph(const Objective& objective) const;
  // How many entries of each output that the objective calls masked count, one value each. Refuses
  // masks that do not follow from the inputs alone.
  Result<Graph> mask_graph(const Objective& objective) const;
  // Whether its outputs carry a mask.
  Result<std::vector<bool>> masked_outputs() const;
  // Forward, loss and gradients, rewritten and fused.
  Result<Graph> training_graph(const Objective& objective) const;

 private:
  // Where a model's layers stand among all of the outermost model.
  struct Place {
    std::string prefix;  // of names
    int first_layer = 0;
    bool trainable = true;
    nlohmann::json arguments = nlohmann::json::object();
  };
  using CallCounts = std::map<int, int>;  // of each layer so far

  void fail(const Error& error);
  Status check(bool is_outermost) const;
  // The outputs; where asked for, also what each call returned.
  Result<Tensors> build(GraphBuilder& builder, const Tensors& inputs, const Place& place,
                        CallCounts* counts, std::vector<Tensors>* results = nullptr) const;
  Result<Tensors> build_call(GraphBuilder& builder, const Call& call, Tensors inputs,
                             const Place& place, CallCounts* counts) const;
  std::string last_layer() const;
  nlohmann::json sequential_config() const;
  nlohmann::json functional_config() const;
  nlohmann::json layer_config(const LayerInstance& layer) const;

  std::string name_;
  bool sequential_ = false;
  std::vector<Input> inputs_;
  std::vector<LayerInstance> layers_;
  std::vector<Call> calls_;  // in an order in which they can be computed
  std::vector<TensorRef> outputs_;
  std::map<std::string, int> unnamed_;  // layers without a name so far, by default name
  Status failure_;                      // the first thing that was wrong
};

}  // namespace lockstep
