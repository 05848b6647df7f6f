#include "host/device/flat_scale.h"

namespace lockstep {

void scale_values(float factor, float* values, int64_t count) {
  for (int64_t i = 0; i < count; ++i) values[i] *= factor;
}

}  // namespace lockstep
