// A model's inference as an ONNX file: https://onnx.ai
//
// It is made of the graph, whose few ops are all that layers are made of, and not of the layers.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "host/core/result.h"
#include "host/graph/graph.h"

namespace lockstep {

// The bytes of the file. `graph` is a predict_graph, `weights` its flat parameters. Inputs and
// outputs are float32 tensors of any number of rows; inputs have the names that the graph has for
// them, outputs `output_names`, one each. Images are worked on with their channels first, as ONNX
// has them, and come and go with them last, as Keras does.
//
// Fails where the file would be larger than protobuf allows, and names all ops that a trained
// model's inference does not have.
Result<std::string> make_onnx_file(const Graph& graph, std::span<const float> weights,
                                   const std::string& model,
                                   const std::vector<std::string>& output_names);

}  // namespace lockstep
