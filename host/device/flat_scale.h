// Multiplication of plain memory by one number.
#pragma once

#include <cstdint>

namespace lockstep {

// values[i] *= factor. Any thread.
void scale_values(float factor, float* values, int64_t count);

}  // namespace lockstep
