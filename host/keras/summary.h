// A model as a table: layers, shapes of their results, numbers of their weights.
#pragma once

#include <string>

#include "host/core/result.h"
#include "host/nn/model.h"

namespace lockstep {

// As Keras' model.summary() has it. Refuses models that cannot be built.
Result<std::string> model_summary(const Model& model);

}  // namespace lockstep
