// A model as a picture.
#pragma once

#include <string>

#include "host/core/result.h"
#include "host/nn/model.h"

namespace lockstep {

// An SVG file: a box for each call of a layer, with name, class and the shape of its result, in
// rows from the inputs down, and a line for each tensor. Refuses models that cannot be built.
Result<std::string> draw_model(const Model& model);

}  // namespace lockstep
