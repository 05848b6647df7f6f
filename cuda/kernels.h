// Elementwise kernels: the formulas of host/device/ops.h with the roundings of host/cpu/pins.h.
// Built without FMA contraction: an FMA is where the source says fmaf, nowhere else.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <span>

#include "host/core/result.h"
#include "host/device/ops.h"

namespace lockstep {

// All pointers are to memory of the current device. The calls return once the kernel is launched;
// what fails later is the stream's to report.

// out[i] = a[i] + b[i]; out may be a.
Status launch_add(const float* a, const float* b, float* out, int64_t count, cudaStream_t stream);

// One optimizer step over `count` parameters. Slots: Adam m, v; SGD its momentum, or none where the
// momentum is 0.
Status launch_update(const UpdateDesc& desc, const float* gradient, float* weights,
                     std::span<float* const> slots, int64_t count, cudaStream_t stream);

}  // namespace lockstep
