// SpectralNormalization: a layer whose kernel is divided by its largest singular value in training.
//
// Keras' backends differ in what becomes of the kernel then: with JAX it stays as it is, and its
// gradient goes through the division; TensorFlow and PyTorch overwrite it in every step. Here it is
// as with JAX: the division is a part of the step's function.
#include <fmt/format.h>

#include <algorithm>

#include "host/nn/layer_table.h"
#include "host/nn/layers/norms.h"
#include "host/nn/layers/wrapper.h"

namespace lockstep::layers {
namespace {

constexpr int64_t kMostIterations = 100;  // each is ops of the graph

// What the layer by itself would have: the kernel first.
Result<std::vector<Parameter>> parameters_of(const LayerContext& layer, const InnerLayer& inner,
                                             const SymbolicTensor& x) {
  GraphBuilder apart(GraphMode::inference);
  apart.begin_layer(layer.name(), 0, 0);
  LayerContext alone(apart, {layer.name(), inner.type.class_name, &inner.config});
  LOCKSTEP_ASSIGN(const SymbolicTensor y,
                  inner.type.build(alone, {apart.add_input("input", x.shape)}));
  return apart.finish({y}).parameters;
}

int64_t add_kernel(LayerContext& layer, const Parameter& kernel) {
  ParameterSpec spec;
  spec.name = kernel.name;
  spec.shape = kernel.shape;
  spec.initializer = kernel.initializer;
  spec.regularizer = kernel.regularizer;
  spec.constraint = kernel.constraint;
  spec.fan_in = kernel.fan_in;
  spec.fan_out = kernel.fan_out;
  return layer.parameter(std::move(spec));
}

int64_t add_vector_u(LayerContext& layer, int64_t columns) {
  ParameterSpec spec;
  spec.name = "vector_u";
  spec.shape = {1, columns};
  spec.initializer = {{"class_name", "TruncatedNormal"},
                      {"config", {{"mean", 0.0}, {"stddev", 0.02}, {"seed", nullptr}}}};
  spec.role = ParameterRole::moving_average;  // of what is the same in each row
  return layer.parameter(std::move(spec));
}

SymbolicTensor stopped_unit(LayerContext& layer, const SymbolicTensor& x) {
  const SymbolicTensor unit = normalize_along(layer, x, {0}, kEpsilon);
  layer.builder().stop_gradient(unit);
  return unit;
}

// x / sigma, which a kernel makes of x what the kernel / sigma makes of x: kernels are linear.
// W is the kernel as a matrix, its last axis the columns; v = unit(u W^T), u = unit(v W), as often
// as power_iterations says; sigma = v W u^T, with u and v constant to gradients. A kernel of zeros
// stays, as does u.
SymbolicTensor divided(LayerContext& layer, const SymbolicTensor& x, int64_t kernel,
                       const Shape& kernel_shape, int64_t vector_u) {
  DenseOp times_kernel;
  times_kernel.out_features = kernel_shape.back();
  times_kernel.in_features = element_count(kernel_shape) / kernel_shape.back();
  times_kernel.kernel_offset = kernel;
  DenseOp transposed = times_kernel;
  transposed.pass = Pass::data_gradient;
  const Shape rows = {times_kernel.in_features}, columns = {times_kernel.out_features};
  const MapOperand old_u = parameter_operand(vector_u, {1, columns[0]});
  ExpressionBuilder o;
  SymbolicTensor u = layer.map("old_u", o.finish({o.operand(0)}), {}, {old_u}, columns);
  SymbolicTensor product;
  for (int64_t i = 0; i < layer.integer("power_iterations"); ++i) {
    const SymbolicTensor v = stopped_unit(layer, layer.op("v", transposed, {u}, rows));
    product = layer.op("u", times_kernel, {v}, columns);
    u = stopped_unit(layer, product);
  }
  ExpressionBuilder p;
  const SymbolicTensor products =
      layer.map("products", p.finish({p.operand(0) * p.operand(1)}), {product, u});
  const SymbolicTensor sigma =
      layer.reduce("sigma", products, {0}, LayerContext::Reduction::sum, true);
  const MapOperand whole_sigma = {1, 0, {1, 1}};
  ExpressionBuilder n;
  layer.builder().add_average(
      vector_u, layer.map("new_u", n.finish({n.select(n.operand(1), n.operand(0), n.operand(2))}),
                          {u, sigma}, {whole_operand(0, u), whole_sigma, old_u}, columns));
  ExpressionBuilder d;
  const Term divisor = d.select(d.operand(1), d.operand(1), d.constant(1));
  return layer.map("divided", d.finish({d.operand(0) / divisor}), {x, sigma},
                   {whole_operand(0, x), whole_sigma}, x.shape);
}

Result<SymbolicTensor> build(LayerContext& layer, const Tensors& inputs) {
  LOCKSTEP_RETURN_IF_ERROR(layer.check_inputs(inputs, 1));
  LOCKSTEP_RETURN_IF_ERROR(layer.check_positive("power_iterations"));
  if (layer.integer("power_iterations") > kMostIterations) {
    return layer.error(fmt::format("power_iterations is {}, and at most {} are computed here",
                                   layer.integer("power_iterations"), kMostIterations));
  }
  LOCKSTEP_ASSIGN(const InnerLayer inner, inner_layer(layer));
  const std::string& class_name = inner.type.class_name;
  if (class_name == "Embedding") {
    return layer.error(
        "around an Embedding it is not supported: Keras makes its output of the indices' type");
  }
  LOCKSTEP_ASSIGN(const std::vector<Parameter> parameters, parameters_of(layer, inner, inputs[0]));
  if (inner.config.contains("layer") || parameters.empty() || parameters[0].name != "kernel") {
    return layer.error(fmt::format(
        "{} has no kernel to normalize: put it around Dense, EinsumDense or a convolution",
        class_name));
  }
  const bool trainable = layer.trainable() && inner.trainable;
  if (layer.training() && !trainable) {
    return layer.error(
        "is frozen, and Keras goes on to change it in training: call it with training=False, or "
        "leave it trainable");
  }
  if (layer.training() && layer.call_number() > 0) {
    return layer.error(
        "is called more than once in training: its vector_u would depend on the order; use two "
        "layers");
  }
  // Its layer finds the kernel that is there.
  LayerContext wrapped =
      layer.wrapped(class_name, inner.config, inner.trainable, layer.call_number() + 1);
  const int64_t kernel = add_kernel(wrapped, parameters[0]);
  const int64_t vector_u = add_vector_u(wrapped, parameters[0].shape.back());
  const SymbolicTensor x = layer.training()
                               ? divided(layer, inputs[0], kernel, parameters[0].shape, vector_u)
                               : inputs[0];
  return call_layer(inner.type, wrapped, {x});
}

}  // namespace

LayerType spectral_normalization() {
  return {
      "SpectralNormalization",
      "a layer whose kernel counts divided by its largest singular value in training; the kernel "
      "itself stays, as in Keras with JAX",
      {{"layer", KeyKind::any}, {"power_iterations", KeyKind::integer, 1}},
      build,
      Masking::pass};
}

}  // namespace lockstep::layers
