// Embedding and scaling of inputs.
#include <fmt/format.h>

#include "host/nn/layer_table.h"

namespace lockstep::layers {
namespace {

Result<SymbolicTensor> build_embedding(LayerContext& layer, const Tensors& inputs) {
  LOCKSTEP_RETURN_IF_ERROR(layer.check_inputs(inputs, 1));
  LOCKSTEP_RETURN_IF_ERROR(layer.check_positive("input_dim"));
  LOCKSTEP_RETURN_IF_ERROR(layer.check_positive("output_dim"));
  if (layer.flag("mask_zero")) {
    return layer.error("mask_zero is not supported yet: masks come with recurrent layers");
  }
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
  return layer.op("forward", op, inputs, output);
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
          build_embedding};
}

LayerType rescaling() {
  return {"Rescaling",
          "its input times a scale plus an offset",
          {{"scale", KeyKind::any}, {"offset", KeyKind::any, 0.0}},
          build_rescaling};
}

}  // namespace lockstep::layers
