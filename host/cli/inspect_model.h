// What is in the file of a model.
#pragma once

#include <string>

#include "host/core/result.h"
#include "host/tensor/shape.h"

namespace lockstep {

struct InspectOptions {
  Shape rows;            // of each input, where the model leaves it open; (): not said
  bool program = false;  // the ops of a step of `batch_size` rows, and their memory
  int64_t batch_size = 32;
  std::string drawing;  // SVG file to write; "": none
};

// Prints the table, what it was compiled with, and the hash of the weights.
Status inspect_model(const std::string& path, const InspectOptions& options);

}  // namespace lockstep
