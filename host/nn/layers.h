// Keras' layers, with Keras' names and defaults (https://keras.io/api/layers).
#pragma once

#include <cstdint>
#include <string>
#include <utility>

#include "host/nn/layer.h"

namespace lockstep {

// Keras' `3` or `(3, 5)`: height and width.
struct Size2d {
  int64_t height = 0;
  int64_t width = 0;
  Size2d(int64_t both) : height(both), width(both) {}
  Size2d(int64_t h, int64_t w) : height(h), width(w) {}
};

// Input (height, width, channels); kernel (height, width, in, out). `padding` is "valid" or "same",
// `activation` "linear", "relu" or "softmax".
class Conv2D : public Layer {
 public:
  struct Options {
    int64_t filters = 0;
    Size2d kernel_size = 0;
    Size2d strides = 1;
    std::string padding = "valid";
    std::string activation = "linear";
    bool use_bias = true;
    std::string name = "";
  };
  explicit Conv2D(Options options) : Layer(options.name), options_(std::move(options)) {}
  std::string class_name() const override { return "Conv2D"; }
  std::string default_name() const override { return "conv2d"; }
  nlohmann::json config() const override;
  Result<SymbolicTensor> build(GraphBuilder& builder, const SymbolicTensor& input) const override;

 private:
  Options options_;
};

// Input (height, width, channels). Strides of 0 stand for the pool's size (Keras' None).
class MaxPooling2D : public Layer {
 public:
  struct Options {
    Size2d pool_size = 2;
    Size2d strides = 0;
    std::string padding = "valid";
    std::string name = "";
  };
  explicit MaxPooling2D(Options options);
  std::string class_name() const override { return "MaxPooling2D"; }
  std::string default_name() const override { return "max_pooling2d"; }
  nlohmann::json config() const override;
  Result<SymbolicTensor> build(GraphBuilder& builder, const SymbolicTensor& input) const override;

 private:
  Options options_;
};

// Any shape -> one axis. Costs nothing: rows lie in C order already.
class Flatten : public Layer {
 public:
  struct Options {
    std::string name = "";
  };
  explicit Flatten(Options options) : Layer(std::move(options.name)) {}
  std::string class_name() const override { return "Flatten"; }
  std::string default_name() const override { return "flatten"; }
  nlohmann::json config() const override;
  Result<SymbolicTensor> build(GraphBuilder& builder, const SymbolicTensor& input) const override;
};

// Input of one axis; kernel (in, units).
class Dense : public Layer {
 public:
  struct Options {
    int64_t units = 0;
    std::string activation = "linear";
    bool use_bias = true;
    std::string name = "";
  };
  explicit Dense(Options options) : Layer(options.name), options_(std::move(options)) {}
  std::string class_name() const override { return "Dense"; }
  std::string default_name() const override { return "dense"; }
  nlohmann::json config() const override;
  Result<SymbolicTensor> build(GraphBuilder& builder, const SymbolicTensor& input) const override;

 private:
  Options options_;
};

// In training only; a rate of 0 leaves the layer out.
class Dropout : public Layer {
 public:
  struct Options {
    double rate = 0;
    std::string name = "";
  };
  explicit Dropout(Options options) : Layer(options.name), options_(std::move(options)) {}
  std::string class_name() const override { return "Dropout"; }
  std::string default_name() const override { return "dropout"; }
  nlohmann::json config() const override;
  Result<SymbolicTensor> build(GraphBuilder& builder, const SymbolicTensor& input) const override;

 private:
  Options options_;
};

// "linear", "relu" or "softmax" (of one axis).
class ActivationLayer : public Layer {
 public:
  struct Options {
    std::string activation;
    std::string name = "";
  };
  explicit ActivationLayer(Options options) : Layer(options.name), options_(std::move(options)) {}
  std::string class_name() const override { return "Activation"; }
  std::string default_name() const override { return "activation"; }
  nlohmann::json config() const override;
  Result<SymbolicTensor> build(GraphBuilder& builder, const SymbolicTensor& input) const override;

 private:
  Options options_;
};

}  // namespace lockstep
