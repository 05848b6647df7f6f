// Shapes without the batch dimension, in Keras' order (height, width, channels).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace lockstep {

using Shape = std::vector<int64_t>;

// Product of the dimensions; 1 for a scalar.
int64_t element_count(const Shape& shape);
// As Keras prints it: "(28, 28, 1)".
std::string to_string(const Shape& shape);

}  // namespace lockstep
