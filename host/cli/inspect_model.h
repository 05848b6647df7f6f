// What `inspect` says of a model's file.
#pragma once

#include <string>

#include "host/core/result.h"
#include "host/tensor/shape.h"

namespace lockstep {

// Prints its summary, and what it was compiled with. `rows`: the shape of its inputs' rows, for
// dimensions that it leaves open; empty where it leaves none.
Status inspect_model(const std::string& path, const Shape& rows);

}  // namespace lockstep
