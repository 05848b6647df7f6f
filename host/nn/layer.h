// What a model is made of: one class a Keras layer.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "host/core/result.h"
#include "host/graph/graph_builder.h"

namespace lockstep {

// Entries of the largest activation row and of the largest parameter: kernels count in int.
inline constexpr int64_t kLargestTensor = 2147483647;

// Whether all dimensions are positive and the product is at most kLargestTensor.
bool is_allowed_shape(const Shape& shape);

// Configuration of one layer; owns no parameters and no state. Checks of what the user asked for
// are made in `build`, with the layer's name in the message.
class Layer {
 public:
  virtual ~Layer() = default;

  // Keras' class ("Conv2D") and the start of the names that it gives ("conv2d", "conv2d_1").
  virtual std::string class_name() const = 0;
  virtual std::string default_name() const = 0;
  const std::string& name() const { return name_; }
  void set_name(std::string name) { name_ = std::move(name); }

  // The keys of Keras' get_config() that decide what the layer computes, and its name.
  virtual nlohmann::json config() const = 0;

  // Appends the layer's parameters and forward ops. The builder has begun this layer.
  virtual Result<SymbolicTensor> build(GraphBuilder& builder,
                                       const SymbolicTensor& input) const = 0;

 protected:
  explicit Layer(std::string name) : name_(std::move(name)) {}
  // "layer 'conv2d' (Conv2D): <what>".
  Error error(const std::string& what) const;

  // Checks that several layers share.
  Status check_axes(const Shape& shape, size_t axes, const std::string& remedy) const;
  Status check_size(const std::string& what, const Shape& shape) const;
  Status check_choice(const std::string& what, const std::string& value,
                      const std::vector<std::string>& known) const;
  // Appends "linear" (nothing), "relu" or "softmax".
  Result<SymbolicTensor> activate(GraphBuilder& builder, const SymbolicTensor& input,
                                  const std::string& activation) const;

 private:
  std::string name_;
};

}  // namespace lockstep
