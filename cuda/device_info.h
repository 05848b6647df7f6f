// The GPUs of this machine, through the runtime API.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "host/core/result.h"

namespace lockstep {

struct GpuInfo {
  int index = 0;
  std::string name;
  int compute_major = 0, compute_minor = 0;
  int multiprocessors = 0;
  int64_t memory_bytes = 0;
};

// Empty where the machine has no GPU. Fails, naming the call, where the driver is missing, too old
// or out of order.
Result<std::vector<GpuInfo>> list_gpus();

// "GPU 0: NVIDIA H100 80GB HBM3, compute 9.0, 132 multiprocessors, 79.6 GiB"
std::string describe_gpu(const GpuInfo& gpu);

}  // namespace lockstep
