// Weights in the safetensors format: an 8-byte length, a JSON header, then the tensors' bytes.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "host/core/result.h"
#include "host/graph/graph.h"

namespace lockstep {

// The file's bytes for the flat `weights` (float32, in the order of `parameters`), a tensor named
// "layer/name" each.
std::string to_safetensors(const std::vector<Parameter>& parameters, const std::string& weights,
                           const std::map<std::string, std::string>& metadata);

// The flat weights for `parameters` from a file. Errors name the file, the tensor, and both shapes.
Result<std::vector<float>> read_safetensors(const std::string& path,
                                            const std::vector<Parameter>& parameters);

}  // namespace lockstep
