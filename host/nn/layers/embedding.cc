// Embedding, masking and scaling of inputs.
#include <fmt/format.h>

#include "host/nn/layer_table.h"

namespace lockstep::layers {
namespace {

Result<SymbolicTensor> build_embedding(LayerContext& layer, const Tensors& inputs) {
  LOCKSTEP_RETURN_IF_ERROR(layer.check_inputs(inputs, 1));
  LOCKSTEP_RETURN_IF_ERROR(layer.check_positive("input_dim"));
  LOCKSTEP_RETURN_IF_ERROR(layer.check_positive("output_dim"));
  EmbeddingOp op;
  op.length = inputs[0].features();
  op.vocabulary = layer.integer("input_dim");
  op.units = layer.integer("output_dim");
  const Shape table{op.vocabulary, op.units};
  Shape output = inputs[0].shape;
  output.push_back(op.units);
  LOCKSTEP_RETURN_IF_ERROR(layer.check_size("table", table));
  LOCKSTEP_RETURN_IF_ERROR(layer.check_size("output", output));
  if (op.vocabulary > 1 << 24) {
    return layer.error("input_dim must be at most 16777216: words travel as float32");
  }
  op.offset = layer.parameter("embeddings", table);
  SymbolicTensor result = layer.op("forward", op, inputs, output);
  if (!layer.flag("mask_zero")) return result;
  ExpressionBuilder e;
  const Term counts = e.constant(1) - e.equal(e.operand(0), e.constant(0));
  const SymbolicTensor mask = layer.map("mask", e.finish({counts}), inputs);
  result.mask = mask.value;
  result.mask_shape = mask.shape;
  return result;
}

// Steps whose entries all are mask_value: they become 0 and count no more.
Result<SymbolicTensor> build_masking(LayerContext& layer, const Tensors& inputs) {
  LOCKSTEP_RETURN_IF_ERROR(layer.check_inputs(inputs, 1));
  const SymbolicTensor& x = inputs[0];
  if (x.shape.size() < 2) {
    return layer.error("expected an input of steps and features, got shape " + to_string(x.shape));
  }
  const size_t last = x.shape.size() - 1;
  ExpressionBuilder d;
  const SymbolicTensor differs = layer.map(
      "differs",
      d.finish({d.constant(1) - d.equal(d.operand(0), d.constant(layer.number("mask_value")))}),
      inputs);
  const SymbolicTensor mask =
      layer.reduce("mask", differs, {last}, LayerContext::Reduction::maximum, false);
  ExpressionBuilder e;
  SymbolicTensor result = layer.map(
      "forward", e.finish({e.select(e.operand(1), e.operand(0), e.constant(0))}), {x, mask},
      {whole_operand(0, x), {1, 0, {x.shape[last], mask.features()}}}, x.shape);
  result.mask = mask.value;
  result.mask_shape = mask.shape;
  return result;
}

Result<SymbolicTensor> build_rescaling(LayerContext& layer, const Tensors& inputs) {
  LOCKSTEP_RETURN_IF_ERROR(layer.check_inputs(inputs, 1));
  if (!layer.at("scale").is_number() || !layer.at("offset").is_number()) {
    return layer.error("scale and offset must be numbers");
  }
  ExpressionBuilder e;
  const Term y = e.operand(0) * layer.number("scale") + layer.number("offset");
  return layer.map("forward", e.finish({y}), inputs);
}

}  // namespace

// Table (input_dim, output_dim).
LayerType embedding() {
  return {"Embedding",
          "a row of a table for each whole number of its input",
          {{"input_dim", KeyKind::integer},
           {"output_dim", KeyKind::integer},
           {"embeddings_initializer", KeyKind::initializer, "RandomUniform"},
           {"embeddings_regularizer", KeyKind::regularizer, nullptr},
           {"activity_regularizer", KeyKind::regularizer, nullptr},
           {"embeddings_constraint", KeyKind::constraint, nullptr},
           {"mask_zero", KeyKind::flag, false},
           {"lora_rank", KeyKind::any, nullptr},
           {"quantization_config", KeyKind::any, nullptr}},
          build_embedding,
          Masking::build};
}

LayerType masking() {
  return {"Masking",
          "masks the steps whose entries all are one value",
          {{"mask_value", KeyKind::number, 0.0}},
          build_masking,
          Masking::build};
}

LayerType rescaling() {
  return {"Rescaling",
          "its input times a scale plus an offset",
          {{"scale", KeyKind::any}, {"offset", KeyKind::any, 0.0}},
          build_rescaling,
          Masking::pass};
}

}  // namespace lockstep::layers
